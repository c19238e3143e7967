"""How a refused configuration is put into one line: the key, what was found, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from pydantic import BaseModel, ValidationError

from study.config.schema import Document, model_in

_PYDANTIC_STEPS = ("function-", "float", "int", "tuple[", "constrained-")
"""Steps that pydantic adds to a key's path inside a union; they are no keys of the file."""


def first_error(error: ValidationError) -> str:
    """One line: key, what was found, what is allowed."""
    errors = error.errors(include_url=False)
    first = errors[0]
    loc = [str(part) for part in first["loc"] if not str(part).startswith(_PYDANTIC_STEPS)]
    key = ".".join(loc) or "file"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key{nearest(loc[-1], _fields_at(loc[:-1]))}{more}"
    if first["type"] == "missing":
        return f"{key}: missing{more}"
    allowed = first["msg"].removeprefix("Value error, ")
    found = repr(first["input"])
    found = found if len(found) <= 60 else f"{found[:57]}..."
    return f"{key}: found {found}; {allowed[:1].lower()}{allowed[1:]}{more}"


def _fields_at(loc: Sequence[str]) -> list[str]:
    """The keys that the schema knows at a place."""
    model: type[BaseModel] | None = Document
    for part in loc:
        known = model.model_fields.get(part) if model else None
        model = model_in(known.annotation) if known else None
    return list(model.model_fields) if model else []


def nearest(word: str, known: Sequence[str]) -> str:
    """The known word that was probably meant, or all of them."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; allowed: {', '.join(known)}" if known else ""


def kind_of(value: object) -> str:
    """What a value is, for people."""
    return "nothing" if value is None else f"a {type(value).__name__}"
