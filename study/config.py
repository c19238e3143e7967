"""The door: a configuration file becomes one checked `StudyConfig`, or one line of refusal.

Two formats are read. Our own is described by `study.schema`. A block of the first users'
`dream.yaml` runs as it stands: its two parameters are bound to the two servers, its budget and
directions keep their meaning, and what it does not say (models, load) comes from the bundled
study for this machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from pydantic import ValidationError

from objectives import verdict
from objectives.errors import UsageError
from objectives.space import Binding, Parameter, Scalar, SearchSpace, ServerSettings, option_name
from study import legacy
from study.reference import reference
from study.schema import OBJECTIVES, SAMPLERS, Document, ParameterSection
from study.wording import first_error, kind_of, nearest


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A configuration that was checked: nothing in it needs a second look.

    Attributes:
        document: What the file says, defaults filled in.
        source: The file, or None for a bundled study.
        space: What may vary.
        baseline: What runs today, a whole point of the space; None if there is none.
        notes: What a person must be told once, a sentence each.
    """

    document: Document
    source: Path | None
    space: SearchSpace
    baseline: dict[str, Scalar] | None
    notes: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """The study's name."""
        return self.document.name

    @property
    def storage_url(self) -> str:
        """Where the study is kept."""
        return self.document.storage or f"sqlite:///studies/{self.document.name}.db"

    @property
    def directions(self) -> dict[str, Literal["minimize", "maximize"]]:
        """Objective to `minimize` or `maximize`; a neutral one minimises its distance."""
        return {
            name: "maximize" if objective.direction == "maximize" else "minimize"
            for name, objective in self.document.objectives.items()
        }

    @property
    def constraint_names(self) -> tuple[str, ...]:
        """The constraints of every trial, in order."""
        return verdict.names(self.limits)

    @property
    def limits(self) -> tuple[verdict.Limit, ...]:
        """The hard objectives of the service."""
        return tuple(
            verdict.Limit(objective=name, most=slo.max, least=slo.min)
            for name, slo in self.document.slo.items()
            if slo.hard
        )

    def with_changes(self, **changes: object) -> StudyConfig:
        """This configuration with top-level keys replaced, checked again."""
        data = self.document.model_dump(mode="json")
        data.update(changes)
        return _checked(data, source=self.source, notes=self.notes)


def read_config(path: Path | None, *, experiment: str | None = None) -> StudyConfig:
    """Read and check a configuration; without a path, the bundled study for this machine.

    Args:
        path: A YAML file of our own format or of the legacy one.
        experiment: Which experiment of a file that holds several.

    Raises:
        UsageError: The file cannot be read or says something that is not allowed.
    """
    if path is None:
        return bundled(_machine_kind())
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    block = _chosen(_parsed(text, source=path), source=path, experiment=experiment)
    if not legacy.is_legacy(block):
        return _checked(block, source=path)
    data, notes = legacy.from_legacy(
        block,
        source=str(path),
        bundled=lambda gpu: _bundled_data(_machine_kind() if gpu else "cpu"),
    )
    return _checked(data, source=path, notes=notes)


def bundled(kind: str) -> StudyConfig:
    """The bundled study for a device kind, `cuda` or `cpu`."""
    return _checked(_bundled_data(kind), source=None)


def _bundled_data(kind: str) -> dict[str, Any]:
    name = "gpu.yaml" if kind == "cuda" else "cpu.yaml"
    text = resources.files("study").joinpath("configs", name).read_text(encoding="utf-8")
    return cast(dict[str, Any], yaml.safe_load(text))


def _machine_kind() -> str:
    from objectives.device import open_device  # noqa: PLC0415 - a driver is asked only if need be

    return open_device("auto").kind


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a mapping that says a key twice, where YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _parsed(text: str, *, source: Path) -> object:
    try:
        return yaml.load(text, Loader=_UniqueKeys)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UsageError(f"{source}:{where}: not YAML: {error.problem}") from error
    except (yaml.YAMLError, TypeError) as error:
        raise UsageError(f"{source}: not YAML: {str(error).splitlines()[0]}") from error


