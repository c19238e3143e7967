"""Where a trial's time goes: named phases, and what is none of them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from objectives.load import Span

Phase = Literal["predict", "start", "warmup", "measure", "stop"]

ORDER: tuple[Phase, ...] = ("predict", "start", "warmup", "measure", "stop")


@dataclass
class Stopwatch:
    """Times the phases of one trial.

    Phases do not nest; steps may lie inside a phase, and only the timeline shows them.

    Attributes:
        on_phase: Called with the name of every phase and step as it begins.
        began_s: When the trial began, on `clock`.
    """

    on_phase: Callable[[str], None] = lambda _: None
    clock: Callable[[], float] = time.monotonic
    began_s: float = field(init=False)
    _spans: list[Span] = field(init=False, default_factory=list)
    _seconds: dict[str, float] = field(init=False, default_factory=lambda: defaultdict(float))
    _inside: str | None = field(init=False, default=None)
    _inside_since_s: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.began_s = self.clock()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the trial began."""
        return self.clock() - self.began_s

    @property
    def counted_s(self) -> float:
        """The same without the servers' starts, the one that goes on included."""
        now_s = self.elapsed_s - self._seconds.get("start", 0.0)
        return now_s - (self.elapsed_s - self._inside_since_s if self._inside == "start" else 0.0)

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Count what happens inside as this phase; a second time adds to the first."""
        assert self._inside is None, f"{name} inside {self._inside}"
        begun = self._inside_since_s = self.elapsed_s
        self._inside = name
        try:
            with self.step(name):
                yield
        finally:
            self._inside = None
            self._seconds[name] += self.elapsed_s - begun

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show what happens inside on the timeline."""
        self.on_phase(name)
        begun = self.elapsed_s
        try:
            yield
        finally:
            self._spans.append(Span(phase=name, start_s=begun, end_s=self.elapsed_s))

    def note(self, name: Phase, span: Span) -> None:
        """Count a stretch that somebody else timed on `clock`; the timeline keeps its own name."""
        start_s, end_s = span.start_s - self.began_s, span.end_s - self.began_s
        self._spans.append(Span(phase=span.phase, start_s=start_s, end_s=end_s))
        self._seconds[name] += end_s - start_s

    def seconds(self) -> dict[str, float]:
        """Seconds by phase, and `other`: all that was none of them."""
        known = {str(name): self._seconds[name] for name in ORDER if name in self._seconds}
        known["other"] = max(0.0, self.elapsed_s - sum(known.values()))
        return {name: round(seconds, 3) for name, seconds in known.items()}

    def timeline(self) -> tuple[Span, ...]:
        """Every phase and step, in order of their begin."""
        spans = sorted(self._spans, key=lambda span: (span.start_s, -span.end_s))
        return tuple(
            Span(phase=s.phase, start_s=round(s.start_s, 5), end_s=round(s.end_s, 5)) for s in spans
        )
