"""What the log says of one run of a server so far: causes, deaths, progress.

A log may hold several runs, one after another; the last one that says anything is the one a person
asks about. Progress contradicts an error: who still loads weights after "401 Client Error" did not
die of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from objectives.causes import cause_named
from objectives.diagnosis.progress import Stage
from objectives.diagnosis.rules import Rank

KEPT = 64
"""Findings kept of a run; the first ones decide."""

_AFTERMATH_LINES = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Spot:
    """A line of the log: its number, from 1, and how it stands there."""

    line: int
    evidence: str


@dataclass(kw_only=True, slots=True)
class Finding:
    """A line that names a cause; `placed` is False for an out-of-memory of unknown phase."""

    cause: str
    rank: Rank
    spot: Spot
    figures: dict[str, float | int | str] = field(default_factory=dict)
    placed: bool = True


@dataclass(kw_only=True, slots=True)
class Run:
    """The state of one run.

    Attributes:
        stage: How far it has come.
        findings: Lines that name a cause, in order.
        death: The first line that says, for certain, that an engine died; not why.
        loss: The first line that says it in a way that an ordered stop does, too.
        unexpected: Whether that loss was called unexpected.
        root: The exception that belongs to `death`.
        exception: The last exception before a death.
        asked: The first line that says that somebody ended the server.
        stopped: The first line of a stop, by whatever reason, before anything had failed.
        closed: Whether it stopped in good order, whatever came before.
        refused: Whether requests were answered with 500 after the engine was gone.
        health: The line that shows best that the server worked.
        preemption: The first line that tells of a preempted request.
        stalled: The first stall since the last progress, and
        stalls: how many there were.
        running: Requests in progress by the last statistics.
        available_bytes: The KV cache memory as logged.
        eager: Whether it captures no graphs.
        is_quoted: Whether the log stands in a document between fences. There progress contradicts
            nothing: a failure is printed first, and then what helped.
    """

    stage: Stage = Stage.NOTHING
    findings: list[Finding] = field(default_factory=list)
    death: Spot | None = None
    loss: Spot | None = None
    unexpected: bool = False
    root: Spot | None = None
    exception: Spot | None = None
    asked: Spot | None = None
    stopped: Spot | None = None
    closed: bool = False
    refused: bool = False
    health: Spot | None = None
    preemption: Spot | None = None
    stalled: Spot | None = None
    stalls: int = 0
    running: int = 0
    available_bytes: int | None = None
    eager: bool = False
    is_quoted: bool = False

    @property
    def serving(self) -> bool:
        """Whether it answered requests, or was ready to."""
        return self.stage >= Stage.SERVING

    @property
    def has_failed(self) -> bool:
        """Whether anything so far names a cause or a death."""
        return bool(self.death or self.loss or self.findings)

    def is_settled(self, line: int) -> bool:
        """Whether nothing that may follow line `line` could change what is known of this run.

        So it is some time after a death that has a cause; until then another process may tell
        a better one, or the phase of an out-of-memory.
        """
        if self.death is None or line < self.death.line + _AFTERMATH_LINES:
            return False
        best = self.best(Rank.STRONG)
        return best is not None and best.placed

    @property
    def is_informative(self) -> bool:
        """Whether it says what became of it, not only that something did."""
        return bool(self.findings or self.root or self.serving or self.exception)

    def add(self, finding: Finding) -> None:
        """Keep a finding."""
        if len(self.findings) < KEPT:
            self.findings.append(finding)

    def advance(self, stage: Stage, spot: Spot) -> None:
        """Progress: forget what it contradicts."""
        if stage >= Stage.SIZED:
            self.health = spot
        if stage <= self.stage:
            return
        self.stage = stage
        self.progressed()
        if self.death is not None or self.is_quoted:
            return
        if stage >= Stage.ENGINE_UP:
            self.findings = [one for one in self.findings if one.rank is Rank.DECISIVE]
            self.exception = None
        else:
            lasting = [one for one in self.findings if not cause_named(one.cause).is_survivable]
            self.findings = lasting

    def progressed(self) -> None:
        """A sign of life: what stalled goes on."""
        self.stalls = 0
        self.stalled = None

    def best(self, worst: Rank) -> Finding | None:
        """The finding that decides, of those that weigh at least as much as `worst`."""
        fit = [one for one in self.findings if one.rank <= worst]
        return min(fit, key=lambda one: (one.rank, one.spot.line), default=None)