def _chosen(data: object, *, source: Path, experiment: str | None) -> dict[str, Any]:
    """The one block that is meant: the file itself, or one of its experiments."""
    blocks = data
    if isinstance(data, dict) and "experiments" in data:
        blocks = data["experiments"]
    if isinstance(blocks, dict):
        if experiment is not None and blocks.get("name") != experiment:
            raise UsageError(
                f"{source}: experiment: found only {blocks.get('name')!r}, asked for {experiment!r}"
            )
        return blocks
    if not isinstance(blocks, list) or not blocks or not all(isinstance(b, dict) for b in blocks):
        raise UsageError(f"{source}: found {kind_of(data)}, allowed: a mapping, or experiments")
    names = [str(block.get("name")) for block in blocks]
    if experiment is None:
        if len(blocks) == 1:
            return cast(dict[str, Any], blocks[0])
        raise UsageError(
            f"{source}: experiments: found {len(blocks)}; name one with --experiment: "
            + ", ".join(names)
        )
    if experiment not in names:
        raise UsageError(
            f"{source}: experiment: found no {experiment!r}; allowed: {', '.join(names)}"
        )
    return cast(dict[str, Any], blocks[names.index(experiment)])


def _checked(
    data: Mapping[str, Any], *, source: Path | None, notes: tuple[str, ...] = ()
) -> StudyConfig:
    where = str(source) if source else "bundled study"
    try:
        document = Document.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{where}: {first_error(error)}") from error
    space = _space(document, where)
    _check_together(document, where)
    return StudyConfig(
        document=document,
        source=source,
        space=space,
        baseline=_baseline(document, space, where),
        notes=notes,
    )


def _space(document: Document, where: str) -> SearchSpace:
    parameters: list[Parameter] = []
    for name, section in document.search_space.items():
        key = f"{where}: search_space.{name}"
        try:
            parameters.append(_parameter(name, section))
        except ValueError as error:
            raise UsageError(f"{key}: {str(error).removeprefix(f'{name}: ')}") from error
    if not parameters:
        raise UsageError(f"{where}: search_space: found nothing, allowed: at least one parameter")
    try:
        return SearchSpace(tuple(parameters))
    except ValueError as error:
        raise UsageError(f"{where}: search_space.{error}") from error


def _parameter(name: str, section: ParameterSection) -> Parameter:
    bind = section.bind or legacy.BINDINGS.get(name)
    if bind is None:
        raise ValueError(
            "no `bind`; only " + " and ".join(legacy.BINDINGS) + " are bound without one"
        )
    numbers = [n for n in (section.low, section.high, section.step) if n is not None]
    return Parameter(
        name=name,
        binding=Binding.parse(bind),
        choices=section.choices,
        low=section.low,
        high=section.high,
        step=section.step,
        log=section.log,
        integer=bool(numbers) and all(isinstance(n, int) for n in numbers),
        when=section.when,
        bounds=section.bounds or legacy.BOUNDS.get(name),
    )


def _check_together(document: Document, where: str) -> None:
    """What several keys say together."""
    if document.vllm.weights == "real" and document.vllm.model is None:
        raise UsageError(f"{where}: vllm.model: missing; allowed: a name or a folder")
    if document.sampler.name not in SAMPLERS:
        raise UsageError(
            f"{where}: sampler: found {document.sampler.name!r}, allowed: {', '.join(SAMPLERS)}"
        )
    for name, slo in document.slo.items():
        if name not in OBJECTIVES:
            raise UsageError(f"{where}: slo.{name}: unknown{nearest(name, OBJECTIVES)}")
        if (slo.max is None) == (slo.min is None):
            raise UsageError(f"{where}: slo.{name}: give either max or min")
    if set(document.start_order) != {"neighbours", "whisper", "vllm"}:
        raise UsageError(
            f"{where}: start_order: found {list(document.start_order)}, "
            "allowed: neighbours, whisper and vllm, each once"
        )
    for index, neighbour in enumerate(document.neighbours):
        needed = {"running": "match", "command": "argv", "hold": "gib"}[neighbour.kind]
        if not getattr(neighbour, needed):
            raise UsageError(
                f"{where}: neighbours.{index}.{needed}: missing; a {neighbour.kind} needs it"
            )
    if "wer" in document.objectives and not document.wer:
        raise UsageError(f"{where}: wer: missing; the objective wer needs published figures")


