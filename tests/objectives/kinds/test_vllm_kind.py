"""vLLM: its command line, what its log proves, and its memory."""

from dataclasses import replace

import pytest

from objectives.candidate import ServerSettings
from objectives.device.cpu import CpuNode
from objectives.errors import WrongDeviceError
from objectives.evidence import PredictedMemory
from objectives.kinds.kind import Proof
from objectives.kinds.vllm_kind import LATEST_VLLM, PAGES_EVERY_S, VllmMemory
from objectives.load.exchange import Target
from objectives.memory.calibration import Calibration
from objectives.memory.estimate import NOTHING, given
from objectives.models.shape import ModelShape
from objectives.vllm.startup_log import StartupFacts
from tests.fakes.fake_nvml import FakeGpu
from tests.kinds import VLLM
from tests.objectives.kinds.test_forecast import CARD, GIB, at
from tests.objectives.kinds.test_kind import gpu_of, launched, up_at

GPU = FakeGpu()
QWEN = ModelShape.from_config(
    {
        "model_type": "qwen2",
        "num_hidden_layers": 28,
        "hidden_size": 3584,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 152064,
        "max_position_embeddings": 32768,
        "torch_dtype": "float16",
        "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128},
    }
)
MEMORY = VllmMemory(model="qwen", shape=QWEN, version="0.11.0", weights_bytes=int(5.2 * GIB))
STARTED = StartupFacts(
    available_kv_bytes=int(0.3726 * GIB), kv_cache_tokens=6976, device_kind="cuda"
)
ON_GPU = "INFO [kv_cache_utils.py:716] GPU KV cache size: 6,976 tokens"
ON_CPU = ON_GPU.replace("GPU", "CPU")
LOADED = "INFO [gpu_model_runner.py:2602] Model loading took 5.2035 GiB and 41.1 seconds"


@pytest.fixture
def gpu():
    with gpu_of(GPU) as device:
        yield device


def settings(device="cpu", *, env=None, **args):
    return ServerSettings(
        model="qwen",
        device=device,
        args={name.replace("_", "-"): value for name, value in args.items()},
        env=env or {},
    )


class TestItsCommandLine:
    def test_is_the_engine_the_model_the_address_and_the_settings(self, tmp_path):
        launch = launched(VLLM, tmp_path)
        assert launch.argv == (
            *("/engines/big/bin/python", "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", "/models/qwen", "--served-model-name", "llm"),
            *("--host", "127.0.0.1", "--port", "8123"),
            *("--max-num-seqs", "64"),
        )
        assert (launch.name, launch.log) == ("vllm", tmp_path / "server.log")

    def test_asks_for_random_weights_before_the_settings(self, tmp_path):
        argv = launched(replace(VLLM, is_dummy=True), tmp_path).argv
        assert argv[-4:] == ("--load-format", "dummy", "--max-num-seqs", "64")

    def test_has_a_switch_on_off_or_leaves_it_to_vllm(self, tmp_path):
        switches = {"enforce_eager": True, "enable_prefix_caching": False, "dtype": None}
        changed = settings(**switches, gpu_memory_utilization=0.1 + 0.2)
        assert launched(VLLM, tmp_path, changed).argv[-4:] == (
            "--enforce-eager",
            "--no-enable-prefix-caching",
            "--gpu-memory-utilization",
            "0.3",
        )

    @pytest.mark.parametrize("is_local", [True, False])
    def test_only_a_model_that_is_here_is_served_offline(self, tmp_path, monkeypatch, is_local):
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        env = launched(replace(VLLM, is_local=is_local), tmp_path).env
        assert ("HF_HUB_OFFLINE" in env, "HF_TOKEN" in env) == (is_local, not is_local)


