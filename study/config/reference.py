"""The configuration reference, made from the schema: it cannot say other than the program does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from textwrap import fill
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from study.config.legacy import BINDINGS, BOUNDS
from study.config.reserved import reserved
from study.config.schema import OBJECTIVES, Document, model_in

_HEAD = """\
# Configuration

`python -m study.config --reference` prints this page from the program's own schema: change the
schema, not the page.

A study is one YAML file. Only `search_space` is required; what a study with real weights needs
beside it is `vllm.model`. Check a file before you use it, which launches nothing:

```sh
python -m study.config my-box.yaml
```

Unknown keys are refused, with the nearest known one. A key that stands twice is refused too.
A block of the legacy `dream.yaml` is accepted as it stands: see
[from the legacy](from-the-legacy.md).

```yaml
name: my-box
vllm:
  model: Qwen/Qwen2.5-7B-Instruct-AWQ
  args: {max-model-len: 2048}
search_space:
  utilization:
    bind: vllm.args.gpu-memory-utilization
    low: 0.40
    high: 0.60
    step: 0.05
    bounds: [0.30, 0.70]
  sequences: {bind: vllm.args.max-num-seqs, choices: [16, 32, 64]}
  whisper_size: {bind: whisper.model, choices: [tiny, base, small]}
baseline: {utilization: 0.50, sequences: 16, whisper_size: small}
objectives:
  stt_latency_ms: minimize
  concurrent_capacity: maximize
  gpu_utilization: {direction: neutral, target: 70}
```

An editor that knows YAML schemas completes and checks keys while you type, if the file begins
with a line that names [the JSON Schema](configuration.schema.json):

```yaml
# yaml-language-server: $schema=docs/configuration.schema.json
```

Some keys have a short form:

| instead of | write |
|---|---|
| `search_space.NAME: {choices: [a, b]}` | `search_space.NAME: [a, b]`, if NAME needs no `bind` |
| `search_space.NAME.when: {OTHER: [a]}` | `search_space.NAME.when: {OTHER: a}` |
| `objectives.NAME: {direction: minimize}` | `objectives.NAME: minimize` |
| `sampler: {name: tpe}` | `sampler: tpe` |

A range whose `low`, `high` and `step` are whole numbers holds whole numbers only.

In the tables `*` stands for a name of yours, or for each item of a list. A dash means that the key
may be left out, and nothing stands in for it.

Names that need no `bind`:
"""
_OWN = """\
## What the study says to its servers itself

These are refused wherever they stand: fixed, in the search space, or with a neighbour. A server
would take them, and the study would measure something else than it says.

| refused | because |
|---|---|"""
_COLUMNS = "| key | default | meaning | allowed |\n|---|---|---|---|"
_PLAIN = {"string": "text", "boolean": "true or false", "null": "null", "object": "a mapping"}
_ANY_VALUE = {"boolean", "integer", "number", "string"}
_OBJECTIVES = "`*` is one of " + ", ".join(f"`{name}`" for name in OBJECTIVES) + "."
_NAMES = {"objectives": _OBJECTIVES, "slo": _OBJECTIVES}
"""What `*` may be, where that is not free."""


def reference() -> str:
    """The configuration reference as Markdown, made from the schema."""
    schema = Document.model_json_schema()
    scalars: list[str] = []
    sections: list[str] = []
    for name, known in Document.model_fields.items():
        rows = list(_rows(Document, "", schema, only=name))
        if model_in(known.annotation) is None:
            scalars += rows
        else:
            sections += [f"## `{name}`", _about(name, known), "\n".join([_COLUMNS, *rows])]
    study = "\n".join([_COLUMNS, *scalars])
    own = "\n".join([_OWN, *(f"| {keys} | {why} |" for keys, why in reserved())])
    return "\n\n".join([_head(), "## The study itself", study, *sections, own])


def _head() -> str:
    """What stands before the tables."""
    bound = [f"- `{name}` is `{bind}`{_limits(name)}" for name, bind in BINDINGS.items()]
    return "\n".join([_HEAD, *bound])


def _limits(name: str) -> str:
    low, high = BOUNDS.get(name, (None, None))
    return "" if low is None else f", with the hard bounds {low:g} to {high:g}"


def _about(name: str, known: FieldInfo) -> str:
    """A section's meaning, whether it is required, its default, and what its names may be."""
    default = _default(known)
    parts = [str(known.description)]
    if known.is_required():
        parts.append("Required.")
    elif default != "-":
        parts.append(f"Default: {default}.")
    return fill(" ".join([*parts, _NAMES.get(name, "")]).strip(), 100)


def _rows(
    model: type[BaseModel], prefix: str, schema: Mapping[str, Any], *, only: str | None = None
) -> Iterator[str]:
    """A row for every key of a model, and below it for every key inside."""
    own = schema if model is Document else schema["$defs"][model.__name__]
    for name, known in model.model_fields.items():
        if only not in (None, name):
            continue
        inner = model_in(known.annotation)
        allowed = "" if inner else _allowed(own["properties"][name])
        default = "" if inner else _default(known)
        if inner is None or prefix:
            yield f"| `{prefix}{name}` | {default} | {known.description} | {allowed} |"
        if inner is not None:
            many = "dict[" in str(known.annotation) or "tuple[" in str(known.annotation)
            yield from _rows(inner, f"{prefix}{name}{'.*' if many else ''}.", schema)


def _default(known: FieldInfo) -> str:
    """A key's default as YAML takes it."""
    if known.is_required():
        return "required"
    value = known.get_default(call_default_factory=True)
    if value is None or value in ((), {}) or isinstance(value, BaseModel):
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"`{key}`" for key in value)
    return f"`{json.dumps(value)}`"


def _allowed(schema: Mapping[str, Any]) -> str:
    """What a key takes, in words, from its JSON Schema."""
    if "anyOf" in schema:
        return _alternatives(schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "")
    if kind in ("integer", "number"):
        return _number(schema)
    if kind == "array":
        return _list(schema)
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"names, each with {_allowed(schema['additionalProperties'])}"
    return _PLAIN.get(kind, str(kind))


def _alternatives(options: list[Mapping[str, Any]]) -> str:
    kinds = {str(option.get("type")) for option in options}
    rest = [option for option in options if option.get("type") != "null"]
    if kinds >= _ANY_VALUE:
        rest = [option for option in rest if option.get("type") not in _ANY_VALUE]
        return " or ".join(["a number, text, true or false", *map(_allowed, rest)])
    if kinds >= {"integer", "number"}:
        rest = [option for option in rest if option.get("type") != "integer"]
    return " or ".join(map(_allowed, rest))


def _number(schema: Mapping[str, Any]) -> str:
    words = "whole number" if schema["type"] == "integer" else "number"
    if "exclusiveMinimum" in schema:
        return f"{words} > {schema['exclusiveMinimum']:g}"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None:
        return words
    return f"{words} >= {low:g}" if high is None else f"{words} {low:g} to {high:g}"


def _list(schema: Mapping[str, Any]) -> str:
    if "prefixItems" in schema:
        return f"two of: {_allowed(schema['prefixItems'][0])}"
    return f"list of: {_allowed(schema['items'])}"
