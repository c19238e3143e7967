"""What a device went through during a trial: samples, and what follows from them.

Arithmetic, no I/O.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from objectives.device import Activity
from objectives.units import MIB, DeviceKind

FOREIGN_BUSY_DOUBT = 0.10
"""Share of the machine's CPUs that others may use before latencies are in doubt."""

STOLEN_DOUBT = 0.05
"""Share of the machine's CPU time that other virtual machines may take."""

_SLOWED_DOUBT = frozenset({"hardware_slowdown", "thermal", "hardware_thermal", "power_brake"})
"""Slowdowns that are accidents; a power cap is how the device is set up."""

SAMPLES_KEPT = 240
"""Of a trial's looks: enough for a picture."""


@dataclass(frozen=True, kw_only=True)
class CpuReading:
    """The machine's CPUs at one moment; seconds are counted from a fixed moment before it.

    Attributes:
        busy_s: CPU seconds of everybody.
        stolen_s: Of these, taken by other virtual machines.
        ours_s: CPU seconds of the study and its tenants.
        cpus: How many CPUs there are.
        pressure: Share of the last 10 s, 0 to 1, in which somebody waited for a CPU.
    """

    busy_s: float
    stolen_s: float
    ours_s: float
    cpus: int
    pressure: float | None


@dataclass(frozen=True, kw_only=True)
class DeviceSample:
    """One look at the device.

    Attributes:
        time_s: Since the telemetry began.
        total_bytes: The device's memory.
        free_bytes: Of it, free.
        by_tenant: Bytes of each tenant; None where unknown.
        activity: How busy the device was.
        cpu: The machine's CPUs; looked at less often than the rest.
    """

    time_s: float
    total_bytes: int
    free_bytes: int
    by_tenant: Mapping[str, int | None] = field(default_factory=dict)
    activity: Activity = field(default_factory=Activity)
    cpu: CpuReading | None = None

    @property
    def used_bytes(self) -> int:
        """Everything that is not free."""
        return self.total_bytes - self.free_bytes

    @property
    def other_bytes(self) -> int | None:
        """Used by none of the tenants; None unless all of theirs are known."""
        known = [held for held in self.by_tenant.values() if held is not None]
        if len(known) < len(self.by_tenant):
            return None
        return max(0, self.used_bytes - sum(known))