class TestItsPlace:
    def test_is_the_studys_gpu_alone_whatever_its_settings_call_it(self, tmp_path, gpu):
        env = launched(VLLM, tmp_path, settings("cuda:7"), device=gpu).env
        assert env["CUDA_VISIBLE_DEVICES"] == "0"
        assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        assert env["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"

    def test_on_a_cpu_it_sees_no_gpu(self, tmp_path):
        env = launched(VLLM, tmp_path).env
        assert env["CUDA_VISIBLE_DEVICES"] == ""
        assert "PYTORCH_CUDA_ALLOC_CONF" not in env
        assert "OMP_WAIT_POLICY" not in env, "that is for Whisper"


def test_prompts_go_to_it_by_one_name_with_its_key_and_its_metrics_are_read(tmp_path):
    assert VLLM.role == "llm"
    target = VLLM.target(settings(), up_at("http://127.0.0.1:8123", tmp_path))
    assert target == Target(
        url="http://127.0.0.1:8123", model="llm", api_key="k3y", pages_every_s=PAGES_EVERY_S
    )


class TestItsProof:
    @pytest.fixture
    def prove(self, tmp_path):
        """A vLLM whose log says `said` and that is process 7, on a device that lists others."""

        def prove(said, device=None, *, name="vllm"):
            server = up_at("http://127.0.0.1:8123", tmp_path, said, pids=[7])
            return replace(VLLM, name=name).prove(settings(), device or CpuNode(), server)

        return prove

    def test_is_what_its_log_says_of_its_start(self, prove):
        proof = prove(ON_CPU)
        assert proof.facts == StartupFacts(device_kind="cpu", kv_cache_tokens=6976)
        assert proof.said == "its log: the KV cache is there"
        assert (proof.health, proof.doubts, proof.failure) == ({}, (), None)

    def test_a_kv_cache_on_another_device_is_the_candidates_fault_and_still_known(self, prove):
        proof = prove(ON_GPU, name="second")
        assert type(proof.failure) is WrongDeviceError
        assert proof.failure.cause == "cpu_fallback"
        assert proof.failure.evidence == "second keeps its KV cache on cuda, not on cpu"
        assert proof.failure.remedy
        assert not proof.failure.predicted
        assert proof.facts == StartupFacts(device_kind="cuda", kv_cache_tokens=6976)

    def test_a_fallback_to_the_cpu_is_the_candidates_fault(self, prove, gpu):
        failure = prove(ON_CPU, gpu).failure
        assert type(failure) is WrongDeviceError
        assert failure.evidence == "vllm keeps its KV cache on cpu, not on cuda"

    def test_a_log_that_names_no_device_is_believed(self, prove):
        assert prove("") == Proof(facts=StartupFacts())

    @pytest.mark.parametrize("listed", [{7: 6 * GIB}, {6: GIB, 7: 6 * GIB}, {7: None}])
    def test_is_its_process_on_the_devices_list(self, prove, listed):
        with gpu_of(FakeGpu(processes=listed)) as card:
            proof = prove(f"{LOADED}\n{ON_GPU}", card)
        assert (proof.doubts, proof.failure) == ((), None)
        assert proof.said == f"the driver lists its process 7 on {card.spoken}"

    def test_a_cpu_has_no_driver_to_be_asked(self, prove):
        assert prove(ON_CPU, CpuNode()).doubts == ()


def forecast(utilisation=0.50, *, memory=MEMORY, moment=None, beside=NOTHING, **args):
    usual = {
        "gpu_memory_utilization": utilisation,
        "max_model_len": 2048,
        "max_num_seqs": 16,
    }
    moment = replace(moment or at(CARD), beside=beside)
    return memory.forecast(settings("cuda", **{**usual, **args}), moment)


class TestItsForecast:
    def test_holds_its_share_and_what_comes_on_top_of_it(self):
        known = forecast(0.50)
        footprint = known.start.footprint
        assert footprint.requested_bytes == pytest.approx(CARD.total_bytes * 0.50, abs=2)
        assert footprint.parts.outside.value_bytes > 0
        held = footprint.requested_bytes + footprint.parts.outside.value_bytes
        assert known.held.value_bytes == held
        assert (known.max_num_seqs, known.doubts) == (16, ())

    def test_sees_the_device_without_its_drivers_reserve(self):
        reserved = replace(CARD, reserved_bytes=GIB)
        smaller = forecast(0.50, moment=at(reserved)).start.footprint
        assert smaller.requested_bytes == pytest.approx((CARD.total_bytes - GIB) * 0.50, abs=2)

    def test_what_stands_beside_it_is_taken_off_what_is_free(self):
        alone, crowded = forecast(), forecast(beside=given(2 * GIB))
        for name in ("start_memory_gib", "device_memory_gib"):
            assert crowded.start.excess[name] == pytest.approx(alone.start.excess[name] + 2)
        assert crowded.start.excess["kv_cache_gib"] == alone.start.excess["kv_cache_gib"]

    def test_what_neighbours_will_hold_is_taken_off_likewise(self):
        alone, crowded = forecast(), forecast(moment=at(coming_bytes=2 * GIB))
        gone = crowded.start.excess["start_memory_gib"] - alone.start.excess["start_memory_gib"]
        assert gone == pytest.approx(2)

    def test_a_reading_that_may_be_off_widens_the_margin(self):
        sure, unsure = forecast(), forecast(moment=at(free_margin_bytes=GIB))
        wider = unsure.start.margins["start_memory_gib"] - sure.start.margins["start_memory_gib"]
        assert wider == pytest.approx(1)

    def test_what_must_stay_free_is_no_room(self):
        alone, tight = forecast(), forecast(moment=at(headroom_bytes=GIB))
        more = tight.start.excess["device_memory_gib"] - alone.start.excess["device_memory_gib"]
        assert more == pytest.approx(1)

    def test_follows_its_environment_too(self):
        moment = at(kind="cpu", uuid="node")
        usual = settings(max_model_len=2048, max_num_seqs=16)
        sized = replace(usual, env={"VLLM_CPU_KVCACHE_SPACE": "2"})
        memory = replace(MEMORY, version=LATEST_VLLM)
        cache = {
            memory.forecast(each, moment).start.footprint.kv_cache_bytes for each in (usual, sized)
        }
        assert 2 * GIB in cache
        assert len(cache) == 2

    def test_of_a_shape_that_nobody_knows_is_a_doubt(self):
        blind = replace(MEMORY, shape=None, shape_missing="no config.json here")
        known = forecast(memory=blind)
        assert (known.held, known.start, known.max_num_seqs) == (None, None, None)
        assert known.doubts == ("vLLM's memory was not predicted: no config.json here",)
        assert known.stored() == PredictedMemory(total_bytes=CARD.total_bytes)

    def test_of_an_option_that_cannot_be_read_is_a_doubt(self):
        known = forecast(max_num_seqs="many")
        assert (known.held, known.start, known.max_num_seqs) == (None, None, None)
        (doubt,) = known.doubts
        assert doubt.startswith("vLLM's memory was not predicted: max-num-seqs: 'many'")

    def test_of_a_cache_that_nobody_can_compute_is_a_doubt_and_the_limit_is_known(self):
        known = forecast(kv_cache_dtype="nosuch")
        assert (known.held, known.start, known.max_num_seqs) == (None, None, 16)
        assert "nosuch" in known.doubts[0]

    def test_is_kept_whole(self):
        known = forecast(0.40)
        start, footprint, kept = known.start, known.start.footprint, known.stored()
        assert (kept.held_bytes, kept.held_source) == (known.held.value_bytes, "estimated")
        assert kept.total_bytes == CARD.total_bytes
        assert kept.weights_bytes == footprint.parts.weights.value_bytes > 0
        assert kept.activation_bytes == footprint.parts.activation.value_bytes
        assert kept.non_torch_bytes == footprint.parts.non_torch.value_bytes
        assert kept.graph_bytes == footprint.parts.graphs.value_bytes
        assert kept.outside_bytes == footprint.parts.outside.value_bytes
        assert kept.kv_cache_bytes == footprint.kv_cache_bytes
        assert kept.kv_cache_tokens == footprint.capacity.tokens
        assert kept.max_concurrency == footprint.capacity.max_concurrency
        assert kept.requested_bytes == footprint.requested_bytes
        assert kept.margin_bytes == footprint.margin_bytes
        assert (kept.fits, kept.certain, kept.cause) == (False, True, "kv_cache_no_blocks")
        assert kept.sources["weights"] == footprint.parts.weights.source
        assert kept.excess_gib == start.excess
        assert kept.margin_gib == start.margins


class TestWhatAStartTeaches:
    def learned(self, utilisation=0.50, *, facts=STARTED, **more):
        return forecast(utilisation, **more).learn(Calibration(), facts)

    def test_it_stands_before_every_estimate(self):
        again = forecast(moment=at(calibration=self.learned()))
        assert again.start.footprint.parts.weights.source == "calibrated"
        assert again.start.footprint.capacity.tokens == pytest.approx(6976, rel=0.03)

    def test_it_holds_for_no_other_model_version_or_device(self):
        known = self.learned()
        others = [
            forecast(memory=replace(MEMORY, model="other"), moment=at(calibration=known)),
            forecast(memory=replace(MEMORY, version="0.12.0"), moment=at(calibration=known)),
            forecast(moment=at(calibration=known, uuid="GPU-2")),
        ]
        assert {each.start.footprint.parts.weights.source for each in others} == {"read"}

    @pytest.mark.parametrize(
        "unknown",
        [
            forecast(memory=replace(MEMORY, shape=None)),
            forecast(max_num_seqs="many"),
        ],
        ids=["shape", "option"],
    )
    def test_where_nothing_was_known_it_is_nothing(self, unknown):
        known = Calibration()
        assert unknown.learn(known, STARTED) is known

    def test_where_its_cache_could_not_be_computed_it_is_what_stands_beside_the_cache(self):
        unknown = forecast(kv_cache_dtype="nosuch")
        assert unknown.start is None
        known = unknown.learn(Calibration(), STARTED)
        footprint = forecast(moment=at(calibration=known)).start.footprint
        assert footprint.available_bytes == pytest.approx(STARTED.available_kv_bytes, abs=GIB // 50)

    def test_of_a_total_that_moved_counts_the_one_that_vllm_saw(self):
        grown = int(12.5 * GIB)
        facts = replace(STARTED, requested_bytes=int(0.5 * grown))
        fixed, moved = self.learned(), self.learned(facts=facts)
        more = moved.starts[0].inside_bytes - fixed.starts[0].inside_bytes
        assert more == pytest.approx(0.5 * (grown - CARD.total_bytes), abs=GIB // 50)

    def test_what_others_hold_is_charged_once_by_the_versions_that_charge_for_it(self):
        """Taken off when the start is learned from, and off again when the next is predicted."""
        older = replace(MEMORY, version="0.9.0")
        first = forecast(0.85, memory=older, beside=given(GIB))
        assert first.start.footprint.charged_bytes > GIB
        logged = first.start.footprint.available_bytes - GIB // 4
        known = first.learn(Calibration(), StartupFacts(available_kv_bytes=logged))
        moment = at(calibration=known)
        again = forecast(0.85, memory=older, moment=moment, beside=given(GIB))
        assert again.start.footprint.available_bytes == pytest.approx(logged, abs=GIB // 50)

    def test_the_most_that_it_held_teaches_nothing(self):
        known = Calibration()
        assert forecast().learn_peak(known, GIB) is known


class TestASurprise:
    SHRUNK = replace(STARTED, available_kv_bytes=int(0.1 * GIB))

    def test_is_a_cache_other_than_earlier_starts_taught(self):
        known = forecast().learn(Calibration(), STARTED)
        again = forecast(moment=at(calibration=known))
        assert again.surprise(STARTED) is None
        said = again.surprise(self.SHRUNK)
        assert said.startswith("the KV cache is 0.10 GiB, expected were 0.37: memory moved")
        grown = replace(STARTED, available_kv_bytes=int(0.9 * GIB))
        assert "the KV cache is 0.90 GiB" in again.surprise(grown)

    def test_is_none_where_the_forecast_was_an_estimate_or_the_log_names_no_cache(self):
        assert forecast().surprise(self.SHRUNK) is None
        assert forecast(memory=replace(MEMORY, shape=None)).surprise(self.SHRUNK) is None
        known = forecast().learn(Calibration(), STARTED)
        assert forecast(moment=at(calibration=known)).surprise(StartupFacts()) is None


class TestATotalThatMoved:
    def test_is_said_with_both_figures(self):
        grown = StartupFacts(requested_bytes=int(0.5 * 12.5 * GIB))
        said = forecast(0.50).moved(grown)
        assert said.startswith("the device's total moved from 11.63 to 12.50 GiB before vLLM")

    def test_is_nothing_within_what_a_driver_and_cuda_differ_by(self):
        half = CARD.total_bytes // 2
        assert forecast(0.50).moved(StartupFacts(requested_bytes=half)) is None
        assert forecast(0.50).moved(StartupFacts(requested_bytes=int(half * 1.004))) is None
        assert forecast(0.50).moved(StartupFacts(requested_bytes=int(half * 1.006)))

    def test_a_total_in_the_log_stands_before_one_that_follows_from_the_share(self):
        facts = StartupFacts(requested_bytes=20 * GIB, device_total_bytes=CARD.total_bytes)
        assert forecast(0.50).moved(facts) is None
        assert "24.00 GiB" in forecast(0.50).moved(StartupFacts(device_total_bytes=24 * GIB))

    def test_is_not_known_where_neither_log_nor_options_tell(self):
        assert forecast(0.50).moved(StartupFacts()) is None
        unread = forecast(max_num_seqs="many")
        assert unread.moved(StartupFacts(requested_bytes=20 * GIB)) is None
