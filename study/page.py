"""The elements that the HTML report is put together from; each escapes what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from matplotlib.figure import Figure

from study.inline_svg import inline_svg


def section(title: str, *parts: str) -> str:
    """A part of the page under its own heading."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def figure(drawing: Figure, *, name: str, words: str, caption: str) -> str:
    """A picture with its caption."""
    svg = inline_svg(drawing, name=name, words=words)
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str = "",
    tight: bool = False,
) -> str:
    """A table that scrolls sideways where it is too wide, by keyboard too."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    kind = ' class="tight"' if tight else ""
    named = escape(caption or ", ".join(heads), quote=True)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{named}"><table{kind}>{title}'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
