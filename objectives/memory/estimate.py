"""A number of bytes that says where it came from, and how far the truth may lie from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Source = Literal["given", "read", "estimated", "calibrated"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number of bytes, with its origin.

    Attributes:
        value_bytes: The best guess.
        source: "given" by a person; "read" from a file or a device; "estimated" from the shape;
            "calibrated" by a real start.
        margin_bytes: How far the truth may lie from it, either way.
        note: What it covers or rests on, for people.
    """

    value_bytes: int
    source: Source = "estimated"
    margin_bytes: int = 0
    note: str = ""

    def to_dict(self) -> dict[str, object]:
        """The same as JSON."""
        return {name: value for name, value in vars(self).items() if name != "note" or value}


def given(value_bytes: int, note: str = "") -> Estimate:
    """A figure that somebody vouches for: its margin is 0."""
    return Estimate(value_bytes=value_bytes, source="given", note=note)


NOTHING = given(0)


def add(*figures: Estimate) -> Estimate:
    """A sum whose margin is the sum of margins, and whose source is the weakest of them."""
    return Estimate(
        value_bytes=sum(figure.value_bytes for figure in figures),
        source=weakest(figures),
        margin_bytes=sum(figure.margin_bytes for figure in figures),
        note=" and ".join(figure.note for figure in figures if figure.note),
    )


def weakest(figures: Iterable[Estimate]) -> Source:
    """The least certain origin among figures that are not zero."""
    order: tuple[Source, ...] = ("given", "read", "calibrated", "estimated")
    return max(
        (figure.source for figure in figures if figure.value_bytes or figure.margin_bytes),
        key=order.index,
        default="given",
    )
