"""Watching a device while servers run on it: a thread that looks, and keeps what it saw.

Memory is looked at every quarter of a second. What is costly - the proportional set sizes of
processes, who is in a group, everybody's CPU time - only every second, and less often still where
it would take more than a fiftieth of one CPU. The cost is measured and stored with the record.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from itertools import chain
from typing import Self

from objectives.device import Device, DeviceState, oom_kills
from objectives.telemetry.ownership import Ownership
from objectives.telemetry.processes import (
    CpuLedger,
    ResidentMeter,
    cpu_reading,
    family,
    peak_rss_bytes,
)
from objectives.telemetry.record import CpuReading, DeviceSample, TelemetryRecord

_CAREFUL_S = 1.0
_CAREFUL_SHARE = 0.02
"""The costly looks may take this share of one CPU."""


class Telemetry:
    """Looks at a device, and at who uses it, from the first line of the `with` block to the last.

    Args:
        device: What to watch.
        groups: Tenant's name to what gives its processes now, None while they are not known;
            asked from another thread.
        interval_s: Between two looks.
        grown: Gives what became less of the device as each tenant started, as far as it is known.
        ownership: Keeps whose the memory of a GPU is, for who asks later.

    Attributes:
        began_s: When it began, on the clock of `time.monotonic`.
    """

    def __init__(
        self,
        device: Device,
        groups: Mapping[str, Callable[[], Collection[int] | None]],
        interval_s: float = 0.25,
        grown: Callable[[], Mapping[str, int]] = dict,
        ownership: Ownership | None = None,
    ) -> None:
        self._ownership = Ownership() if ownership is None else ownership
        self._grown = grown
        self._device = device
        self._groups = dict(groups)
        self._interval_s = interval_s
        self._samples: list[DeviceSample] = []
        self._costs_s: list[float] = []
        self._members: dict[str, tuple[int, ...] | None] = dict.fromkeys(groups, ())
        self._meters = {name: ResidentMeter() for name in groups}
        self._peak_rss: dict[str, int] = {}
        self._ledger = CpuLedger()
        self._killed_before: int | None = None
        self._careful_at_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._failure: Exception | None = None
        self.began_s = time.monotonic()

    def __enter__(self) -> Self:
        self.began_s = time.monotonic()
        self._killed_before = oom_kills(self._device.root)
        self._look(careful=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure is None:
            self._guarded(careful=True)

    def now_s(self) -> float:
        """Seconds since it began: the clock of its samples."""
        return time.monotonic() - self.began_s

    def check(self) -> None:
        """Nothing, as long as the device answers.

        Raises:
            Exception: What the look failed with, a `BenchError` if the device no longer answers.
        """
        if self._failure is not None:
            raise self._failure

    def record(self, *, since_s: float = 0.0, until_s: float | None = None) -> TelemetryRecord:
        """What was seen so far, in the block or after it.

        Args:
            since_s: Leave out samples before this moment, as `now_s` gives it.
            until_s: Leave out samples after this moment.

        Raises:
            Exception: As `check`.
        """
        self.check()
        end_s = self.now_s() if until_s is None else until_s
        samples = tuple(self._samples)
        chosen = [i for i, sample in enumerate(samples) if since_s <= sample.time_s <= end_s]
        first, last = (chosen[0], chosen[-1]) if chosen else (len(samples) - 1, len(samples) - 1)
        return TelemetryRecord(
            kind=self._device.kind,
            interval_s=self._interval_s,
            samples=samples[first : last + 1],
            memory_sources=self._sources(),
            peak_rss_by_tenant=dict(self._peak_rss),
            oom_kills=self._kills(),
            cost_cpu_s=sum(self._costs_s[first : last + 1]),
        )

    def _run(self) -> None:
        due_s = self.now_s()
        while self._failure is None:
            due_s = max(due_s + self._interval_s, self.now_s())
            if self._stop.wait(due_s - self.now_s()):
                return
            self._guarded(careful=self.now_s() >= self._careful_at_s)

    def _guarded(self, *, careful: bool) -> None:
        """Look; what goes wrong is kept for whoever asks for the record."""
        try:
            self._look(careful=careful)
        except Exception as failure:  # noqa: BLE001 - raised again by `check`, in the right thread
            self._failure = failure

    def _look(self, *, careful: bool) -> None:
        begun_s = time.thread_time()
        state = self._device.read()
        at_s = self.now_s()
        for name, pids in self._groups.items():
            if careful or not self._members[name]:  # who has none may have some by now
                found = pids()
                self._members[name] = None if found is None else tuple(found)
        self._ownership.see(state, self._members, at_s)
        grown = self._grown()
        sample = DeviceSample(
            time_s=at_s,
            total_bytes=state.total_bytes,
            free_bytes=state.free_bytes,
            by_tenant={
                name: self._held(name, state, at_s, grown.get(name), careful=careful)
                for name in self._groups
            },
            activity=self._device.activity(),
            cpu=self._cpu() if careful else None,
        )
        cost_s = time.thread_time() - begun_s
        if careful:
            self._careful_at_s = at_s + max(_CAREFUL_S, cost_s / _CAREFUL_SHARE)
        self._costs_s.append(cost_s)
        self._samples.append(sample)

    def _held(
        self, name: str, state: DeviceState, at_s: float, grown: int | None, *, careful: bool
    ) -> int | None:
        """Bytes of the device that a tenant holds."""
        members = self._members[name]
        if self._device.kind == "cuda":
            return self._ownership.held(name, members, state, at_s=at_s, grown_bytes=grown)
        if members is None:
            return None
        if careful:
            peaks = [peak_rss_bytes(pid) or 0 for pid in members]
            self._peak_rss[name] = max(self._peak_rss.get(name, 0), sum(peaks))
        return self._meters[name].read(members, careful=careful)

    def _cpu(self) -> CpuReading:
        ours = family(chain.from_iterable(pids or () for pids in self._members.values()))
        return cpu_reading(self._ledger.enter(ours))

    def _kills(self) -> int | None:
        now = oom_kills(self._device.root)
        if now is None or self._killed_before is None:
            return None
        return now - self._killed_before

    def _sources(self) -> dict[str, str | None]:
        if self._device.kind == "cuda":
            told = self._ownership.differences
            return {name: "difference" if name in told else "nvml" for name in self._groups}
        return {name: meter.source for name, meter in self._meters.items()}
