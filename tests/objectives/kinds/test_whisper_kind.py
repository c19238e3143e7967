"""Whisper: its command line, its own word about itself, and its memory."""

import json
from dataclasses import replace

import pytest

from objectives.candidate import ServerSettings
from objectives.device.cpu import CpuNode
from objectives.errors import BenchError, WrongDeviceError
from objectives.evidence import PredictedMemory
from objectives.kinds.kind import Proof
from objectives.kinds.whisper_kind import WhisperMemory
from objectives.load.exchange import Target
from objectives.memory.calibration import Calibration
from objectives.memory.estimate import NOTHING
from objectives.units import GIB
from tests.fakes.fake_nvml import FakeGpu
from tests.kinds import WHISPER
from tests.objectives.kinds.test_forecast import CARD, at
from tests.objectives.kinds.test_kind import Answering, gpu_of, launched, up_at

GPU = FakeGpu()


@pytest.fixture(autouse=True)
def _in_a_folder_without_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def gpu():
    with gpu_of(GPU) as device:
        yield device


def settings(device="cpu", *, model="tiny", **args):
    return ServerSettings(
        model=model,
        device=device,
        args={name.replace("_", "-"): value for name, value in args.items()},
    )


class TestItsCommandLine:
    def test_is_the_engine_the_model_the_place_and_the_settings(self, tmp_path):
        launch = launched(WHISPER, tmp_path)
        assert launch.argv[0] == "/engines/small/bin/python"
        assert launch.argv[1].endswith("/whisper_worker.py")
        assert launch.argv[2:] == (
            *("--model", "tiny", "--device", "cpu"),
            *("--host", "127.0.0.1", "--port", "8123", "--api-key-env", "WHISPER_API_KEY"),
            *("--dtype", "float32"),
        )
        assert (launch.name, launch.log) == ("whisper", tmp_path / "server.log")

    def test_leaves_out_a_switch_that_is_off(self, tmp_path):
        given = settings(warm=True, quiet=False, dtype=None)
        assert launched(WHISPER, tmp_path, given).argv[-2:] == ("WHISPER_API_KEY", "--warm")

    def test_names_a_model_with_files_by_their_path(self, tmp_path):
        kind = replace(WHISPER, paths={"tiny": "/models/tiny", "base": "/models/base"})
        assert launched(kind, tmp_path).argv[2:4] == ("--model", "/models/tiny")
        other = settings(model="small")
        assert launched(kind, tmp_path, other).argv[2:4] == ("--model", "small")

    @pytest.mark.parametrize(("fixed", "words"), [(12, ("--fixed-tokens", "12")), (None, ())])
    def test_fixes_the_length_of_transcripts_where_the_load_does(self, tmp_path, fixed, words):
        argv = launched(replace(WHISPER, fixed_tokens=fixed), tmp_path).argv
        assert argv[argv.index("WHISPER_API_KEY") + 1 :] == (*words, "--dtype", "float32")

    @pytest.mark.parametrize("is_here", [True, False])
    def test_only_a_model_that_is_here_is_served_offline(self, tmp_path, monkeypatch, is_here):
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        path = tmp_path / "tiny.pt"
        if is_here:
            path.touch()
        env = launched(replace(WHISPER, paths={"tiny": str(path)}), tmp_path).env
        assert ("HF_HUB_OFFLINE" in env, "HF_TOKEN" in env) == (is_here, not is_here)


