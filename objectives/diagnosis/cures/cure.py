"""What a cure is: words for a line that names more than its cause does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Cure:
    """What to change where a line says so.

    Attributes:
        pattern: What the line must hold.
        words: What to change, in whole sentences; braces are figures of the line.
        others: The same where it is another for a kind of server.
    """

    pattern: re.Pattern[str]
    words: str
    others: Mapping[str, str]


def cures(*rows: tuple[str, str] | tuple[str, str, str]) -> tuple[Cure, ...]:
    """Cures by rows of a pattern, the words, and those for any Whisper where they differ.

    Case matters in no pattern.
    """
    return tuple(
        Cure(
            pattern=re.compile(row[0], re.IGNORECASE | re.DOTALL),
            words=row[1],
            others={"whisper": row[2]} if len(row) == 3 else {},
        )
        for row in rows
    )
