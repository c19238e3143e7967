"""`python -m study.engines`: the servers' own Python environments - what is there, is it right?

A server is launched with an engine's interpreter. Which one: what the configuration names; else
`GPU_ALLOCATION_STUDY_ENGINE`; else an engine that `build` made; else this interpreter itself, if
it happens to have what is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objectives.compute_capability import Capability, dotted
from objectives.device import Device, DeviceKind, open_device
from objectives.engine import (
    ROLES,
    Engine,
    Role,
    locate_interpreter,
    probe,
    see,
    study_home,
)
from objectives.errors import BenchError, EngineError, UsageError
from study.engine_build import build_engine, built_engine, built_size_bytes, state_of
from study.engine_recipes import RECIPES

ENGINE_VARIABLE = "GPU_ALLOCATION_STUDY_ENGINE"
_EPILOG = """examples:
  python -m study.engines                          what is there, and which server would use what
  python -m study.engines build                    make the engine for this machine
  python -m study.engines build --recipe whisper-pascal
  python -m study.engines check --engine /opt/llm/bin/python --device cuda:0

exit: 0 done; 1 the check or the build failed; 2 bad usage; 130 interrupted
"""


@dataclass(frozen=True, kw_only=True)
class EngineReport:
    """What a check came to."""

    problems: tuple[str, ...]  # sentences; none: it is right
    facts: dict[str, Any]  # versions, and what it saw of the device

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the engine."""
        return not self.problems

    def document(self) -> dict[str, Any]:
        """JSON-able."""
        return {"ok": self.ok, "problems": list(self.problems), "facts": self.facts}


def find_engine(
    role: Role, configured: str | None, device_kind: DeviceKind, *, home: Path | None = None
) -> Engine:
    """The engine that a server is launched with.

    Args:
        role: The server.
        configured: An interpreter, a virtual environment's folder, the name of a built engine;
            `auto` or None: see above. What is named is taken as it is; `check_engine` judges it.
        device_kind: What the server shall compute on.
        home: Where built engines are; default: `study_home()`.

    Raises:
        UsageError: What was named is not there.
        EngineError: Nothing was named and nothing suitable is there; says how to build it.
    """
    if configured not in (None, "auto"):
        return _named(str(configured), home)
    if variable := os.environ.get(ENGINE_VARIABLE):
        return probe(locate_interpreter(variable), home=home)
    passed_over = []
    for engine in _candidates(role, device_kind, home):
        problems = engine.problems(role, device_kind)
        if not problems:
            return engine
        passed_over += problems
    raise EngineError(_nothing_found(role, device_kind, passed_over))


def _named(configured: str, home: Path | None) -> Engine:
    if configured in RECIPES and (engine := built_engine(configured, home=home)):
        return engine
    if configured in RECIPES:
        raise UsageError(
            f"engine {configured!r} is not built: python -m study.engines build --recipe "
            f"{configured}"
        )
    return probe(locate_interpreter(configured), home=home)


def _candidates(role: Role, device_kind: DeviceKind, home: Path | None) -> Iterator[Engine]:
    """Engines that might do, the likeliest first."""
    likely = sorted(RECIPES, key=lambda name: name != device_kind)
    for name in likely:
        if role in RECIPES[name].roles and (engine := built_engine(name, home=home)):
            yield engine
    yield probe(Path(sys.executable), name="this interpreter", home=home)


def _nothing_found(role: Role, device_kind: DeviceKind, passed_over: Sequence[str]) -> str:
    size_gb = RECIPES[device_kind].size_bytes / 1e9
    return (
        f"no engine for {role} on {device_kind} ({'; '.join(passed_over)}): "
        f"python -m study.engines build makes one, about {size_gb:.1f} GB"
    )


