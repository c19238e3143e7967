"""How a candidate becomes the command lines and environments of both servers."""

import json
import re
from dataclasses import replace

import pytest

from objectives.candidate import Candidate, ServerSettings
from objectives.device.cuda import all_devices
from objectives.load.profile import LoadProfile, SttLoad
from objectives.servers.server import Launch
from objectives.trial.launch import new_key, shown, vllm_launch, whisper_kind, whisper_launch
from tests.fakes.fake_nvml import FakeGpu, FakeNvml
from tests.objectives.trial.test_bench import bench_with

KEY = "k3y-of-this-trial"
GPU = FakeGpu()
LAUNCHES = pytest.mark.parametrize("launch", [vllm_launch, whisper_launch])


@pytest.fixture
def gpu():
    with FakeNvml(GPU).installed():
        yield all_devices()[0][0]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Launches a candidate of a bench, in a folder that holds no model."""
    monkeypatch.chdir(tmp_path)

    def start(launch, bench, candidate=None, **changes):
        where = {"port": 8123, "key": KEY, "log": tmp_path / "server.log", **changes}
        return launch(candidate or fixed(bench), bench, **where)

    return start


def fixed(bench):
    return Candidate(params={}, vllm=bench.vllm, whisper=bench.whisper)


def settings(device="cpu", *, model="tiny", **more):
    return ServerSettings(model=model, device=device, **more)


class TestVllm:
    def test_its_command_line_is_the_engine_the_model_the_address_and_the_settings(
        self, start, tmp_path
    ):
        launch = start(vllm_launch, bench_with())
        assert launch.argv == (
            *("/engines/big/bin/python", "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", "/models/qwen", "--served-model-name", "llm"),
            *("--host", "127.0.0.1", "--port", "8123"),
            *("--max-num-seqs", "64"),
        )
        assert (launch.name, launch.log) == ("vllm", tmp_path / "server.log")

    def test_random_weights_are_asked_for_before_the_settings(self, start):
        argv = start(vllm_launch, bench_with(llm_is_dummy=True)).argv
        assert argv[-4:] == ("--load-format", "dummy", "--max-num-seqs", "64")

    def test_a_switch_is_on_off_or_left_to_vllm(self, start):
        switches = {"enforce-eager": True, "enable-prefix-caching": False, "dtype": None}
        bench = bench_with(vllm=settings(args={**switches, "gpu-memory-utilization": 0.1 + 0.2}))
        assert start(vllm_launch, bench).argv[-4:] == (
            "--enforce-eager",
            "--no-enable-prefix-caching",
            "--gpu-memory-utilization",
            "0.3",
        )

    @pytest.mark.parametrize("is_local", [True, False])
    def test_only_a_model_that_is_here_is_served_offline(self, start, monkeypatch, is_local):
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        env = start(vllm_launch, bench_with(llm_is_local=is_local)).env
        assert ("HF_HUB_OFFLINE" in env, "HF_TOKEN" in env) == (is_local, not is_local)

    def test_it_sees_the_studys_gpu_alone_whatever_its_settings_call_it(self, start, gpu):
        bench = bench_with(device=gpu, vllm=settings("cuda:7"))
        env = start(vllm_launch, bench).env
        assert env["CUDA_VISIBLE_DEVICES"] == GPU.uuid
        assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        assert env["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"

    def test_on_a_cpu_it_sees_no_gpu(self, start):
        env = start(vllm_launch, bench_with()).env
        assert env["CUDA_VISIBLE_DEVICES"] == ""
        assert "PYTORCH_CUDA_ALLOC_CONF" not in env
        assert "OMP_WAIT_POLICY" not in env, "that is for Whisper"


class TestWhisper:
    def test_its_command_line_is_the_engine_the_model_the_place_and_the_settings(
        self, start, tmp_path
    ):
        launch = start(whisper_launch, bench_with())
        assert launch.argv[0] == "/engines/small/bin/python"
        assert launch.argv[1].endswith("/whisper_worker.py")
        assert launch.argv[2:] == (
            *("--model", "tiny", "--device", "cpu"),
            *("--host", "127.0.0.1", "--port", "8123", "--api-key-env", "WHISPER_API_KEY"),
            *("--dtype", "float32"),
        )
        assert (launch.name, launch.log) == ("whisper", tmp_path / "server.log")

    def test_a_switch_that_is_off_is_left_out(self, start):
        bench = bench_with(whisper=settings(args={"warm": True, "quiet": False, "dtype": None}))
        assert start(whisper_launch, bench).argv[-2:] == ("WHISPER_API_KEY", "--warm")

    def test_a_model_with_files_is_given_as_their_path(self, start):
        bench = bench_with(whisper_paths={"tiny": "/models/tiny", "base": "/models/base"})
        assert start(whisper_launch, bench).argv[2:4] == ("--model", "/models/tiny")
        other = replace(fixed(bench), whisper=settings(model="small"))
        assert start(whisper_launch, bench, other).argv[2:4] == ("--model", "small")

    @pytest.mark.parametrize("is_here", [True, False])
    def test_only_a_model_that_is_here_is_served_offline(
        self, start, tmp_path, monkeypatch, is_here
    ):
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        path = tmp_path / "tiny.pt"
        if is_here:
            path.touch()
        bench = bench_with(whisper_paths={"tiny": str(path)}, llm_is_local=not is_here)
        env = start(whisper_launch, bench).env
        assert ("HF_HUB_OFFLINE" in env, "HF_TOKEN" in env) == (is_here, not is_here)

    @pytest.mark.parametrize(
        ("stt", "words"),
        [
            (SttLoad(rate_rps=1, output_tokens=12), ("--fixed-tokens", "12", "--dtype", "float32")),
            (SttLoad(rate_rps=1), ("--api-key-env", "WHISPER_API_KEY", "--dtype", "float32")),
            (None, ("--api-key-env", "WHISPER_API_KEY", "--dtype", "float32")),
        ],
    )
    def test_the_load_may_fix_the_length_of_its_transcripts(self, start, stt, words):
        bench = bench_with(profile=LoadProfile(seed=1, stt=stt))
        assert start(whisper_launch, bench).argv[-4:] == words

    def test_on_the_studys_gpu_it_sees_that_one_as_its_first(self, start, gpu):
        bench = bench_with(device=gpu, whisper=settings("cuda:7"))
        launch = start(whisper_launch, bench)
        assert launch.argv[4:6] == ("--device", "cuda:0")
        assert launch.env["CUDA_VISIBLE_DEVICES"] == GPU.uuid
        assert launch.env["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
        assert "OMP_WAIT_POLICY" not in launch.env

    def test_on_the_cpu_beside_a_gpu_it_sees_none(self, start, gpu):
        bench = bench_with(device=gpu, whisper=settings("cpu"))
        launch = start(whisper_launch, bench)
        assert launch.argv[4:6] == ("--device", "cpu")
        assert launch.env["CUDA_VISIBLE_DEVICES"] == ""
        assert launch.env["OMP_WAIT_POLICY"] == "PASSIVE"
        assert "PYTORCH_CUDA_ALLOC_CONF" not in launch.env

    def test_a_bench_without_a_gpu_puts_it_on_the_cpu_whatever_was_asked(self, start):
        launch = start(whisper_launch, bench_with(whisper=settings("cuda:0")))
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
    def test_its_kind_of_device_is_the_studys_or_the_cpu(self, gpu, asked, on_gpu, kind):
        bench = bench_with(whisper=settings(asked), **({"device": gpu} if on_gpu else {}))
        assert whisper_kind(fixed(bench), bench) == kind


class TestBoth:
    def test_two_points_differ_in_what_varies_and_in_nothing_else(self, start):
        bench = bench_with()
        points = [
            Candidate.lay(bench.space, point, vllm=bench.vllm, whisper=bench.whisper)
            for point in (
                {"utilisation": 0.25, "size": "tiny"},
                {"utilisation": 0.5, "size": "base"},
            )
        ]
        for launch, words in ((vllm_launch, {"0.25", "0.5"}), (whisper_launch, {"tiny", "base"})):
            one, other = (start(launch, bench, point) for point in points)
            assert set(one.argv) ^ set(other.argv) == words
            assert len(one.argv) == len(other.argv)
            assert replace(one, argv=()) == replace(other, argv=())

    @LAUNCHES
    def test_the_key_is_in_the_environment_and_never_on_the_command_line(self, start, launch):
        started = start(launch, bench_with())
        assert KEY not in " ".join(started.argv)
        assert [name for name, value in started.env.items() if value == KEY] == [
            f"{started.name.upper()}_API_KEY"
        ]

    @LAUNCHES
    def test_the_candidates_variables_stand_before_the_engines_but_not_before_the_key(
        self, start, launch
    ):
        own = {"DO_NOT_TRACK": "0", "VLLM_API_KEY": "mine", "WHISPER_API_KEY": "mine"}
        bench = bench_with(vllm=settings(env=own), whisper=settings(env=own))
        started = start(launch, bench)
        assert started.env["DO_NOT_TRACK"] == "0"
        assert started.env[f"{started.name.upper()}_API_KEY"] == KEY

    def test_each_server_finds_the_programs_and_the_cache_of_its_own_engine(self, start):
        for launch, name in ((vllm_launch, "big"), (whisper_launch, "small")):
            env = start(launch, bench_with()).env
            assert env["PATH"].startswith(f"/engines/{name}/bin:")
            assert env["TRITON_CACHE_DIR"] == f"/caches/{name}/triton"

    def test_variables_of_one_server_are_not_the_others(self, start):
        bench = bench_with(vllm=settings(env={"A": "1"}), whisper=settings(env={"B": "2"}))
        vllm, whisper = (start(launch, bench).env for launch in (vllm_launch, whisper_launch))
        assert (vllm["A"], whisper["B"]) == ("1", "2")
        assert "B" not in vllm
        assert "A" not in whisper

    @LAUNCHES
    def test_the_study_gives_its_own_environment_on_only_where_that_is_listed(
        self, start, monkeypatch, launch
    ):
        monkeypatch.setenv("LD_PRELOAD", "/lib/x.so")
        monkeypatch.setenv("HF_HOME", "/models/hub")
        env = start(launch, bench_with()).env
        assert "LD_PRELOAD" not in env
        assert env["HF_HOME"] == "/models/hub"


def test_every_key_is_new_and_can_stand_in_a_header():
    keys = {new_key() for _ in range(50)}
    assert len(keys) == 50
    assert all(re.fullmatch(r"[\w-]{32,}", key, re.ASCII) for key in keys)


class TestShown:
    @LAUNCHES
    def test_no_key_no_token_and_no_proxy_is_stored(self, start, monkeypatch, launch):
        proxies = ("http_proxy", "https_proxy", "all_proxy")
        private = ("HF_TOKEN", *proxies, *map(str.upper, proxies))
        for name in private:
            monkeypatch.setenv(name, "s3cret")
        started = start(launch, bench_with(llm_is_local=False))
        assert {started.env[name] for name in private} == {"s3cret"}
        stored = json.dumps(shown(started, inherited={}))
        assert "s3cret" not in stored
        assert KEY not in stored

    def test_what_is_stored_is_the_command_line_and_what_makes_a_difference(self, tmp_path):
        launch = Launch(
            name="vllm",
            argv=("python", "-m", "server"),
            env={
                "PATH": "/engines/big/bin",
                "PYTHONSAFEPATH": "1",
                "PYTHONUNBUFFERED": "1",
                "VLLM_CACHE_ROOT": "/caches/vllm",
                "TRITON_CACHE_DIR": "/caches/triton",
                "LANG": "C.UTF-8",
                "CUDA_VISIBLE_DEVICES": "GPU-1",
                "OMP_NUM_THREADS": "4",
                "VLLM_API_KEY": KEY,
            },
            log=tmp_path / "vllm.log",
        )
        assert shown(launch, {"LANG": "C.UTF-8", "OMP_NUM_THREADS": "8"}) == {
            "argv": ["python", "-m", "server"],
            "env": {"CUDA_VISIBLE_DEVICES": "GPU-1", "OMP_NUM_THREADS": "4"},
        }
