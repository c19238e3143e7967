"""Why a server died, from its log and its end: pure, one pass, little memory.

The root cause is sought, not the last line: "Engine core initialization failed" and
`EngineDeadError` are consequences, and so are most things after the first error. What looks like a
failure and is none (a refused request, a retried download, an ordered stop) is `ok`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from objectives.causes import CAUSES, MEMORY_CAUSES, remedy_of
from objectives.diagnosis.decision import DeviceEvidence, Ended, judge
from objectives.diagnosis.scan import Scan

__all__ = ["CAUSES", "MEMORY_CAUSES", "DeviceEvidence", "Diagnosis", "Ended", "diagnose"]


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Why a server ended as it did.

    Attributes:
        cause: One of `CAUSES`.
        evidence: The telling line as it stands in the log, with its prefixes. Where `line` is 0:
            in words, what else told it, or "".
        line: Its number, from 1; 0 if no line told it.
        remedy: What to change, in one sentence.
        figures: What the line prints, by names that carry its units.
    """

    cause: str
    evidence: str = ""
    line: int = 0
    remedy: str = ""
    figures: dict[str, float | int | str] = field(default_factory=dict)

    @property
    def is_failure(self) -> bool:
        """Whether something went wrong, or nothing at all is known."""
        return self.cause not in {"ok", "preemption_warning"}

    def document(self) -> dict[str, object]:
        """For JSON."""
        return {
            "cause": self.cause,
            "evidence": self.evidence,
            "line": self.line,
            "remedy": self.remedy,
            "figures": dict(self.figures),
        }


def diagnose(
    lines: Iterable[str],
    *,
    ended: Ended | None = None,
    evidence: DeviceEvidence | None = None,
) -> Diagnosis:
    """Name the cause of a server's end.

    Args:
        lines: The log of vLLM (0.4 to 0.33, GPU or CPU build) or Whisper, line by line, with or
            without line ends. Read once; what is kept does not grow with it.
        ended: How the process ended, if that is known. Without it the log alone decides.
        evidence: What kernel and driver reported; it names a death that the log leaves unnamed.

    Returns:
        One cause. Of several runs in one log the last that says anything is judged.
    """
    scan = Scan()
    scan.read(lines)
    verdict = judge(scan.notes.run, scan.notes.before, ended=ended, evidence=evidence)
    return Diagnosis(
        cause=verdict.cause,
        evidence=verdict.spot.evidence,
        line=verdict.spot.line,
        remedy=remedy_of(verdict.cause, verdict.figures),
        figures=verdict.figures,
    )