def _baseline(document: Document, space: SearchSpace, where: str) -> dict[str, Scalar] | None:
    """The given baseline checked, or the seeds' 0.50 + small where the space has them."""
    given = document.baseline
    if given is None:
        known = {k: v for k, v in legacy.BASELINE.items() if k in space.names}
        if not known or any(not space[k].allows(v) for k, v in known.items()):
            return None
        given = dict(known)
        for parameter in space:
            if parameter.name not in given and space.is_active(parameter.name, given):
                given[parameter.name] = _today(parameter, document)
    for name, value in given.items():
        if name not in space.names:
            raise UsageError(f"{where}: baseline.{name}: unknown{nearest(name, space.names)}")
        if not space[name].allows(value):
            raise UsageError(
                f"{where}: baseline.{name}: found {value!r}, allowed: {_allowed(space[name])}"
            )
    point: dict[str, Scalar] = {}
    for parameter in space:
        if space.is_active(parameter.name, point):
            if parameter.name not in given:
                raise UsageError(f"{where}: baseline.{parameter.name}: missing")
            point[parameter.name] = parameter.nearest(given[parameter.name])
    return point


def _today(parameter: Parameter, document: Document) -> Scalar:
    """What the fixed settings say of a parameter, else its first value."""
    fixed = fixed_settings(document)[parameter.binding.server]
    binding = parameter.binding
    value: Scalar | None = {
        "args": fixed.args.get(binding.key),
        "env": fixed.env.get(binding.key),
        "model": fixed.model,
        "device": fixed.device,
    }[binding.kind]
    if value is not None and parameter.allows(value):
        return value
    if parameter.choices:
        return parameter.choices[0]
    assert parameter.low is not None
    return round(parameter.low) if parameter.integer else parameter.low


def fixed_settings(document: Document) -> dict[str, ServerSettings]:
    """The settings of both servers before a candidate is laid over them."""
    device = document.whisper.device
    return {
        "vllm": ServerSettings(
            model=document.vllm.model or "dummy",
            device=document.device,
            args={option_name(k): v for k, v in document.vllm.args.items()},
            env=document.vllm.env,
        ),
        "whisper": ServerSettings(
            model=document.whisper.model,
            device=document.device if device == "same" else device,
            args={option_name(k): v for k, v in document.whisper.args.items()},
            env=document.whisper.env,
        ),
    }


def _allowed(parameter: Parameter) -> str:
    if parameter.choices:
        return ", ".join(map(str, parameter.choices))
    return f"{parameter.low} to {parameter.high}"


def main(argv: Sequence[str] | None = None) -> int:
    """Check a configuration, or print what one may say."""
    parser = argparse.ArgumentParser(
        prog="python -m study.config",
        description="Check a configuration, or print what one may say.",
        epilog="example: python -m study.config my-box.yaml",
    )
    parser.add_argument("config", type=Path, nargs="?", help="YAML to check")
    parser.add_argument("--experiment", metavar="NAME", help="which block of several")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema for editors")
    parser.add_argument("--reference", action="store_true", help="print every key, in Markdown")
    args = parser.parse_args(argv)
    if args.schema:
        print(json.dumps(Document.model_json_schema(), indent=2))
        return 0
    if args.reference:
        print(reference())
        return 0
    try:
        config = read_config(args.config, experiment=args.experiment)
    except UsageError as error:
        print(f"study.config: {error}", file=sys.stderr)
        return 2
    size = config.space.size
    points = "infinitely many" if size is None else str(size)
    print(f"{config.name}: {points} points, objectives {', '.join(config.directions)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
