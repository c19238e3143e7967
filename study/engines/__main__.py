"""Show, build or check the engines: the servers' own Python environments."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from objectives.device import Device, open_device
from objectives.errors import BenchError, EngineError, UsageError
from objectives.servers import ROLES, dotted, study_home
from objectives.units import GIB
from study.engines.build import build_engine, built_engine, built_size_bytes, state_of
from study.engines.devices import keep_total, objection_of
from study.engines.find import EngineReport, capability_of, check_engine, engine_at, find_engine
from study.engines.recipes import RECIPES

_EPILOG = """examples:
  python -m study.engines                          what is there, and which server would use what
  python -m study.engines build                    make the engine for this machine
  python -m study.engines build --recipe whisper-pascal
  python -m study.engines check --engine /opt/llm/bin/python --device cuda:0

exit: 0 done; 1 the check or the build failed; 2 bad usage, or no such device; 130 interrupted
"""


def _overview(device: Device) -> dict[str, Any]:
    roles: dict[str, dict[str, Any]] = {}
    for role in ROLES:
        try:
            engine = find_engine(role, "auto", device.kind)
        except (EngineError, UsageError) as error:
            roles[role] = {"engine": None, "problems": [str(error)]}
        else:
            report = check_engine(engine, device, roles=(role,), live=False)
            roles[role] = {"engine": engine.to_dict(), "problems": list(report.problems)}
    return {
        "home": str(study_home()),
        "device": _device_to_dict(device),
        "roles": roles,
        "recipes": [_recipe_to_dict(name) for name in RECIPES],
    }


def _device_to_dict(device: Device) -> dict[str, Any]:
    capability = capability_of(device)
    return {
        "kind": device.kind,
        "name": device.name,
        "uuid": device.uuid,
        "total_bytes": device.total_bytes,
        "compute_capability": None if capability is None else dotted(capability),
    }


def _recipe_to_dict(name: str) -> dict[str, Any]:
    recipe, state = RECIPES[name], state_of(name)
    engine = built_engine(name) if state in ("ready", "outdated") else None
    return {
        "name": name,
        "makes": recipe.makes,
        "roles": list(recipe.roles),
        "state": state,
        "size_bytes": built_size_bytes(name) if engine else recipe.size_bytes,
        "engine": None if engine is None else engine.to_dict(),
    }


def _overview_text(overview: dict[str, Any]) -> Iterator[str]:
    device = overview["device"]
    yield f"device   {device['name']} ({device['kind']}, {device['total_bytes'] / GIB:.1f} GiB)"
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
    overview = _overview(open_device(options.device, objection_of()))
    _print(options.json, overview, _overview_text(overview))
    return 0


def _build(options: argparse.Namespace) -> int:
    device = open_device(options.device, objection_of())
    engine = build_engine(
        device.kind,
        log=lambda line: print(line, file=sys.stderr, flush=True),
        recipe=options.recipe,
        capability=capability_of(device),
        rebuild=options.rebuild,
    )
    _print(options.json, engine.to_dict(), [_engine_text(engine.to_dict())])
    return 0


def _check(options: argparse.Namespace) -> int:
    device = open_device(options.device, objection_of())
    if options.engine:
        reports = [check_engine(engine_at(options.engine), device)]
    else:
        pairs = [(role, find_engine(role, "auto", device.kind)) for role in ROLES]
        engines = {engine.interpreter: engine for _, engine in pairs}
        reports = [
            check_engine(
                engine, device, roles=[role for role, its in pairs if its.interpreter == place]
            )
            for place, engine in engines.items()
        ]
    for report in reports:
        if report.ok:
            keep_total(device, report.facts["seen"])
    document = {
        "ok": all(report.ok for report in reports),
        "device": _device_to_dict(device),
        "engines": [{"ok": report.ok, **asdict(report)} for report in reports],
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
    except (UsageError, BenchError) as error:  # not an engine's: the device no longer answers
        print(f"python -m study.engines: {error}", file=sys.stderr)
        return 1 if isinstance(error, EngineError) else 2
    except KeyboardInterrupt:
        print("python -m study.engines: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