def check_engine(
    engine: Engine,
    device: Device,
    *,
    roles: Collection[Role] | None = None,
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
    wanted = _roles_of(engine) if roles is None else tuple(roles)
    problems = [] if wanted else [f"{engine.interpreter} has neither vLLM nor openai-whisper"]
    for role in wanted:
        problems += engine.problems(
            role, device.kind, device_name=device.name, capability=capability
        )
    facts: dict[str, Any] = {**engine.document(), "roles": list(wanted), "seen": None}
    if live and not problems:
        try:
            facts["seen"] = see(engine, device.kind, device.environment())
        except EngineError as error:
            problems.append(str(error))
        else:
            problems += _strangeness(facts["seen"], device)
    return EngineReport(problems=tuple(dict.fromkeys(problems)), facts=facts)


def _roles_of(engine: Engine) -> tuple[Role, ...]:
    has = {"vllm": engine.vllm_version, "whisper": engine.whisper_version}
    return tuple(role for role in ROLES if has[role])


def _strangeness(seen: dict[str, Any], device: Device) -> list[str]:
    """Whether what torch saw is the device that was meant; silent where torch does not tell."""
    uuid = seen.get("uuid")
    if device.kind == "cuda" and uuid is not None and uuid != device.uuid:
        return [f"torch sees {seen.get('name')} {uuid} where {device.name} {device.uuid} is meant"]
    return []


def capability_of(device: Device) -> Capability | None:
    """Compute capability of a CUDA device, (8, 6); None where there is none, or it is untold."""
    told = device.describe().get("compute_capability")
    if not isinstance(told, str):
        return None
    major, _, minor = told.partition(".")
    return int(major), int(minor)


def _overview(device: Device, home: Path | None) -> dict[str, Any]:
    roles: dict[str, dict[str, Any]] = {}
    for role in ROLES:
        try:
            engine = find_engine(role, "auto", device.kind, home=home)
        except (EngineError, UsageError) as error:
            roles[role] = {"engine": None, "problems": [str(error)]}
        else:
            report = check_engine(engine, device, roles=(role,), live=False)
            roles[role] = {"engine": engine.document(), "problems": list(report.problems)}
    return {
        "home": str(study_home() if home is None else home),
        "device": _device_document(device),
        "roles": roles,
        "recipes": [_recipe_document(name, home) for name in RECIPES],
    }


def _device_document(device: Device) -> dict[str, Any]:
    capability = capability_of(device)
    return {
        "kind": device.kind,
        "name": device.name,
        "uuid": device.uuid,
        "total_bytes": device.total_bytes,
        "compute_capability": None if capability is None else dotted(capability),
    }


def _recipe_document(name: str, home: Path | None) -> dict[str, Any]:
    recipe, state = RECIPES[name], state_of(name, home=home)
    engine = built_engine(name, home=home) if state in ("ready", "outdated") else None
    return {
        "name": name,
        "makes": recipe.makes,
        "roles": list(recipe.roles),
        "state": state,
        "size_bytes": built_size_bytes(name, home=home) if engine else recipe.size_bytes,
        "engine": None if engine is None else engine.document(),
    }


def _overview_text(overview: dict[str, Any]) -> Iterator[str]:
    device = overview["device"]
    yield f"device   {device['name']} ({device['kind']}, {device['total_bytes'] / 2**30:.1f} GiB)"
    for role, found in overview["roles"].items():
        engine = found["engine"]
        yield f"{role:<9}{'-' if engine is None else _engine_text(engine)}"
        yield from (f"         ! {problem}" for problem in found["problems"])
    yield f"engines in {overview['home']}/engines:"
    for recipe in overview["recipes"]:
        size = f"{recipe['size_bytes'] / 1e9:.1f} GB"
        about = "" if recipe["engine"] else "about "
        yield f"  {recipe['name']:<15}{recipe['state']:<11}{about}{size}; {recipe['makes']}"


def _engine_text(engine: dict[str, Any]) -> str:
    parts = [
        f"{engine['vllm_distribution'] or 'vllm'} {engine['vllm'] or '-'}",
        f"whisper {engine['whisper'] or '-'}",
        f"torch {engine['torch'] or '-'}",
        f"Python {engine['python']}",
    ]
    return f"{engine['name']}: {', '.join(parts)} ({engine['interpreter']})"


def _report_text(report: EngineReport) -> Iterator[str]:
    yield _engine_text(report.facts)
    yield f"  servers: {', '.join(report.facts['roles']) or 'none'}"
    if report.facts["seen"]:
        seen = ", ".join(f"{name} {value}" for name, value in report.facts["seen"].items())
        yield f"  computed: {seen}"
    yield from (f"  ! {problem}" for problem in report.problems)
    yield f"  {'ok' if report.ok else 'NOT ok'}"


def _show(options: argparse.Namespace) -> int:
    overview = _overview(open_device(options.device), None)
    _print(options.json, overview, _overview_text(overview))
    return 0


def _build(options: argparse.Namespace) -> int:
    device = open_device(options.device)
    engine = build_engine(
        device.kind,
        say=lambda line: print(line, file=sys.stderr, flush=True),
        recipe=options.recipe,
        capability=capability_of(device),
        rebuild=options.rebuild,
    )
    _print(options.json, engine.document(), [_engine_text(engine.document())])
    return 0


def _check(options: argparse.Namespace) -> int:
    device = open_device(options.device)
    if options.engine:
        reports = [check_engine(_named(options.engine, None), device)]
    else:
        pairs = [(role, find_engine(role, "auto", device.kind)) for role in ROLES]
        engines = {engine.interpreter: engine for _, engine in pairs}
        reports = [
            check_engine(
                engine, device, roles=[role for role, its in pairs if its.interpreter == place]
            )
            for place, engine in engines.items()
        ]
    document = {
        "ok": all(report.ok for report in reports),
        "device": _device_document(device),
        "engines": [report.document() for report in reports],
    }
    _print(options.json, document, (line for each in reports for line in _report_text(each)))
    return 0 if document["ok"] else 1


def _print(as_json: bool, document: dict[str, Any], lines: Iterator[str] | list[str]) -> None:
    print(json.dumps(document, indent=2) if as_json else "\n".join(lines))


_ACTIONS = {"show": _show, "build": _build, "check": _check}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m study.engines",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", nargs="?", choices=tuple(_ACTIONS), default="show")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or GPU-UUID")
    parser.add_argument("--engine", help="check this one: an interpreter, a folder, a built name")
    parser.add_argument("--recipe", choices=tuple(RECIPES), help="build this one")
    parser.add_argument("--rebuild", action="store_true", help="build it although it is there")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args(argv)
    if options.action != "build" and (options.recipe or options.rebuild):
        parser.error("--recipe and --rebuild belong to build")
    if options.action != "check" and options.engine:
        parser.error("--engine belongs to check")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Exit 0: done; 1: the check or the build failed; 2: bad usage; 130: interrupted."""
    options = _parse(argv)
    try:
        return _ACTIONS[options.action](options)
    except UsageError as error:
        print(f"python -m study.engines: {error}", file=sys.stderr)
        return 2
    except BenchError as error:
        print(f"python -m study.engines: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("python -m study.engines: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
