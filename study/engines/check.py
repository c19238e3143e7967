"""Is an engine right for a device? By arithmetic in milliseconds, or by starting up what it has."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from objectives.device import Device, cards_here
from objectives.errors import EngineError
from objectives.servers import LEAST_CURRENT, ROLES, Engine, Gpu, dotted, see
from objectives.units import ServerName

_INSTALLERS = {"apt-get": "apt install {}", "dnf": "dnf install {}", "zypper": "zypper install {}"}
_HEADERS = {"apt-get": "python{}-dev", "dnf": "python{}-devel", "zypper": "python{}-devel"}
"""What the header files of a Python are called where a package manager installs it."""


@dataclass(frozen=True, kw_only=True)
class EngineReport:
    """What a check came to."""

    problems: tuple[str, ...]  # sentences; none: it is right
    facts: dict[str, Any]  # versions, and what it saw of the device

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the engine."""
        return not self.problems


def check_engine(
    engine: Engine,
    device: Device,
    *,
    roles: Collection[ServerName] | None = None,
    live: bool = True,
) -> EngineReport:
    """Whether an engine can run servers on a device: its versions, and what it sees.

    Args:
        engine: The engine.
        device: The device.
        roles: The servers; default: those that it has a package for.
        live: Also compute something there with its torch, let its vLLM look for the device, and
            look for what compiles kernels (about ten seconds, and on a GPU some hundred MB for a
            moment); else by arithmetic on what is remembered of it (milliseconds).
    """
    has = {"vllm": engine.vllm_version, "whisper": engine.whisper_version}
    wanted = tuple(role for role in ROLES if has[role]) if roles is None else tuple(roles)
    problems = [] if wanted else [f"{engine.interpreter} has neither vLLM nor openai-whisper"]
    gpu = gpu_of(device)
    for role in wanted:
        problems += engine.problems(role, device.kind, gpu=gpu)
    facts: dict[str, Any] = {**engine.to_dict(), "roles": list(wanted), "seen": None}
    if live and not problems:
        role = "vllm" if "vllm" in wanted else "whisper"
        try:
            facts["seen"] = see(engine, device.kind, device.environment(), role=role)
        except EngineError as error:
            problems.append(str(error))
        else:
            problems += _strangeness(facts["seen"], device)
            problems += _vllm_problems(engine, facts["seen"].get("vllm") or {}, device, gpu)
            problems += _tool_problems(engine, facts["seen"].get("build_tools") or {})
    return EngineReport(problems=tuple(dict.fromkeys(problems)), facts=facts)


def _strangeness(seen: Mapping[str, Any], device: Device) -> Iterator[str]:
    """Whether what torch saw is the device that was meant; silent where torch does not tell."""
    uuid = seen.get("uuid")
    if device.kind == "cuda" and uuid is not None and uuid != device.uuid:
        yield f"torch sees {seen.get('name')} {uuid} where {device.name} {device.uuid} is meant"


def _vllm_problems(
    engine: Engine, seen: Mapping[str, Any], device: Device, gpu: Gpu | None
) -> Iterator[str]:
    """Whether vLLM itself finds the one device that was meant; silent where it was not asked."""
    what = f"vLLM {engine.vllm_version} of engine {engine.name}"
    if error := seen.get("error"):
        yield f"{what} cannot be imported, or cannot read {device.name}: {error}"
    elif seen and seen["kind"] != device.kind:
        yield f"{what} finds {seen['kind'] or 'no device'} where {device.name} is meant"
    elif seen and gpu is not None:
        found = seen["capability"] and tuple(seen["capability"])
        if found is None or gpu.capability not in (None, found):
            meant = "" if gpu.capability is None else f", of {dotted(gpu.capability)}, is meant"
            said = "no compute capability" if found is None else f"a GPU of {dotted(found)}"
            yield f"{what} finds {said} where {device.name}{meant or ' is meant'}"
        if seen["devices"] != 1:
            yield f"{what} finds {seen['devices']} GPUs where {device.name} alone is visible"


def _tool_problems(engine: Engine, tools: Mapping[str, Any]) -> Iterator[str]:
    """Whether a C compiler and Python's header files are there, which kernels are compiled with."""
    if not tools:
        return
    manager = next(filter(shutil.which, _INSTALLERS), "apt-get")
    install = _INSTALLERS[manager]
    usual = "gcc" if tools["variable"] == "CC" else {"apt-get": "g++"}.get(manager, "gcc-c++")
    if tools["compiler"] is None:
        missing = " nor ".join(tools["compilers"])
        yield (
            f"vLLM compiles kernels when it starts, and finds no compiler, {missing}: "
            f"{install.format(usual)}, or name one by {tools['variable']}"
        )
    if not tools["python_h"]:
        minor = ".".join(engine.python_version.split(".")[:2])
        headers = install.format(_HEADERS[manager].format(minor))
        yield (
            f"vLLM compiles kernels when it starts, and Python {minor} has no Python.h in "
            f"{tools['include']}: {headers}"
        )


def gpu_of(device: Device) -> Gpu | None:
    """What a CUDA device and its driver can run, as far as the driver tells; None for a CPU."""
    if device.kind != "cuda":
        return None
    facts = device.describe()
    cards = [(device.name, facts.get("compute_capability")), *cards_here()]
    old = (name for name, told in cards if (found := _pair(told)) and found < LEAST_CURRENT)
    driver = facts.get("driver")
    return Gpu(
        name=device.name,
        capability=_pair(facts.get("compute_capability")),
        driver=driver if isinstance(driver, str) else None,
        cuda=_pair(facts.get("cuda_driver")),
        legacy=next(old, None),
    )


def _pair(told: object) -> tuple[int, int] | None:
    """(8, 6) of "8.6"; None where nothing, or something else, was told."""
    major, _, minor = told.partition(".") if isinstance(told, str) else ("", "", "")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None
