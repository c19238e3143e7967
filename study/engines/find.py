"""`python -m study.engines`: the servers' own Python environments - what is there, is it right?

A server is launched with an engine's interpreter. Which one: what the configuration names; else
`GPU_ALLOCATION_STUDY_ENGINE`; else an engine that `build` made; else this interpreter itself, if
it happens to have what is needed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objectives.device import Device
from objectives.errors import EngineError, UsageError
from objectives.servers import ROLES, Capability, Engine, locate_interpreter, probe, see
from objectives.units import DeviceKind, ServerName
from study.engines.build import built_engine
from study.engines.recipes import RECIPES

ENGINE_VARIABLE = "GPU_ALLOCATION_STUDY_ENGINE"


@dataclass(frozen=True, kw_only=True)
class EngineReport:
    """What a check came to."""

    problems: tuple[str, ...]  # sentences; none: it is right
    facts: dict[str, Any]  # versions, and what it saw of the device

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the engine."""
        return not self.problems


def find_engine(role: ServerName, configured: str | None, device_kind: DeviceKind) -> Engine:
    """The engine that a server is launched with.

    `configured` is an interpreter, a virtual environment's folder, the name of a built engine;
    `auto` or None: see above. What is named is taken as it is; `check_engine` judges it.

    Raises:
        UsageError: What was named is not there.
        EngineError: Nothing was named and nothing suitable is there; says how to build it.
    """
    if configured not in (None, "auto"):
        return engine_at(str(configured))
    if variable := os.environ.get(ENGINE_VARIABLE):
        return probe(locate_interpreter(variable))
    passed_over = []
    for engine in _candidates(role, device_kind):
        problems = engine.problems(role, device_kind)
        if not problems:
            return engine
        passed_over += problems
    raise EngineError(
        f"no engine for {role} on {device_kind} ({'; '.join(passed_over)}): python -m "
        f"study.engines build makes one, about {RECIPES[device_kind].size_bytes / 1e9:.1f} GB"
    )


def engine_at(configured: str) -> Engine:
    """The engine whose interpreter a person named.

    Raises:
        UsageError: It is not there.
        EngineError: It cannot be run.
    """
    if configured not in RECIPES:
        return probe(locate_interpreter(configured))
    if engine := built_engine(configured):
        return engine
    raise UsageError(
        f"engine {configured!r} is not built: python -m study.engines build --recipe {configured}"
    )


def _candidates(role: ServerName, device_kind: DeviceKind) -> Iterator[Engine]:
    """Engines that might do, the likeliest first."""
    likely = sorted(RECIPES, key=lambda name: name != device_kind)
    for name in likely:
        if role in RECIPES[name].roles and (engine := built_engine(name)):
            yield engine
    yield probe(Path(sys.executable), name="this interpreter")


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
        live: Also compute something there with its torch (seconds, and on a GPU some hundred MB
            for a moment); else by arithmetic on what is remembered of it (milliseconds).
    """
    capability = capability_of(device)
    has = {"vllm": engine.vllm_version, "whisper": engine.whisper_version}
    wanted = tuple(role for role in ROLES if has[role]) if roles is None else tuple(roles)
    problems = [] if wanted else [f"{engine.interpreter} has neither vLLM nor openai-whisper"]
    for role in wanted:
        problems += engine.problems(
            role, device.kind, device_name=device.name, capability=capability
        )
    facts: dict[str, Any] = {**engine.to_dict(), "roles": list(wanted), "seen": None}
    if live and not problems:
        try:
            facts["seen"] = see(engine, device.kind, device.environment())
        except EngineError as error:
            problems.append(str(error))
        else:
            problems += _strangeness(facts["seen"], device)
    return EngineReport(problems=tuple(dict.fromkeys(problems)), facts=facts)


def _strangeness(seen: dict[str, Any], device: Device) -> list[str]:
    """Whether what torch saw is the device that was meant; silent where torch does not tell."""
    uuid = seen.get("uuid")
    if device.kind == "cuda" and uuid is not None and uuid != device.uuid:
        return [f"torch sees {seen.get('name')} {uuid} where {device.name} {device.uuid} is meant"]
    return []


def capability_of(device: Device) -> Capability | None:
    """Compute capability of a CUDA device, (8, 6); None where there is none, or it is untold."""
    stated = device.describe().get("compute_capability")
    if not isinstance(stated, str):
        return None
    major, _, minor = stated.partition(".")
    return int(major), int(minor)
