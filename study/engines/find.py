"""`python -m study.engines`: the servers' own Python environments - what is there, is it right?

A server is launched with an engine's interpreter. Which one: what the configuration names; else
`GPU_ALLOCATION_STUDY_ENGINE`, for the servers that it has a package for; else, for Whisper, vLLM's
engine, if it has Whisper; else an engine that `build` made; else this interpreter itself, if it
happens to have what is needed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from objectives.device import Device
from objectives.errors import EngineError, UsageError
from objectives.servers import Engine, locate_interpreter, probe
from objectives.units import ServerName
from study.engines.build import built_engine
from study.engines.check import gpu_of
from study.engines.recipes import RECIPES, Recipe, recipe_for, refusal

ENGINE_VARIABLE = "GPU_ALLOCATION_STUDY_ENGINE"


def find_engine(
    role: ServerName, configured: str | None, device: Device, *, beside: Engine | None = None
) -> Engine:
    """The engine that a server is launched with.

    `configured` is an interpreter, a virtual environment's folder, the name of a built engine;
    `auto` or None: see above. What is named is taken as it is; `check_engine` judges it. `beside`
    is the engine of the study's other server: it serves this one, too, if it can.

    Raises:
        UsageError: What was named is not there.
        EngineError: Nothing was named and nothing suitable is there; says how to build it.
    """
    if configured not in (None, "auto"):
        return engine_at(str(configured))
    passed_over = []
    if variable := os.environ.get(ENGINE_VARIABLE):
        named = probe(locate_interpreter(variable))
        if _is_meant_for(named, role):
            return named
        passed_over += named.problems(role, device.kind)
    gpu = gpu_of(device)
    for engine in _candidates(role, device, beside):
        problems = engine.problems(role, device.kind, gpu=gpu)
        if not problems:
            return engine
        passed_over += problems
    why = "; ".join(dict.fromkeys(passed_over))
    raise EngineError(
        f"no engine for {role} on {device.kind} ({why}): {_remedy(role, device, beside)}"
    )


def _is_meant_for(named: Engine, role: ServerName) -> bool:
    """Whether an engine named for both servers is for this one: not if it has the other alone."""
    has = {"vllm": named.vllm_version, "whisper": named.whisper_version}
    return bool(has[role]) or not any(has.values())


def missing_recipe(role: ServerName, device: Device, beside: Engine | None = None) -> Recipe:
    """What to build where `find_engine` finds nothing."""
    return recipe_for(role, device.kind, gpu_of(device), alone=beside is not None)


def _remedy(role: ServerName, device: Device, beside: Engine | None) -> str:
    recipe = missing_recipe(role, device, beside)
    if reason := refusal(recipe, gpu_of(device)):
        return reason
    named = "" if recipe == missing_recipe("vllm", device) else f" --recipe {recipe.name}"
    size = f"about {recipe.size_bytes / 1e9:.1f} GB"
    return f"python -m study.engines build{named} makes one, {size}"


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


def _candidates(role: ServerName, device: Device, beside: Engine | None) -> Iterator[Engine]:
    """Engines that might do, the likeliest first."""
    if beside is not None:
        yield beside
    first = missing_recipe(role, device).name
    for name in sorted(RECIPES, key=lambda name: name != first):
        if role in RECIPES[name].roles and (engine := built_engine(name)):
            yield engine
    yield probe(Path(sys.executable), name="this interpreter")
