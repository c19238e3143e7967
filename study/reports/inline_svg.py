"""A figure as SVG inside a page: in the page's colours, with words for those who cannot see it.

Matplotlib writes a whole SVG document with fixed colours. Here its head is cut off, each colour of
the palette becomes a CSS variable, so the same picture is right on light and on dark paper, and its
identifiers get a prefix, so several pictures can stand in one page.
"""

from __future__ import annotations

import io
import re
from html import escape

import matplotlib as mpl
from matplotlib.figure import Figure

from study.reports.palette import ROLES
from study.reports.plots import STYLE

_SIZE = re.compile(r'viewBox="([^"]*)"')
_BODY = re.compile(r"<svg[^>]*>(.*)</svg>", re.DOTALL)
_METADATA = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)
_IDENTIFIER = re.compile(r'(\bid="|href="#|url\(#)')
_STYLESHEET = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)
_FAMILY = re.compile(r"font-family: [^;\"]*")
_BLANKS = re.compile(r"\s+")


def inline_svg(figure: Figure, *, name: str, words: str) -> str:
    """The figure as an `<svg>` element.

    Args:
        figure: Drawn in the palette's light colours.
        name: A word for it, unique in the page.
        words: What it shows, for a screen reader.
    """
    text = _written(figure, salt=name)
    box, body = _SIZE.search(text), _BODY.search(text)
    assert box is not None and body is not None, "matplotlib wrote no SVG"
    drawn = _STYLESHEET.sub("", _METADATA.sub("", body[1]))
    drawn = _IDENTIFIER.sub(rf"\g<1>{name}-", drawn)
    drawn = _BLANKS.sub(" ", _FAMILY.sub("font-family: var(--font)", drawn))
    for role in ROLES:
        drawn = drawn.replace(role.light, f"var(--{role.name})")
    title = f"{name}-title"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box[1]}" role="img" aria-labelledby="{title}" class="drawing">'
        f'<title id="{title}">{escape(words)}</title>{drawn}</svg>'
    )


def _written(figure: Figure, *, salt: str) -> str:
    """The SVG document; the same figure gives the same text."""
    buffer = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def variables(*, dark: bool) -> str:
    """The palette as CSS variables."""
    return " ".join(f"--{role.name}: {role.dark if dark else role.light};" for role in ROLES)
