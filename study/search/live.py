"""A run as one watches it on a terminal: the trial's phase, the device by tenant, the front, ETA.

Shows what `study.search.progress` says as lines; whoever pipes the run gets those.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from optuna.trial import FrozenTrial
from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from objectives.units import GIB
from study.results import is_launched
from study.search.progress import FrontRows, Holder, Holding, Progress, outcome, setting

_COLOURS = ("cyan", "magenta", "yellow", "blue", "green")
_REFRESH_S = 0.5


@dataclass
class Live(Progress):
    """A view that redraws itself until it is closed.

    `holding` is asked now and then, None where nobody knows; `front` after every trial.
    """

    console: Console = field(default_factory=lambda: Console(stderr=True))
    holding: Holder | None = None
    front: FrontRows | None = None
    _lines: deque[str] = field(init=False, default_factory=lambda: deque(maxlen=6))
    _trial: str = field(init=False, default="")
    _step: str = field(init=False, default="starting")
    _step_began_s: float = field(init=False, default_factory=time.monotonic)
    _began_s: float = field(init=False, default_factory=time.monotonic)
    _trial_began_s: float | None = field(init=False, default=None)
    _durations_s: list[float] = field(init=False, default_factory=list)
    _left: str = field(init=False, default="")
    _rows: list[tuple[int, str, str]] = field(init=False, default_factory=list)
    _seen: Holding | None = field(init=False, default=None)
    _stop: threading.Event = field(init=False, default_factory=threading.Event)

    def __post_init__(self) -> None:
        # Standard output stays what it is: the report goes there, also where it is a file.
        self._live = RichLive(
            self.render(), console=self.console, auto_refresh=False, redirect_stdout=False
        )
        self._live.start()
        self._thread = threading.Thread(target=self._redraw, name="live view", daemon=True)
        self._thread.start()

    def _redraw(self) -> None:
        while not self._stop.wait(_REFRESH_S):
            if self.holding is not None:
                self._seen = self.holding() or self._seen
            self._live.update(self.render(), refresh=True)

    def log(self, text: str) -> None:
        """A line that stays for a while."""
        self._lines.append(text)

    def on_trial_start(self, number: int, params: Mapping[str, object]) -> None:
        """The trial in the heading."""
        self._trial = f"trial {number}: {setting(params)}"
        self._trial_began_s = time.monotonic()

    def on_phase(self, text: str) -> None:
        """The phase under it."""
        self._step, self._step_began_s = text, time.monotonic()

    def on_trial_end(self, trial: FrozenTrial, names: list[str], left: str) -> None:
        """The outcome among the lines; the front anew."""
        self._lines.append(f"trial {trial.number}: {outcome(trial, names)}")
        if self._trial_began_s is not None and is_launched(trial):
            self._durations_s.append(time.monotonic() - self._trial_began_s)
        self._left = left
        if self.front is not None:
            self._rows = self.front()
        self.on_phase("next")

    def watch(self, holding: Holder, front: FrontRows) -> None:
        """Where to look for the device's memory, and for the front so far."""
        self.holding, self.front = holding, front

    def close(self) -> None:
        """Leave the last picture on the terminal."""
        self._stop.set()
        self._thread.join()
        self._live.update(self.render(), refresh=True)
        self._live.stop()

    def render(self) -> RenderableType:
        """The whole picture."""
        now_s = time.monotonic()
        head = Text.assemble(
            (self._trial or "preparing", "bold"),
            f"\n{self._step}, {now_s - self._step_began_s:.0f} s",
            ("\n" + self._time(now_s), "dim"),
        )
        parts: list[RenderableType] = [head]
        if self._seen is not None:
            parts.append(memory_bar(self._seen, width=min(76, self.console.width - 4)))
        if self._rows:
            parts.append(self._front_table())
        parts += [Text(line, overflow="ellipsis", no_wrap=True) for line in self._lines]
        return Panel(Group(*parts), title="gpu-allocation-study", title_align="left")

    def _time(self, now_s: float) -> str:
        words = [f"running {_clock(now_s - self._began_s)}"]
        if self._durations_s:
            words.append(f"a trial takes {median(self._durations_s):.0f} s")
        if self._left:
            words.append(self._left)
        return ", ".join(words)

    def _front_table(self) -> Table:
        table = Table(title="front so far", title_justify="left", box=None, pad_edge=False)
        for heading in ("trial", "setting", "values"):
            table.add_column(heading, overflow="fold")
        for number, what, values in self._rows[-8:]:
            table.add_row(str(number), what, values)
        return table


def memory_bar(holding: Holding, *, width: int) -> Text:
    """The device's memory as a bar of `width` columns, a colour a tenant, and a line of names."""
    bar, legend = Text(), Text()
    tenants = sorted(holding.by_tenant.items(), key=lambda item: -item[1])
    for index, (name, held) in enumerate(tenants):
        colour = _COLOURS[index % len(_COLOURS)]
        bar.append("█" * round(width * held / holding.total_bytes), style=colour)
        legend.append(f"{name} {held / GIB:.1f}  ", style=colour)
    bar = bar[:width]
    bar.append("░" * max(0, width - len(bar)), style="dim")
    legend.append(f"free {holding.free_bytes / GIB:.1f} of {holding.total_bytes / GIB:.1f} GiB")
    return Text.assemble(bar, "\n", legend)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
