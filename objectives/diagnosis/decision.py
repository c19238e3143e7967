"""From what a log says, how the process ended and what the device saw: one cause."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field, replace

from objectives.causes import APPLICATION_XIDS
from objectives.diagnosis.rules import Rank
from objectives.diagnosis.server_run import Run, Spot

_STALLS_OF_A_START = 2  # one alone is a compilation
_STALLS_OF_A_SERVER = 3
_SHELL_SIGNAL = 128  # a shell reports signal n as 128 + n
_SIGNALS = 64
_ORDERS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended.

    Attributes:
        returncode: As `subprocess` gives it: negative for a signal; a shell's 128 + n means the
            same. None if it is not known or the process still runs.
        was_asked: Whether whoever watches it had asked it to end.
    """

    returncode: int | None
    was_asked: bool = False

    @property
    def signal(self) -> int | None:
        """The signal that ended it, if one did."""
        code = self.returncode
        if code is None:
            return None
        number = -code if code < 0 else code - _SHELL_SIGNAL
        return number if 0 < number <= _SIGNALS else None

    @property
    def sounds_ordered(self) -> bool:
        """Whether it ended by a signal that asks, or cleanly, or was asked to."""
        return self.was_asked or self.returncode == 0 or self.signal in _ORDERS


@dataclass(frozen=True, kw_only=True)
class DeviceEvidence:
    """What was seen outside of the log while the process ran.

    Attributes:
        xids: XIDs that the driver reported, in order.
        oom_kills: By how many the kernel's or the cgroup's count of kills rose.
        free_bytes: What was free on the device when the process had ended.
    """

    xids: tuple[int, ...] = ()
    oom_kills: int = 0
    free_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A cause and the line that tells it; `spot.line` is 0 where no line does."""

    cause: str
    spot: Spot = field(default_factory=lambda: Spot(line=0, evidence=""))
    figures: dict[str, float | int | str] = field(default_factory=dict)


def judge(
    run: Run, before: Run | None, *, ended: Ended | None, evidence: DeviceEvidence | None
) -> Decision:
    """The cause of the last run that says anything."""
    decision = _of_run(run, ended)
    is_empty = decision.cause == "unknown" or (
        decision.cause == "engine_dead_other" and not run.is_informative
    )
    if is_empty and before is not None:
        decision = _of_run(before, None)
    return _with_evidence(decision, ended, evidence)


def _of_run(run: Run, ended: Ended | None) -> Decision:
    return _named(run) or _died(run, ended) or _healthy(run, ended)


def _named(run: Run) -> Decision | None:
    """A cause that a line names; a script's words count only where the engine has none."""
    worst = Rank.WEAK if run.death and run.root else Rank.OUTER
    best = run.best(worst)
    if best is None:
        return None
    return Decision(cause=best.cause, spot=best.spot, figures=best.figures)


def _died(run: Run, ended: Ended | None) -> Decision | None:
    """A death, or a hang, without a name."""
    was_asked = ended is not None and ended.was_asked
    ordered = was_asked or run.asked is not None
    if run.death is not None and not _died_on_order(run, was_asked=was_asked):
        return Decision(cause="engine_dead_other", spot=run.root or run.exception or run.death)
    if not run.serving and run.exception is not None and run.death is None and not ordered:
        return Decision(cause="engine_dead_other", spot=run.exception)
    if run.loss is not None and not (ordered or _lost_in_order(run)):
        return Decision(cause="engine_dead_other", spot=run.loss)
    if _hangs(run) and run.stalled is not None:
        return Decision(cause="timeout_hang", spot=run.stalled, figures={"stalls": run.stalls})
    return _died_silently(run, ended)


def _lost_in_order(run: Run) -> bool:
    """Whether an engine that is gone went with a server that stopped as servers do."""
    closed = run.serving and run.closed and not run.unexpected and not run.refused
    return closed or run.stopped is not None


def _died_on_order(run: Run, *, was_asked: bool) -> bool:
    """Whether a death only follows from an ordered stop."""
    if run.asked is not None and run.death is not None and run.asked.line < run.death.line:
        return run.serving or run.root is None
    return was_asked and run.root is None


def _hangs(run: Run) -> bool:
    if run.serving:
        return run.running > 0 and run.stalls >= _STALLS_OF_A_SERVER
    return run.stalls >= _STALLS_OF_A_START


def _died_silently(run: Run, ended: Ended | None) -> Decision | None:
    """Only the return code says that something went wrong."""
    if ended is None or ended.was_asked or not ended.returncode:
        return None
    if ended.sounds_ordered and run.serving:
        return None
    spot = run.loss or run.exception or Spot(line=0, evidence=_in_words(ended))
    return Decision(cause="engine_dead_other", spot=spot, figures={"returncode": ended.returncode})


def _healthy(run: Run, ended: Ended | None) -> Decision:
    if run.preemption is not None:
        return Decision(cause="preemption_warning", spot=run.preemption)
    if run.health is not None:
        return Decision(cause="ok", spot=run.health)
    if ended is not None and (ended.was_asked or ended.returncode == 0):
        return Decision(cause="ok", spot=run.asked or Spot(line=0, evidence=_in_words(ended)))
    return Decision(cause="unknown")


def _with_evidence(
    decision: Decision, ended: Ended | None, evidence: DeviceEvidence | None
) -> Decision:
    """A death without a name gets one from the kernel or the driver, never the other way round."""
    if evidence is None or decision.cause not in {"engine_dead_other", "unknown"}:
        return decision
    figures = dict(decision.figures)
    if evidence.free_bytes is not None:
        figures["device_free_bytes"] = evidence.free_bytes
    if evidence.oom_kills > 0:
        figures["oom_kills"] = evidence.oom_kills
        cause = "host_oom"
        words = f"the kernel killed {evidence.oom_kills} process(es) for want of memory"
    elif evidence.xids:
        faults = [xid for xid in evidence.xids if xid in APPLICATION_XIDS]
        xid = (faults or evidence.xids)[0]
        figures["xid"] = xid
        cause = "cuda_illegal_access" if faults else "engine_dead_other"
        words = f"the driver reported XID {xid}"
    else:
        return replace(decision, figures=figures)
    spot = decision.spot if decision.spot.line else Spot(line=0, evidence=words)
    return Decision(cause=cause, spot=spot, figures=figures)


def _in_words(ended: Ended) -> str:
    """How a process ended, for where no line of its log tells it."""
    if (number := ended.signal) is None:
        return f"the process exited with {ended.returncode}"
    try:
        name = signal.Signals(number).name
    except ValueError:  # a real-time signal, or no signal at all
        name = f"signal {number}"
    return f"the process was ended by {name}"
