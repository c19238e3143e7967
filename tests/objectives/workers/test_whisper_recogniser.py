"""Where and in which type Whisper computes is proved by its features, and nothing falls back."""

import pickle
import subprocess

import pytest

from objectives import workers
from tests.objectives.engine_at_hand import real_engine
from tests.objectives.workers.whisper_process import clip, make_checkpoint, speech

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module")
def engine():
    return real_engine()


@pytest.fixture(scope="module")
def checkpoint(engine, tmp_path_factory):
    return make_checkpoint(engine, tmp_path_factory.mktemp("weights") / "small.pt")


@pytest.mark.parametrize(
    ("options", "types"),
    [
        ((), ("float32", ["float32"])),  # by the device
        (("--dtype", "float32"), ("float32", ["float32"])),
        (("--dtype", "float16"), ("float16", ["float32"])),  # cast at every call
        (("--dtype", "float16", "--fp16-weights"), ("float16", ["float16", "float32"])),
        (("--dtype", "bfloat16"), ("bfloat16", ["bfloat16", "float32"])),  # norms stay float32
    ],
)
def test_health_tells_what_was_asked_for_and_what_was_computed(
    engine, checkpoint, tmp_path, options, types
):
    fixed = ("--model", str(checkpoint), "--device", "cpu", "--fixed-tokens", "4")
    with speech(engine, tmp_path / "log", *fixed, *options) as running:
        assert running.transcribe(clip(2)).body["usage"]["output_tokens"] == 4
        health = running.get("/health").body
    assert (health["device"], health["dtype"]) == ("cpu", types[0])
    assert (health["compute_device"], health["compute_dtype"]) == ("cpu", types[0])
    assert health["parameter_devices"] == ["cpu"]
    assert health["parameter_dtypes"] == types[1]
    assert health["pid"] == running.process.pid
    assert health["weights_bytes"] == checkpoint.stat().st_size
    assert health["served"] == 1 and health["oom_events"] == 0
    assert health["torch_version"] == engine.torch_version
    assert health["whisper_version"] == engine.whisper_version


def test_a_gpu_that_is_not_there_is_no_reason_to_take_the_cpu(engine, checkpoint, tmp_path):
    options = ("--model", str(checkpoint), "--device", "cuda:0")
    with speech(engine, tmp_path / "log", *options, ready=False) as running:
        code, said = running.end()
    assert code == 1
    assert "cuda:0 was asked for" in said and "no silent fallback" in said
    assert "Traceback" not in said


GPUS = """
import argparse, sys, warnings
sys.path.append(sys.argv[1])
import torch, whisper_recogniser as speech
for capability in ((6, 1), (7, 0), (8, 6)):
    torch.cuda.get_device_capability = lambda _device: capability
    print(speech.default_dtype(torch.device("cuda:0")))
def is_available():
    warnings.warn("CUDA initialization: the driver is too old (found version 12040)")
    return False
torch.cuda.is_available = is_available
speech.choose_device("cuda", allow_fallback=False)
"""


def test_on_a_gpu_the_type_goes_by_its_capability_and_why_there_is_none_is_said(engine):
    folder = str(workers.WHISPER_WORKER.parent)
    argv = [str(engine.interpreter), "-c", GPUS, folder]
    env = engine.environment("cpu", offline=True)
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["float32", "float16", "float16"]
    assert done.returncode == 1
    assert "sees no CUDA device: CUDA initialization: the driver is too old" in done.stderr
    assert "no silent fallback" in done.stderr


def test_an_allowed_fallback_is_seen_in_its_health(engine, checkpoint, tmp_path):
    options = ("--model", str(checkpoint), "--device", "cuda", "--allow-fallback")
    with speech(engine, tmp_path / "log", *options, "--fixed-tokens", "2") as running:
        health = running.get("/health").body
    assert (health["device"], health["compute_device"]) == ("cuda", "cpu")


@pytest.mark.parametrize("beams", ["0", "3"])
def test_every_window_has_exactly_the_fixed_tokens(engine, checkpoint, tmp_path, beams):
    options = ("--model", str(checkpoint), "--device", "cpu", "--fixed-tokens", "7")
    with speech(engine, tmp_path / "log", *options, "--beam-size", beams) as running:
        for length_s in (0.5, 5, 31):
            used = running.transcribe(clip(length_s)).body["usage"]
            assert used["output_tokens"] == 7 * (1 + int(length_s > 30))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_without_fixed_tokens_openai_whispers_own_transcription_runs(
    engine, checkpoint, tmp_path, dtype
):
    options = ("--model", str(checkpoint), "--device", "cpu", "--dtype", dtype)
    with speech(engine, tmp_path / "log", *options) as running:
        answer = running.transcribe(clip(3), response_format="verbose_json")
        health = running.get("/health").body
    assert answer.status == 200
    assert answer.body["language"] == "en"
    assert health["compute_dtype"] == dtype


def test_a_file_that_would_run_code_is_refused(engine, tmp_path):
    trace = tmp_path / "it-ran"
    evil = tmp_path / "evil.pt"
    evil.write_bytes(pickle.dumps(Malice(str(trace))))
    options = ("--model", str(evil), "--device", "cpu")
    with speech(engine, tmp_path / "log", *options, ready=False) as running:
        code, said = running.end()
    assert code == 1
    assert "is no Whisper checkpoint" in said
    assert not trace.exists()


class Malice:
    """Writes a file when it is unpickled."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self):
        return open, (self.trace, "w")


def test_a_model_that_is_not_there_is_one_line(engine, tmp_path):
    options = ("--model", "huge", "--device", "cpu")
    with speech(engine, tmp_path / "log", *options, ready=False) as running:
        code, said = running.end()
    assert code == 1
    assert "model 'huge' is neither a file nor one of" in said
    assert "Traceback" not in said
