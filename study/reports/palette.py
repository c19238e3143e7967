"""One set of colours for every picture, in light and in dark.

The marks are Okabe and Ito's, which stay apart for every common kind of colour blindness; nothing
is told by colour alone (shapes, letters or words say it too). Each role has a light and a dark
value: still pictures use the light one, the HTML report writes a CSS variable in its place.
Text reaches a contrast of 4.5 against its paper, marks reach 3 by themselves or by their outline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from objectives.space import SERVERS


@dataclass(frozen=True)
class Role:
    """A colour by what it is for; the CSS variable has its name with two dashes in front."""

    name: str
    light: str
    dark: str


PAPER = Role("paper", "#fefefe", "#14181d")
INK = Role("ink", "#1b1f24", "#e6e8eb")
MUTED = Role("muted", "#57606a", "#a6b0bb")
GRID = Role("grid", "#d8dde3", "#343c46")
ONFILL = Role("onfill", "#101418", "#101418")  # text on a fill, the same in both

FRONT = Role("front", "#0072b2", "#58b4e8")
OTHER = Role("other", "#7a828b", "#8d97a2")
BASELINE = Role("baseline", "#c14a00", "#ff9d5c")
FEASIBLE = Role("feasible", "#a8d5f0", "#8cc6ea")

FILLS = (
    Role("fill1", "#56a8e0", "#56a8e1"),
    Role("fill2", "#e69f00", "#e69f01"),
    Role("fill3", "#35b08c", "#35b08d"),
    Role("fill4", "#d98cb3", "#d98cb4"),
    Role("fill5", "#e8dc4a", "#e8dc4b"),
    Role("fill6", "#b9a2e0", "#b9a2e1"),
    Role("fill7", "#c9b79c", "#c9b79d"),
)
"""Areas with dark text on them or a dark outline around them: tenants, causes."""

REST = Role("rest", "#b9c0c8", "#b9c0c9")

ROLES = (PAPER, INK, MUTED, GRID, ONFILL, FRONT, OTHER, BASELINE, FEASIBLE, *FILLS, REST)


def fills(names: Sequence[str], *, first: int = 0) -> dict[str, Role]:
    """A fill for each name, in order from the given one; after the last comes the first again."""
    return {name: FILLS[(first + index) % len(FILLS)] for index, name in enumerate(names)}


def tenants(names: Sequence[str]) -> dict[str, Role]:
    """A fill for each tenant: the tuned ones always the same, what is nobody's in grey."""
    others = [name for name in names if name not in {*SERVERS, "other"}]
    return {**fills([*SERVERS, *others]), "other": REST}


def variables(*, dark: bool) -> str:
    """The palette as CSS variables."""
    return " ".join(f"--{role.name}: {role.dark if dark else role.light};" for role in ROLES)
