"""What is the study's own, wherever a configuration may try to say it."""

import re

import pytest

from objectives.errors import UsageError
from study.config.reserved import reserved
from study.config.study_config import checked
from tests.study.config.configurations import OURS


def refused(**change):
    with pytest.raises(UsageError) as caught:
        checked({**OURS, **change}, source=None)
    line = str(caught.value)
    assert "\n" not in line
    return line.removeprefix("bundled study: ")


def fixed(server, **section):
    model = {"model": "some/model"} if server == "vllm" else {}
    return {server: {**model, **section}}


def searched(bind, *choices, **more):
    return {"search_space": {**OURS["search_space"], "p": {"bind": bind, **more}}} | (
        {"search_space": {"p": {"bind": bind, "choices": list(choices)}}} if choices else {}
    )


VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES"),
    *("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"),
    *("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"),
    *("VLLM_API_KEY", "WHISPER_API_KEY", "VLLM_DP_SIZE"),
)


class TestTheDeviceIsTheStudys:
    @pytest.mark.parametrize("server", ["vllm", "whisper"])
    @pytest.mark.parametrize("name", VARIABLES)
    def test_no_variable_moves_a_server(self, server, name):
        line = refused(**fixed(server, env={"OMP_NUM_THREADS": "2", name: "1"}))
        assert line.startswith(f"{server}.env.{name}: not to be set; ")
        line = refused(**searched(f"{server}.env.{name}", "0", "1"))
        assert line.startswith(f"search_space.p: {server}.env.{name}: not to be set; ")

    @pytest.mark.parametrize(
        "how",
        [
            {"env": {"CUDA_VISIBLE_DEVICES": "1"}, "argv": ["ollama", "serve"]},
            {"argv": ["env", "CUDA_VISIBLE_DEVICES=1", "ollama", "serve"]},
            {"argv": ["sh", "-c", "exec env CUDA_VISIBLE_DEVICES=1 ollama serve"]},
        ],
    )
    def test_nor_a_neighbour(self, how):
        line = refused(neighbours=[{"name": "ollama", "kind": "command", **how}])
        assert line.startswith("neighbours.0.")
        assert "CUDA_VISIBLE_DEVICES: not to be set; " in line

    @pytest.mark.parametrize("place", ["cuda:0", "cuda:1", "cuda", "GPU-5f3a", 1, "CPU"])
    def test_whisper_runs_there_or_on_the_cpu(self, place):
        line = refused(**searched("whisper.device", "same", place))
        assert line.startswith(f"search_space.p: whisper.device: found {place!r}, allowed: same, ")
        assert refused(whisper={"device": place}).startswith(f"whisper.device: found {place!r}; ")

    def test_nor_is_a_place_a_range_or_a_condition(self):
        assert "found 0" in refused(**searched("whisper.device", low=0, high=1))
        space = {
            "place": {"bind": "whisper.device", "choices": ["same", "cpu"]},
            "beam": {
                "bind": "whisper.args.beam-size",
                "choices": [1, 5],
                "when": {"place": "cuda:1"},
            },
        }
        assert refused(search_space=space) == "search_space.beam: place never is 'cuda:1'"

    def test_what_vllm_would_not_see_cannot_vary(self):
        """Its launch takes device and model from the study: all candidates would be the same."""
        assert "`device` is the same" in refused(**searched("vllm.device", "cuda:0", "cpu"))
        assert "`vllm.model` is the same" in refused(**searched("vllm.model", "a/b", "c/d"))

    @pytest.mark.parametrize("option", ["device", "device_ids", "--device"])
    def test_no_option_moves_a_server(self, option):
        line = refused(**fixed("vllm", args={option: "cuda:1"}))
        assert line == f"vllm.args.{option}: not to be set; the study gives every server its " + (
            "device, which `device` names"
        )


class TestAddressAndModelAreTheStudys:
    @pytest.mark.parametrize(
        ("server", "option"),
        [
            *(("vllm", name) for name in ("host", "port", "uds", "api-key", "api_key", "por")),
            *(("vllm", name) for name in ("model", "served-model-name", "config", "ssl-keyfile")),
            *(("vllm", name) for name in ("headless", "nnodes", "data-parallel-rank")),
            *(("whisper", name) for name in ("model", "host", "port", "api-key-env", "devic")),
            ("whisper", "fixed_tokens"),
        ],
    )
    def test_an_option_that_is_ours_is_refused(self, server, option):
        assert refused(**fixed(server, args={option: "x"})).startswith(
            f"{server}.args.{option}: not to be set; "
        )
        assert ": not to be set; " in refused(**searched(f"{server}.args.{option}", "x", "y"))

    @pytest.mark.parametrize(
        ("weights", "value"), [("real", "dummy"), ("dummy", "auto"), ("dummy", "dummy")]
    )
    def test_whether_weights_are_random_is_said_in_one_place(self, weights, value):
        said = refused(vllm={"model": "m", "weights": weights, "args": {"load-format": value}})
        assert said.endswith("`vllm.weights` says whether they are random")

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            ({"port=9": True}, "vllm.args: found 'port=9', allowed: an option's name"),
            ({"a b": 1}, "vllm.args: found 'a b'"),
            ({"max-num-seqs": 1, "max_num_seqs": 2}, "given twice, also as 'max-num-seqs'"),
        ],
    )
    def test_an_option_is_its_name_once(self, args, said):
        assert said in refused(**fixed("vllm", args=args))


class TestOneDevice:
    @pytest.mark.parametrize(
        "option",
        [
            *("tensor-parallel-size", "tensor_parallel_size", "tensor", "-tp", "dp"),
            *("pipeline-parallel-size", "data-parallel-size", "data-parallel-size-local"),
            *("decode-context-parallel-size", "prefill-context-parallel-size"),
        ],
    )
    @pytest.mark.parametrize("size", [2, "2", 8, "1k", True])
    def test_a_model_that_needs_more_is_refused_at_the_door(self, option, size):
        line = refused(**fixed("vllm", args={option: size}))
        assert line == f"vllm.args.{option}: found {size!r}, allowed: 1; a study has one device"

    def test_also_in_the_space(self):
        bind = "vllm.args.tensor-parallel-size"
        said = f"search_space.p: {bind}: found 2, allowed: 1; a study has one device"
        assert refused(**searched(bind, 1, 2)) == said
        assert refused(**searched(bind, low=1, high=2)) == said


def test_what_only_looks_like_it_is_allowed():
    args = {
        "tensor-parallel-size": 1,
        "port": None,  # leaves it out
        "model-impl": "vllm",
        "config-format": "hf",
        "tokenizer": "some/model",
        "load-format": "safetensors",
        "enable-expert-parallel": True,
        "device-memory-utilization": 0.5,
    }
    config = checked(
        {
            **OURS,
            "vllm": {"model": "m", "args": args, "env": {"CUDA_LAUNCH_BLOCKING": "1"}},
            "whisper": {"device": "cpu", "args": {"threads": 2, "beam-size": 5}},
            "neighbours": [{"name": "n", "kind": "command", "argv": ["serve", "--x=1", "A=1"]}],
        },
        source=None,
    )
    assert config.document.vllm.args == args


def test_the_reference_lists_what_is_refused_and_nothing_else():
    for keys, _ in reserved():
        for key in re.findall(r"`(\w+)\.args\.([\w-]+)`", keys):
            assert refused(**fixed(key[0], args={key[1]: 2}))
        for name in re.findall(r"`\*\.env\.([\w*]+)`", keys):
            assert refused(**fixed("vllm", env={name.replace("*", "X"): "2"}))