class TestItsPlace:
    def test_on_the_studys_gpu_it_sees_that_one_as_its_first(self, tmp_path, gpu):
        launch = launched(WHISPER, tmp_path, settings("cuda:7"), device=gpu)
        assert launch.argv[4:6] == ("--device", "cuda:0")
        assert launch.env["CUDA_VISIBLE_DEVICES"] == "0"
        assert launch.env["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
        assert "OMP_WAIT_POLICY" not in launch.env

    def test_on_the_cpu_beside_a_gpu_it_sees_none(self, tmp_path, gpu):
        launch = launched(WHISPER, tmp_path, settings("cpu"), device=gpu)
        assert launch.argv[4:6] == ("--device", "cpu")
        assert launch.env["CUDA_VISIBLE_DEVICES"] == ""
        assert launch.env["OMP_WAIT_POLICY"] == "PASSIVE"
        assert "PYTORCH_CUDA_ALLOC_CONF" not in launch.env

    @pytest.mark.parametrize(
        ("place", "asked", "words"),
        [
            ("cpu", "float16", ["--dtype", "float32"]),
            ("cpu", "bfloat16", ["--dtype", "bfloat16"]),
            ("cpu", None, []),
            ("cuda", "float16", ["--dtype", "float16"]),
            ("cuda", None, []),  # the worker sees the device, and chooses
        ],
    )
    def test_a_type_for_gpus_does_not_go_to_the_cpu(self, tmp_path, gpu, place, asked, words):
        launch = launched(WHISPER, tmp_path, settings(place, dtype=asked), device=gpu)
        argv = list(launch.argv)
        assert argv[argv.index("WHISPER_API_KEY") + 1 :] == words

    def test_without_a_gpu_it_is_the_cpu_whatever_was_asked(self, tmp_path):
        launch = launched(WHISPER, tmp_path, settings("cuda:0"))
        assert launch.argv[4:6] == ("--device", "cpu")
        assert launch.env["CUDA_VISIBLE_DEVICES"] == ""

    @pytest.mark.parametrize(
        ("asked", "on_gpu", "kind"),
        [
            ("cuda:0", True, "cuda"),
            (GPU.uuid, True, "cuda"),
            ("cpu", True, "cpu"),
            ("cuda:0", False, "cpu"),
            ("cpu", False, "cpu"),
        ],
    )
    def test_is_on_a_device_of_the_studys_kind_or_on_the_cpu(self, gpu, asked, on_gpu, kind):
        device = gpu if on_gpu else CpuNode()
        assert WHISPER.device_kind(settings(asked), device) == kind


def test_clips_go_to_it_by_its_models_name_and_with_its_key(tmp_path):
    assert WHISPER.role == "stt"
    target = WHISPER.target(settings(model="base"), up_at("http://127.0.0.1:8123", tmp_path))
    assert target == Target(url="http://127.0.0.1:8123", model="base", api_key="k3y")
    assert target.pages_every_s is None, "it has no metrics page"


class TestItsOwnWord:
    @pytest.fixture
    def prove(self, tmp_path, gpu):
        """A Whisper that says `body` of itself, asked to be on `device`."""

        def prove(body, device="cuda:0", *, status=200, name="whisper"):
            said = body if isinstance(body, str) else json.dumps(body)
            kind = replace(WHISPER, name=name)
            with Answering(said, status=status) as server:
                proof = kind.prove(settings(device), gpu, up_at(server.url, tmp_path))
            assert server.asked == [("/health", "Bearer k3y")]
            return proof

        return prove

    @pytest.mark.parametrize("device", ["cuda:0", "cpu"])
    def test_is_kept_where_it_computes_as_it_was_asked_to(self, prove, device):
        health = {"compute_device": device, "parameters_bytes": 7, "uuid": GPU.uuid.upper()}
        proof = prove(health, device)
        assert proof == Proof(health=health, said=proof.said)
        assert ("torch's UUID" in proof.said) == (device != "cpu")
        assert proof.said

    def test_on_another_gpu_is_the_benchs_fault_and_names_both(self, prove):
        health = {"compute_device": "cuda:0", "uuid": "GPU-2", "device_name": "NVIDIA T4"}
        proof = prove(health, name="ears")
        assert type(proof.failure) is BenchError
        assert str(proof.failure).startswith("ears computes on NVIDIA T4 (GPU-2), not on NVIDIA")
        assert GPU.uuid in str(proof.failure)
        assert (proof.health, proof.said) == (health, "")

    def test_without_a_uuid_is_for_the_driver_to_prove(self, prove):
        proof = prove({"compute_device": "cuda:0", "parameters_bytes": GIB, "uuid": None})
        (doubt,) = proof.doubts
        assert doubt.startswith("the driver does not list whisper among the device's processes")
        assert proof.health, "what it says is known all the same"

    @pytest.mark.parametrize(
        ("held", "excess"),
        [
            ({"parameters_bytes": 3 * GIB}, {"placement_gib": 3.0}),
            ({"parameters_bytes": GIB // 4}, {"placement_gib": 0.25}),
            ({"parameters_bytes": 0}, {}),
            ({"parameters_bytes": "many"}, {}),
            ({}, {}),
        ],
    )
    def test_grades_a_fallback_by_what_is_not_where_it_belongs(self, prove, held, excess):
        health = {"compute_device": "cpu", "compute_dtype": "float32", **held}
        proof = prove(health, name="ears")
        assert proof.health == health, "what it says of itself is known all the same"
        error = proof.failure
        assert type(error) is WrongDeviceError
        assert error.cause == "cpu_fallback"
        assert error.evidence == "ears computes on cpu (float32), not on cuda"
        assert error.excess == excess
        assert error.remedy
        assert not error.predicted

    @pytest.mark.parametrize(
        ("health", "device", "said"),
        [
            (["ok"], "cuda", "ears's /health says \"['ok']\", not what it computes on"),
            (17, "cuda", "ears's /health says '17', not what it computes on"),
            (None, "cuda", "ears's /health says 'None', not what it computes on"),
            (["x" * 500], "cuda", f'says "[\'{"x" * 78}", not what'),
            ({}, "cuda", "ears says that it computes on '', asked was cuda"),
            ({"compute_device": None}, "cuda", "says that it computes on '', asked was cuda"),
            ({"compute_device": "mps"}, "cuda", "computes on 'mps', asked was cuda"),
            ({"compute_device": ["cpu"]}, "cuda", "asked was cuda"),
            ({"compute_device": "cuda:0"}, "cpu", "computes on 'cuda:0', asked was cpu"),
        ],
    )
    def test_is_the_benchs_fault_if_it_says_anything_else(self, prove, health, device, said):
        proof = prove(health, device, name="ears")
        assert type(proof.failure) is BenchError
        assert said in str(proof.failure)
        assert proof.health == (health if isinstance(health, dict) else {})

    @pytest.mark.parametrize(
        ("body", "status"), [("ok", 200), ("", 200), ('{"compute_device"', 200), ("{}", 503)]
    )
    def test_is_the_benchs_fault_if_it_is_no_json_or_a_refusal(self, prove, body, status):
        proof = prove(body, status=status, name="ears")
        assert type(proof.failure) is BenchError
        assert str(proof.failure).startswith("ears's /health ")
        assert proof.health == {}

    def test_is_the_benchs_fault_if_nobody_listens(self, tmp_path, gpu):
        proof = WHISPER.prove(settings(), gpu, up_at("http://127.0.0.1:1", tmp_path))
        assert type(proof.failure) is BenchError
        assert "refused" in str(proof.failure)


def test_that_the_cpu_computed_in_another_type_than_asked_is_a_doubt(tmp_path, gpu):
    told = json.dumps({"compute_device": "cpu", "compute_dtype": "float32"})
    for asked, doubted in (("float16", True), ("float32", False), (None, False)):
        with Answering(told) as server:
            proof = WHISPER.prove(settings("cpu", dtype=asked), gpu, up_at(server.url, tmp_path))
        assert (proof.failure, bool(proof.doubts)) == (None, doubted)
        assert all("on the CPU it computed in float32" in doubt for doubt in proof.doubts)


def forecast(device="cuda:0", *, moment=None, beside=NOTHING, **given):
    moment = replace(moment or at(CARD), beside=beside)
    return WhisperMemory().forecast(settings(device, **given), moment)


class TestItsMemory:
    def test_is_estimated_by_its_size_and_has_no_check_of_its_own(self):
        small, tiny = forecast(model="small"), forecast(model="tiny")
        assert small.held.value_bytes > tiny.held.value_bytes > 0
        assert small.held.source == "estimated"
        assert (small.start, small.max_num_seqs, small.doubts) == (None, None, ())
        kept = PredictedMemory(held_bytes=small.held.value_bytes, held_source="estimated")
        assert small.stored() == kept

    def test_on_the_cpu_is_nothing_of_a_gpu_and_its_peak_teaches_nothing(self):
        elsewhere = forecast("cpu")
        assert (elsewhere.held, elsewhere.doubts) == (None, ())
        assert elsewhere.stored() == PredictedMemory()
        known = Calibration()
        assert elsewhere.learn_peak(known, 3 * GIB) is known

    @pytest.mark.parametrize("device", ["cpu", "cuda:0"])
    def test_on_a_bench_without_a_gpu_is_of_the_node(self, device):
        held = forecast(device, moment=at(kind="cpu", uuid="node")).held
        assert held.value_bytes > 0

    def test_the_peak_that_was_seen_stands_before_the_estimate(self):
        first = forecast(model="small")
        known = first.learn_peak(Calibration(), 3 * GIB)
        again = forecast(model="small", moment=at(calibration=known))
        assert (again.held.value_bytes, again.held.source) == (3 * GIB, "calibrated")
        assert again.stored().held_source == "calibrated"
        assert forecast(model="tiny", moment=at(calibration=known)).held.value_bytes < GIB

    def test_the_highest_of_all_peaks_is_kept(self):
        known = forecast().learn_peak(Calibration(), 2 * GIB)
        known = forecast().learn_peak(known, GIB)
        assert forecast(moment=at(calibration=known)).held.value_bytes == 2 * GIB

    def test_a_peak_holds_on_no_other_device(self):
        known = forecast().learn_peak(Calibration(), 3 * GIB)
        other = forecast(moment=at(calibration=known, uuid="GPU-2"))
        assert other.held.source == "estimated"

    @pytest.mark.parametrize(
        "given", [{"dtype": "float32"}, {"beam_size": 5}, {"fp16_weights": True}]
    )
    def test_a_peak_holds_for_no_other_options_that_change_it(self, given):
        known = forecast().learn_peak(Calibration(), 3 * GIB)
        moment = at(calibration=known)
        assert forecast(moment=moment, **given).held.source == "estimated"
        assert forecast(moment=moment, language="de").held.source == "calibrated"

    @pytest.mark.parametrize("beam", [None, 0, -3, True, "5", 1])
    def test_what_is_no_number_of_beams_is_one(self, beam):
        assert forecast(beam_size=beam) == forecast()

    def test_an_unknown_model_is_launched_said_and_learned_from(self):
        first = forecast(model="nosuch")
        assert first.held is None
        (doubt,) = first.doubts
        assert doubt.startswith("Whisper's memory was not predicted: ")
        assert "nosuch" in doubt
        known = first.learn_peak(Calibration(), GIB)
        again = forecast(model="nosuch", moment=at(calibration=known))
        assert (again.held.value_bytes, again.doubts) == (GIB, ())
