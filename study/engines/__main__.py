"""Show, build or check the engines: the servers' own Python environments."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from objectives.device import Device, open_device
from objectives.errors import BenchError, EngineError, UsageError
from objectives.servers import ROLES, Engine, dotted, study_home
from objectives.units import GIB
from study.engines.build import build_engine, built_engine, built_size_bytes, state_of
from study.engines.check import EngineReport, check_engine, gpu_of
from study.engines.devices import keep_total, objection_of
from study.engines.find import engine_at, find_engine, missing_recipe
from study.engines.recipes import RECIPES

_TOLD_APART = ("warnings", "vllm", "build_tools")
_EPILOG = """examples:
  python -m study.engines                          what is there, and which server would use what
  python -m study.engines build                    make the engine for this card and driver
  python -m study.engines build --recipe whisper-pascal
  python -m study.engines check                    import vLLM on the device, in ten seconds
  python -m study.engines check --engine /opt/llm/bin/python --device cuda:0

exit: 0 done; 1 the check or the build failed; 2 bad usage, or no such device; 130 interrupted
"""


def _overview(device: Device) -> dict[str, Any]:
    roles: dict[str, dict[str, Any]] = {}
    beside = None
    for role in ROLES:
        try:
            engine = beside = find_engine(role, "auto", device, beside=beside)
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
    gpu = gpu_of(device)
    capability, cuda = (gpu.capability, gpu.cuda) if gpu else (None, None)
    return {
        "kind": device.kind,
        "name": device.name,
        "uuid": device.uuid,
        "total_bytes": device.total_bytes,
        "compute_capability": None if capability is None else dotted(capability),
        "driver": gpu.driver if gpu else None,
        "cuda_driver": None if cuda is None else dotted(cuda),
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
    if device["driver"]:
        yield f"driver   {device['driver']}, CUDA {device['cuda_driver'] or '-'} and older"
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
    if beside := report.facts.get("beside"):
        yield f"  beside it: {beside}"
    yield from _seen_text(report.facts["seen"] or {})
    yield from (f"  ! {problem}" for problem in report.problems)
    yield f"  {'ok' if report.ok else 'NOT ok'}"


def _seen_text(seen: dict[str, Any]) -> Iterator[str]:
    """What was seen live, a line each."""
    told = {name: value for name, value in seen.items() if name not in _TOLD_APART}
    if told:
        yield f"  computed: {', '.join(f'{name} {value}' for name, value in told.items())}"
    yield from (f"  torch warns: {warning}" for warning in seen.get("warnings", ()))
    if (vllm := seen.get("vllm")) and "error" not in vllm:
        capability = vllm["capability"] and dotted(tuple(vllm["capability"]))
        yield f"  vLLM finds: {vllm['kind']}{f' of capability {capability}' if capability else ''}"
    if (tools := seen.get("build_tools")) and tools["compiler"]:
        yield f"  compiles with: {tools['compiler']}"


def _show(options: argparse.Namespace) -> int:
    overview = _overview(open_device(options.device, objection_of()))
    _print(options.json, overview, _overview_text(overview))
    return 0


def _build(options: argparse.Namespace) -> int:
    device = open_device(options.device, objection_of())
    engine = build_engine(
        options.recipe or missing_recipe("vllm", device).name,
        log=lambda line: print(line, file=sys.stderr, flush=True),
        gpu=gpu_of(device),
        rebuild=options.rebuild,
    )
    _print(options.json, engine.to_dict(), [_engine_text(engine.to_dict())])
    return 0


def _check(options: argparse.Namespace) -> int:
    device = open_device(options.device, objection_of())
    if options.engine:
        reports = [
            _with_the_other(
                check_engine(engine := engine_at(options.engine), device), engine, device
            )
        ]
    else:
        reports = _check_both(device)
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


def _check_both(device: Device) -> list[EngineReport]:
    """What a study would use here, a report an engine.

    Raises: EngineError, if there is none for vLLM.
    """
    first, second = ROLES
    language = find_engine(first, "auto", device)
    try:
        speech = find_engine(second, "auto", device, beside=language)
    except EngineError as error:
        report = check_engine(language, device, roles=[first])
        return [replace(report, problems=(*report.problems, str(error)))]
    if speech.interpreter == language.interpreter:
        return [check_engine(language, device, roles=ROLES)]
    return [
        check_engine(language, device, roles=[first]),
        check_engine(speech, device, roles=[second]),
    ]


def _with_the_other(report: EngineReport, engine: Engine, device: Device) -> EngineReport:
    """The report, and which engine Whisper would have, where a vLLM stands without it."""
    if report.facts["roles"] != ["vllm"]:
        return report
    try:
        other = find_engine("whisper", "auto", device, beside=engine)
    except EngineError as error:
        said = str(error)
    else:
        said = f"engine {other.name} is used for Whisper"
    return replace(report, facts={**report.facts, "beside": said})


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
