"""A refusal to start that stands on several lines: in a terminal, a ticket, a read-me.

vLLM writes each of them as one line of some hundred characters, and people break it where it fits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Self

from objectives.diagnosis_rules import REFUSALS, figures_of
from objectives.diagnosis_run import Spot
from objectives.log_lines import LogLine

_LINES_MOST = 6
_OPENERS = (
    "to serve at least one request",
    "max seq len (",
    "free memory on device",
    "available memory on node",
    "error in memory profiling",
    "no available memory for",
    "externally held weights on device",
    "exceeds available mamba cache blocks",
)
_HEALTHY = re.compile(r"on startup\. *Desired GPU memory utilization")
_ENDS = re.compile(
    r"estimated maximum model length is \d+\D|Try increasing|cache blocks|See https?:|Decrease"
    r"|current free memory [\d.]+\D|requested memory for kv \([^)]*\)|reduce (?:GPU|CPU) memory"
    r"|utilization \([^)]*\)|that can be stored in (?:the )?KV cache \(\d+\)|Mamba cache blocks \(",
    re.DOTALL,
)
_MODEL_LENGTH = re.compile(r"max seq len \((?P<max_model_len>\d+)\)")
_LEFT = "left_bytes"


@dataclass(kw_only=True, slots=True)
class WrappedRefusal:
    """The lines of one refusal so far.

    Attributes:
        spot: Its first line.
        parts: The text of its lines.
    """

    spot: Spot
    parts: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, line: LogLine, lowered: str, spot: Spot) -> Self | None:
        """A refusal that begins on this line; None, if none does."""
        if not any(opener in lowered for opener in _OPENERS) or _HEALTHY.search(line.text):
            return None
        return cls(spot=spot, parts=[line.text])

    @property
    def is_complete(self) -> bool:
        """Whether the sentence has reached its end."""
        return len(self.parts) >= _LINES_MOST or any(
            _ENDS.search(text) is not None for text in self._joined()
        )

    def take(self, line: LogLine) -> bool:
        """Append a line. False, if the sentence cannot go on there."""
        if not line.text or line.text.startswith(("```", "Traceback", "File ")):
            return False
        self.parts.append(line.text)
        return True

    def result(self) -> tuple[str, dict[str, float | int | str]] | None:
        """Cause and figures; None, if it was no refusal after all."""
        for text in self._joined():
            for rule in REFUSALS:
                if (match := rule.pattern.search(text)) is not None:
                    return _judged(rule.cause, dict(figures_of(match)))
        return self._in_part()

    def _in_part(self) -> tuple[str, dict[str, float | int | str]] | None:
        """The same of a sentence that somebody shortened."""
        text = " ".join(self.parts)
        if (match := _MODEL_LENGTH.search(text)) is not None:
            return "kv_cache_too_small", dict(figures_of(match))
        if "less than desired" in text:
            return "gpu_memory_insufficient_at_start", {}
        return None

    def _joined(self) -> tuple[str, str]:
        """With a space where the line was broken, and without: terminals break inside words."""
        return " ".join(self.parts), "".join(self.parts)


def _judged(
    cause: str, figures: dict[str, float | int | str]
) -> tuple[str, dict[str, float | int | str]]:
    """The CPU backend writes one sentence for two troubles; its figure tells which.

    It subtracts what the process already holds from its share of the node. Nothing or less left
    for the KV cache is the GPU's "no blocks"; more than the node has left is a full node.
    """
    left_bytes = figures.pop(_LEFT, None)
    if not isinstance(left_bytes, int):
        return cause, figures
    if left_bytes > 0:
        return "gpu_memory_insufficient_at_start", {**figures, "needed_bytes": left_bytes}
    return cause, {**figures, "available_bytes": left_bytes}
