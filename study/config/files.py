"""From a YAML file, or the bundled study for this machine, to a checked configuration.

Two formats are read. Our own is described by the schema. A block of the first users' `dream.yaml`
runs as it stands: its two parameters are bound to the two servers, its budget and directions keep
their meaning, and what it does not say (models, load) comes from the bundled study for this
machine.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, cast

import yaml

from objectives.errors import UsageError
from study.config import legacy
from study.config.refusals import kind_of
from study.config.study_config import StudyConfig, checked


def read_config(path: Path | None, *, experiment: str | None = None) -> StudyConfig:
    """Read and check a configuration; without a path, the bundled study for this machine.

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
        return checked(block, source=path)
    data, notes = legacy.from_legacy(
        block,
        source=str(path),
        bundled=lambda gpu: _bundled_data(_machine_kind() if gpu else "cpu"),
    )
    return checked(data, source=path, notes=notes)


def bundled(kind: str) -> StudyConfig:
    """The bundled study for a device kind, `cuda` or `cpu`."""
    return checked(_bundled_data(kind), source=None)


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
    if experiment is None and len(blocks) > 1:
        raise UsageError(
            f"{source}: experiments: found {len(blocks)}; name one with --experiment: "
            + ", ".join(names)
        )
    if experiment not in (None, *names):
        raise UsageError(
            f"{source}: experiment: found no {experiment!r}; allowed: {', '.join(names)}"
        )
    return cast(dict[str, Any], blocks[0 if experiment is None else names.index(experiment)])
