"""A configuration that was checked, and the checks that need more than one key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from objectives import constraints
from objectives.candidate import ServerSettings
from objectives.errors import UsageError
from objectives.space import Binding, Parameter, SearchSpace, option_name
from objectives.units import Scalar
from storage.trials import Direction
from study.config import legacy
from study.config.refusals import first_error, nearest
from study.config.reserved import refuse_reserved
from study.config.schema import OBJECTIVES, SAMPLERS, Document, ParameterSection


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A configuration that was checked: nothing in it needs a second look."""

    document: Document  # what the file says, defaults filled in
    source: Path | None  # the file; None for a bundled study
    space: SearchSpace
    baseline: dict[str, Scalar] | None  # what runs today, a whole point; None if there is none
    notes: tuple[str, ...] = ()  # what a person has to read once, a sentence each

    @property
    def name(self) -> str:
        """The study's name."""
        return self.document.name

    @property
    def storage_url(self) -> str:
        """Where the study is kept."""
        return self.document.storage or f"sqlite:///studies/{self.document.name}.db"

    @property
    def directions(self) -> dict[str, Direction]:
        """Objective to `minimize` or `maximize`; a neutral one minimises its distance."""
        return {
            name: "maximize" if objective.direction == "maximize" else "minimize"
            for name, objective in self.document.objectives.items()
        }

    @property
    def constraint_names(self) -> tuple[str, ...]:
        """The constraints of every trial, in order."""
        return constraints.names(self.limits)

    @property
    def limits(self) -> tuple[constraints.Limit, ...]:
        """The hard objectives of the service."""
        return tuple(
            constraints.Limit(objective=name, most=slo.max, least=slo.min)
            for name, slo in self.document.slo.items()
            if slo.hard
        )

    def with_changes(self, **changes: object) -> StudyConfig:
        """This configuration with top-level keys replaced, checked again."""
        data = self.document.model_dump(mode="json")
        data.update(changes)
        return checked(data, source=self.source, notes=self.notes)


def checked(
    data: Mapping[str, Any], *, source: Path | None, notes: tuple[str, ...] = ()
) -> StudyConfig:
    """Check what a file says in our own format; without a `source`, a bundled study.

    Raises:
        UsageError: A key is unknown or missing, or says something that is not allowed.
    """
    where = str(source) if source else "bundled study"
    try:
        document = Document.model_validate(data)
        space = _space(document)
        _check_together(document)
        refuse_reserved(document, space)
        baseline = _baseline(document, space)
    except ValidationError as error:
        raise UsageError(f"{where}: {first_error(error)}") from error
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
    return StudyConfig(
        document=document, source=source, space=space, baseline=baseline, notes=notes
    )


# Below, a ValueError says which key is wrong and what is allowed.


def _space(document: Document) -> SearchSpace:
    parameters: list[Parameter] = []
    for name, section in document.search_space.items():
        try:
            parameters.append(_parameter(name, section))
        except ValueError as error:
            said = str(error).removeprefix(f"{name}: ")
            raise ValueError(f"search_space.{name}: {said}") from error
    if not parameters:
        raise ValueError("search_space: found nothing, allowed: at least one parameter")
    try:
        return SearchSpace(tuple(parameters))
    except ValueError as error:
        raise ValueError(f"search_space.{error}") from error


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
        integer=bool(numbers) and all(isinstance(n, int) for n in numbers),
        bounds=section.bounds or legacy.BOUNDS.get(name),
        **section.model_dump(exclude={"bind", "bounds"}),
    )


def _check_together(document: Document) -> None:
    """What several keys say together."""
    if document.vllm.weights == "real" and document.vllm.model is None:
        raise ValueError("vllm.model: missing; allowed: a name or a folder")
    if document.sampler.name not in SAMPLERS:
        raise ValueError(
            f"sampler: found {document.sampler.name!r}, allowed: {', '.join(SAMPLERS)}"
        )
    for name, slo in document.slo.items():
        if name not in OBJECTIVES:
            raise ValueError(f"slo.{name}: unknown{nearest(name, OBJECTIVES)}")
        if (slo.max is None) == (slo.min is None):
            raise ValueError(f"slo.{name}: give either max or min")
    if set(document.start_order) != {"neighbours", "whisper", "vllm"}:
        raise ValueError(
            f"start_order: found {list(document.start_order)}, "
            "allowed: neighbours, whisper and vllm, each once"
        )
    for index, neighbour in enumerate(document.neighbours):
        needed = {"running": "match", "command": "argv", "hold": "gib"}[neighbour.kind]
        if not getattr(neighbour, needed):
            raise ValueError(f"neighbours.{index}.{needed}: missing; a {neighbour.kind} needs it")
    if "wer" in document.objectives and not document.wer:
        raise ValueError("wer: missing; the objective wer needs published figures")


def _baseline(document: Document, space: SearchSpace) -> dict[str, Scalar] | None:
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
            raise ValueError(f"baseline.{name}: unknown{nearest(name, space.names)}")
        if not space[name].allows(value):
            raise ValueError(f"baseline.{name}: found {value!r}, allowed: {_allowed(space[name])}")
    point: dict[str, Scalar] = {}
    for parameter in space:
        if space.is_active(parameter.name, point):
            if parameter.name not in given:
                raise ValueError(f"baseline.{parameter.name}: missing")
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
