"""The configuration reference, made from the schema: it cannot say other than the program does."""

from __future__ import annotations

import json

from pydantic import BaseModel

from study.schema import Document, model_in


def reference() -> str:
    """The configuration reference as Markdown, made from the schema."""
    lines: list[str] = []
    _reference(Document, "", lines)
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *lines])


def _reference(model: type[BaseModel], prefix: str, lines: list[str]) -> None:
    for name, known in model.model_fields.items():
        inner = model_in(known.annotation)
        text = str(known.annotation)
        many = "dict[" in text or "tuple[" in text
        key = f"{prefix}{name}"
        default = "required" if known.is_required() else _default_text(known.get_default(call_default_factory=True))
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            path = f"{key}.*." if many else f"{key}."
            lines.append(f"| `{key}` | | {known.description} |")
            _reference(inner, path, lines)
        else:
            lines.append(f"| `{key}` | {default} | {known.description} |")


def _default_text(value: object) -> str:
    if value is None or value in ((), {}) or isinstance(value, BaseModel):
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"`{key}`" for key in value)
    return f"`{json.dumps(value)}`"