@dataclass(frozen=True, kw_only=True)
class MemoryPoint:
    """A `DeviceSample`'s memory, as it is kept; of each tenant None where unknown."""

    time_s: float
    used_bytes: int
    tenants: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TelemetrySummary:
    """What is kept of a device's telemetry; None for what is unknown.

    Shares are of 1. `TelemetryRecord` says what its figures are; these are peaks (`_peak`) and
    means (`_mean`) of them.

    Attributes:
        looks: How often the device was looked at.
        samples: Some of the looks, in order of time.
        began_s: When the telemetry began, seconds from the trial's begin.
    """

    total_bytes: int
    samples: tuple[MemoryPoint, ...] = ()
    began_s: float = 0.0
    duration_s: float | None = None
    interval_s: float | None = None
    looks: int | None = None
    longest_gap_s: float | None = None
    peak_used_bytes: int | None = None
    min_free_bytes: int | None = None
    tenants_bytes: Mapping[str, int | None] = field(default_factory=dict)
    tenants_peak_rss_bytes: Mapping[str, int] = field(default_factory=dict)
    memory_sources: Mapping[str, str | None] = field(default_factory=dict)
    utilisation_mean: float | None = None
    utilisation_peak: float | None = None
    power_mean_w: float | None = None
    power_peak_w: float | None = None
    energy_j: float | None = None
    temperature_peak_c: float | None = None
    slowed_share: Mapping[str, float] = field(default_factory=dict)
    busy_share: float | None = None
    foreign_busy_share: float | None = None
    stolen_share: float | None = None
    cpu_pressure_mean: float | None = None
    cpu_pressure_peak: float | None = None
    oom_kills: int | None = None
    cost_cpu_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class TelemetryRecord:
    """A device's telemetry over a stretch of time; None for what is unknown.

    Attributes:
        kind: Of the device.
        interval_s: Between two looks, as asked for.
        samples: In order of time, at least one.
        memory_sources: Tenant to where its bytes come from: "nvml", "pss", "rss", or "difference":
            what the device had less of once the tenant had started, and no more than that.
        peak_rss_by_tenant: Sum of the largest resident sets that the tenant's processes ever had:
            an upper bound, for they need not have had them at once. Empty on CUDA.
        oom_kills: Processes that the kernel killed for memory since the telemetry began.
        cost_cpu_s: CPU seconds that the looking itself took.
    """

    kind: DeviceKind
    interval_s: float
    samples: tuple[DeviceSample, ...]
    memory_sources: Mapping[str, str | None] = field(default_factory=dict)
    peak_rss_by_tenant: Mapping[str, int] = field(default_factory=dict)
    oom_kills: int | None = None
    cost_cpu_s: float = 0.0

    @property
    def duration_s(self) -> float:
        """From the first sample to the last."""
        return self.samples[-1].time_s - self.samples[0].time_s

    @property
    def total_bytes(self) -> int:
        """The device's memory at the end."""
        return self.samples[-1].total_bytes

    @property
    def peak_used_bytes(self) -> int:
        """The most that was in use."""
        return max(sample.used_bytes for sample in self.samples)

    @property
    def min_free_bytes(self) -> int:
        """The least that was free."""
        return min(sample.free_bytes for sample in self.samples)

    @property
    def tenants_bytes(self) -> dict[str, int | None]:
        """Peak of each tenant, and of "other": all that belongs to none of them."""
        peaks = {
            name: _most(sample.by_tenant.get(name) for sample in self.samples)
            for name in self.samples[-1].by_tenant
        }
        return {**peaks, "other": _most(sample.other_bytes for sample in self.samples)}

    @property
    def utilisation(self) -> list[tuple[float, float]]:
        """(seconds, share of time busy, 0 to 1): the device's own word; on a CPU, all CPUs'."""
        if self.kind == "cpu":
            return list(self._cpu_shares())
        read = ((sample.time_s, sample.activity.utilisation) for sample in self.samples)
        return [(at, share) for at, share in read if share is not None]

    @property
    def energy_j(self) -> float | None:
        """Drawn from the first sample to the last."""
        read = [s.activity.energy_j for s in self.samples if s.activity.energy_j is not None]
        return read[-1] - read[0] if len(read) > 1 else None

    @property
    def slowed_share(self) -> dict[str, float]:
        """Reason to the share of samples in which the device's clocks were held down for it."""
        reasons = sorted({reason for s in self.samples for reason in s.activity.slowed_by})
        return {
            reason: fmean(reason in sample.activity.slowed_by for sample in self.samples)
            for reason in reasons
        }

    @property
    def busy_share(self) -> float | None:
        """Of all CPU time of the machine, used by anybody."""
        return self._cpu_share(lambda cpu: cpu.busy_s)

    @property
    def foreign_busy_share(self) -> float | None:
        """Of all CPU time of the machine, used by neither the study nor its tenants."""
        share = self._cpu_share(lambda cpu: cpu.busy_s - cpu.ours_s)
        return None if share is None else max(0.0, share)

    @property
    def stolen_share(self) -> float | None:
        """Of all CPU time of the machine, taken by other virtual machines; also in foreign."""
        return self._cpu_share(lambda cpu: cpu.stolen_s)

    @property
    def cpu_pressure(self) -> list[float]:
        """Every reading of the share of 10 s in which somebody waited for a CPU."""
        return [s.cpu.pressure for s in self.samples if s.cpu and s.cpu.pressure is not None]

    @property
    def longest_gap_s(self) -> float:
        """The longest stretch in which nobody looked."""
        times = [sample.time_s for sample in self.samples]
        return max((after - before for before, after in itertools.pairwise(times)), default=0.0)

    @property
    def free_memory_mb(self) -> float:
        """Legacy name: MiB free at the worst moment."""
        return self.min_free_bytes / MIB

    @property
    def gpu_utilization(self) -> float:
        """Legacy name: memory in use at the worst moment, in percent of the device."""
        return max(100 * s.used_bytes / s.total_bytes for s in self.samples)

    def doubts(self) -> list[str]:
        """Why figures measured meanwhile should not be trusted; empty if nothing speaks against."""
        doubts = []
        if (foreign := self.foreign_busy_share or 0.0) > FOREIGN_BUSY_DOUBT:
            doubts.append(f"other programs used {foreign:.0%} of the machine's CPU time")
        if (stolen := self.stolen_share or 0.0) > STOLEN_DOUBT:
            doubts.append(f"other virtual machines took {stolen:.0%} of the machine's CPU time")
        for reason, share in self.slowed_share.items():
            if reason in _SLOWED_DOUBT:
                doubts.append(
                    f"the device was slowed down ({reason}) in {share:.0%} of the samples"
                )
        if self.oom_kills:
            doubts.append(f"the kernel killed {self.oom_kills} processes for memory")
        totals = [sample.total_bytes for sample in self.samples]
        if max(totals) > 1.01 * min(totals):
            doubts.append("the device's memory changed its size meanwhile")
        if self.longest_gap_s > max(1.0, 8 * self.interval_s):
            doubts.append(f"nobody looked at the device's memory for {self.longest_gap_s:.1f} s")
        return doubts

    def kept(self, points: int = SAMPLES_KEPT) -> tuple[MemoryPoint, ...]:
        """The memory at most so many times, the highest of each stretch."""
        return tuple(
            MemoryPoint(
                time_s=round(sample.time_s, 3),
                used_bytes=sample.used_bytes,
                tenants=dict(sample.by_tenant),
            )
            for sample in thinned(self.samples, points)
        )

    def summary(self) -> TelemetrySummary:
        """What is kept of it."""
        activities = [sample.activity for sample in self.samples]
        shares = [share for _, share in self.utilisation]
        power = [a.power_w for a in activities if a.power_w is not None]
        temperatures = (a.temperature_c for a in activities if a.temperature_c is not None)
        return TelemetrySummary(
            duration_s=round(self.duration_s, 3),
            interval_s=self.interval_s,
            looks=len(self.samples),
            longest_gap_s=round(self.longest_gap_s, 3),
            total_bytes=self.total_bytes,
            peak_used_bytes=self.peak_used_bytes,
            min_free_bytes=self.min_free_bytes,
            tenants_bytes=self.tenants_bytes,
            tenants_peak_rss_bytes=dict(self.peak_rss_by_tenant),
            memory_sources=dict(self.memory_sources),
            utilisation_mean=_rounded(_mean(shares)),
            utilisation_peak=_rounded(max(shares, default=None)),
            power_mean_w=_rounded(_mean(power)),
            power_peak_w=max(power, default=None),
            energy_j=_rounded(self.energy_j),
            temperature_peak_c=max(temperatures, default=None),
            slowed_share={name: round(share, 4) for name, share in self.slowed_share.items()},
            busy_share=_rounded(self.busy_share),
            foreign_busy_share=_rounded(self.foreign_busy_share),
            stolen_share=_rounded(self.stolen_share),
            cpu_pressure_mean=_rounded(_mean(self.cpu_pressure)),
            cpu_pressure_peak=max(self.cpu_pressure, default=None),
            oom_kills=self.oom_kills,
            cost_cpu_s=round(self.cost_cpu_s, 4),
            samples=self.kept(),
        )

    def _cpu_readings(self) -> list[tuple[float, CpuReading]]:
        return [(sample.time_s, sample.cpu) for sample in self.samples if sample.cpu]

    def _cpu_share(self, seconds: Callable[[CpuReading], float]) -> float | None:
        """Share of all CPU time between the first reading and the last."""
        readings = self._cpu_readings()
        if len(readings) < 2 or readings[-1][0] <= readings[0][0]:
            return None
        (begin, first), (end, last) = readings[0], readings[-1]
        return (seconds(last) - seconds(first)) / ((end - begin) * last.cpus)

    def _cpu_shares(self) -> Iterator[tuple[float, float]]:
        """(seconds, share of all CPUs busy since the reading before)."""
        for (begin, first), (end, last) in itertools.pairwise(self._cpu_readings()):
            if end > begin:
                share = (last.busy_s - first.busy_s) / ((end - begin) * last.cpus)
                yield end, min(1.0, share)


def thinned(samples: Sequence[DeviceSample], points: int) -> list[DeviceSample]:
    """At most `points` samples, two or more: the ends, and the fullest of each stretch between."""
    if len(samples) <= points:
        return list(samples)
    inner, stretches = samples[1:-1], max(1, points - 2)
    edges = [len(inner) * step // stretches for step in range(stretches + 1)]
    peaks = [
        max(inner[begin:end], key=lambda sample: sample.used_bytes)
        for begin, end in itertools.pairwise(edges)
        if end > begin
    ]
    return [samples[0], *peaks, samples[-1]]


def _most(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
