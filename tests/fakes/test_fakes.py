"""The fakes must be worth believing: what they print and answer, and that the knobs turn."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from objectives.errors import ServerDiedError
from objectives.servers.http_get import http_json, http_ready, http_text
from objectives.servers.ports import Port
from objectives.servers.server import Launch, serve

FAKES = Path(__file__).resolve().parent
GIB = 1 << 30


@pytest.fixture
def fake(tmp_path):
    """A function: a fake, served, with options and knobs."""

    @contextmanager
    def served(name, *options, **knobs):
        with Port() as port:
            launch = Launch(
                name=name,
                argv=(
                    sys.executable,
                    str(FAKES / f"fake_{name}.py"),
                    *("--port", str(port.number), *map(str, options)),
                ),
                env={key: str(value) for key, value in knobs.items()},
                log=tmp_path / f"{name}.log",
            )
            with serve(launch, url=port.url, ready=http_ready(port.url), ready_s=20) as server:
                yield server

    return served


def post(url, body, *, key=None, kind="application/json"):
    headers = {"Content-Type": kind} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(url, data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.headers, answer.read().decode()


def refused(fake, *options, **knobs):
    with pytest.raises(ServerDiedError) as died, fake("vllm", *options, **knobs):
        pass
    assert died.value.returncode == 1
    return died.value.log.read_text()


def test_the_cache_that_production_logged(fake):
    """0.50 of an RTX 3060 with a 7B AWQ model: 6,976 tokens, 3.41x for 2048 tokens."""
    with fake("vllm", "--gpu-memory-utilization", 0.5) as server:
        log = server.log.read_text()
        assert "Available KV cache memory: 0.37 GiB" in log
        assert "GPU KV cache size: 6,976 tokens" in log
        assert "Maximum concurrency for 2,048 tokens per request: 3.41x" in log
        assert 'num_gpu_blocks="436"' in http_text(f"{server.url}/metrics")


def test_the_start_that_production_refused(fake):
    log = refused(fake, "--gpu-memory-utilization", 0.4)
    assert "No available memory for the cache blocks" in log


def test_a_length_that_does_not_fit_is_refused_with_the_length_that_would(fake):
    log = refused(fake, "--gpu_memory_utilization=0.5", "--max-model-len", 8192)
    assert "the estimated maximum model length is 6976" in log


def test_what_others_took_of_the_fake_device_is_not_free(fake, tmp_path):
    knobs = {"FAKE_LEDGER": tmp_path / "ledger", "FAKE_WHISPER_MODEL_BYTES": 6 * GIB}
    with fake("whisper", "--model", "small", "--device", "cuda:0", **knobs):
        log = refused(fake, "--gpu-memory-utilization", 0.6, **knobs)
        assert "Free memory on device (5.63/11.63 GiB) on startup is less than desired" in log
    with fake("vllm", "--gpu-memory-utilization", 0.6, **knobs):
        pass


@pytest.mark.parametrize("style", ["cpu-0.32", "gpu-0.32", "gpu-0.11"])
@pytest.mark.parametrize(
    ("cause", "words"),
    [
        ("kv_cache_too_small", "is larger than the available KV cache memory"),
        ("gpu_memory_insufficient_at_start", "on startup is less than desired"),
        ("memory_profiling_race", "Error in memory profiling"),
        ("cuda_oom_load", "in create_weights"),
        ("cuda_oom_profile", "in _dummy_sampler_run"),
        ("cuda_oom_cudagraph", "in _capture_cudagraphs"),
        ("unsupported_gpu", "no kernel image"),
    ],
)
def test_each_refusal_is_worded_as_vllm_words_it(style, cause, words):
    env = {"FAKE_STYLE": style, "FAKE_REFUSE": cause}
    argv = (sys.executable, FAKES / "fake_vllm.py")
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert words.replace("in _dummy_sampler_run", "_dummy_sampler_run") in done.stdout
    assert "Engine core initialization failed" in done.stdout


def test_a_stream_has_a_piece_for_each_token_and_then_the_usage(fake):
    with fake("vllm", "--served-model-name", "llm", VLLM_API_KEY="k") as server:
        asked = {"model": "llm", "prompt": [1, 2, 3], "max_tokens": 4, "stream": True}
        asked["stream_options"] = {"include_usage": True}
        _, text = post(f"{server.url}/v1/completions", json.dumps(asked).encode(), key="k")
        *pieces, last = [line[6:] for line in text.splitlines() if line]
        pieces = [json.loads(piece) for piece in pieces]
        assert last == "[DONE]"
        assert [len(piece["choices"]) for piece in pieces] == [1, 1, 1, 1, 0]
        assert pieces[-1]["usage"]["completion_tokens"] == 4
        assert 'vllm:generation_tokens_total{engine="0",model_name="llm"} 4.0' in http_text(
            f"{server.url}/metrics"
        )


@pytest.mark.parametrize("name", ["vllm", "whisper"])
def test_without_the_key_it_answers_401_but_its_health_is_open(fake, name):
    knobs = {"VLLM_API_KEY": "k", "WHISPER_API_KEY": "k"}
    with fake(name, "--model", "tiny", **knobs) as server:
        assert http_json(f"{server.url}/v1/models", api_key="k")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            http_json(f"{server.url}/v1/models")


def test_out_of_memory_under_load_ends_vllm_and_says_where(fake):
    with fake("vllm", "--model", "m", FAKE_OOM_AFTER_REQUESTS=1) as server:
        asked = json.dumps({"model": "m", "prompt": [1], "max_tokens": 1}).encode()
        post(f"{server.url}/v1/completions", asked)
        with pytest.raises(urllib.error.HTTPError, match="500"):
            post(f"{server.url}/v1/completions", asked)
        with pytest.raises(ServerDiedError, match="exited with 1"):
            while True:
                server.check()
    log = server.log.read_text()
    assert "EngineCore encountered a fatal error" in log
    assert "in execute_model" in log
    assert "CUDA out of memory" in log


def test_the_first_start_finds_the_port_in_use_and_the_second_does_not(fake, tmp_path):
    knobs = {"FAKE_PORT_IN_USE_ONCE": tmp_path / "was"}
    assert "Address already in use" in refused(fake, **knobs)
    with fake("vllm", **knobs):
        pass


def test_whisper_says_where_it_computes_even_if_that_is_not_where_it_was_told_to(fake):
    options = ("--model", "small", "--device", "cuda:0", "--dtype", "float16")
    with fake("whisper", *options) as server:
        assert http_json(f"{server.url}/health")["compute_device"] == "cuda:0"
    with fake("whisper", *options, FAKE_WRONG_DEVICE=1) as server:
        facts = http_json(f"{server.url}/health")
        assert (facts["device"], facts["compute_device"]) == ("cuda:0", "cpu")


def test_a_form_with_a_file_is_transcribed_and_timed(fake):
    form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n--x\r\n'
    form += b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    form += bytes(64_000) + b"\r\n--x--\r\n"
    with fake("whisper", "--model", "/models/tiny.pt", "--fixed-tokens", 5) as server:
        url = f"{server.url}/v1/audio/transcriptions"
        headers, text = post(url, form, kind="multipart/form-data; boundary=x")
        assert json.loads(text)["duration"] == 2.0
        assert json.loads(text)["usage"]["output_tokens"] == 5
        assert headers["Server-Timing"].startswith("queue;dur=")


def test_whisper_out_of_memory_is_a_507(fake):
    with fake("whisper", "--model", "tiny", FAKE_OOM_AFTER_REQUESTS=0) as server:
        with pytest.raises(urllib.error.HTTPError, match="507"):
            post(f"{server.url}/v1/audio/transcriptions", b"RIFF", kind="audio/wav")
        assert http_json(f"{server.url}/health")["oom_events"] == 1


def test_a_fake_engine_passes_for_an_interpreter(tmp_path):
    sys.path.insert(0, str(FAKES))
    from engine import write_engine

    program = write_engine(tmp_path / "engine", knobs={"FAKE_REFUSE": "cuda_init"}, cuda=True)
    root = FAKES.parents[1]

    def ask(*words):
        return subprocess.run(
            (program, *words), capture_output=True, text=True, check=False, env=dict(os.environ)
        )

    facts = json.loads(ask(root / "objectives" / "engine_probe.py").stdout)
    assert facts["versions"]["vllm"] == "0.11.0"
    assert "cudaGetDeviceCount" in ask("-m", "vllm.entrypoints.openai.api_server").stdout
    whisper = ask(root / "objectives" / "whisper_worker.py", "--model", "tiny", "--port", "1")
    assert "no CUDA device" in whisper.stderr
    assert ask("-c", "print(6 * 7)").stdout == "42\n"
