"""What a run says while it runs: plain lines; `study.search.live` shows the same on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TextIO

from optuna.trial import FrozenTrial, TrialState

from objectives.evidence import Fault, Infeasible, fault_of, infeasible_of


@dataclass(frozen=True, kw_only=True)
class Holding:
    """Who holds how much of the device at one moment, bytes."""

    total_bytes: int
    by_tenant: Mapping[str, int]

    @property
    def free_bytes(self) -> int:
        """What nobody holds."""
        return max(0, self.total_bytes - sum(self.by_tenant.values()))


Holder = Callable[[], Holding | None]
"""Tells who holds what now; None while nobody looks."""

FrontRows = Callable[[], list[tuple[int, str, str]]]
"""Tells the front so far: trial, setting, values."""


class Progress:
    """Whoever shows a run to people; this one shows nothing."""

    def log(self, text: str) -> None:
        """Something that a person should read once."""

    def on_trial_start(self, number: int, params: Mapping[str, object]) -> None:
        """A trial was handed a point."""

    def on_phase(self, text: str) -> None:
        """A phase or a step of the running trial began."""

    def on_trial_end(self, trial: FrozenTrial, names: list[str], left: str) -> None:
        """A trial ended; `left` says what is left of the budget."""

    def watch(self, holding: Holder, front: FrontRows) -> None:
        """Where to look for the device's memory, and for the front so far."""

    def close(self) -> None:
        """The run is over."""


@dataclass
class Lines(Progress):
    """One line for whatever happens, none for what is; for pipes, logs and `--json`."""

    out: TextIO = field(default_factory=lambda: sys.stderr)
    _began_s: float = field(init=False, default_factory=time.monotonic)
    _last: str = field(init=False, default="")

    def log(self, text: str) -> None:
        """A line."""
        elapsed_s = time.monotonic() - self._began_s
        print(f"[{elapsed_s:6.0f} s] {text}", file=self.out, flush=True)

    def on_trial_start(self, number: int, params: Mapping[str, object]) -> None:
        """A line with the point."""
        self.log(f"trial {number}: {setting(params)}")

    def on_phase(self, text: str) -> None:
        """A line, indented; the same step is said once."""
        if text != self._last:
            self.log(f"  {text}")
        self._last = text

    def on_trial_end(self, trial: FrozenTrial, names: list[str], left: str) -> None:
        """A line with the outcome, and one with what is left."""
        self.log(f"trial {trial.number}: {outcome(trial, names)}")
        if left:
            self.log(left)
        self._last = ""


def setting(params: Mapping[str, object]) -> str:
    """A point in one line."""
    return ", ".join(f"{name} {value}" for name, value in params.items())


def outcome(trial: FrozenTrial, names: list[str]) -> str:
    """What became of a trial, in one line."""
    if trial.state == TrialState.COMPLETE:
        values = zip(names, trial.values, strict=True)
        return "measured: " + ", ".join(f"{name} {value:.4g}" for name, value in values)
    if trial.state == TrialState.PRUNED:
        said = infeasible_of(trial.user_attrs) or Infeasible()
        how = "not launched" if said.predicted else "infeasible"
        return f"{how}: {said.cause}: {said.evidence}"
    fault = fault_of(trial.user_attrs) or Fault()
    return f"the bench broke ({fault.cause}): {fault.message}"
