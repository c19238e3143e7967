"""One trial as a picture: its phases, and under them each tenant's memory against the device.

It is kept with the trial as an artifact, so that the dashboard shows it; it can also be drawn
later, from what stands on the trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from objectives.evidence import TrialEvidence
from objectives.load import Span
from objectives.telemetry import TelemetrySummary
from objectives.units import GIB
from study.reports.palette import FRONT, INK, MUTED, OTHER, Role, tenants
from study.reports.plots import STYLE, save
from study.results import TrialRecord, choice, seconds

Series = Mapping[str, Sequence[tuple[float, float]]]
"""Tenant to its memory over time: (seconds since the trial began, bytes)."""


def timeline_figure(
    spans: Sequence[Span],
    *,
    memory: Series | None = None,
    total_bytes: float | None = None,
    caption: str = "",
) -> Figure:
    """Phases as bars on one time axis, memory stacked below.

    Args:
        spans: Phases and steps.
        memory: What each tenant held over time; None where nobody looked.
        total_bytes: The device's memory, drawn as a line.
        caption: Above the picture: the trial, the setting, the outcome.
    """
    heights = [0.3 * max(len(spans), 2), 1.9] if memory else [0.3 * max(len(spans), 2)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, sum(heights) + 1.1), layout="constrained")
        panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)
        _phases(panels[0, 0], spans)
        if memory:
            _memory(panels[1, 0], memory, total_bytes)
        panels[-1, 0].set_xlabel("seconds since the trial began")
        if caption:
            figure.suptitle(caption, fontsize=9.5, x=0.01, ha="left")
    return figure


def _phases(axes: Axes, spans: Sequence[Span]) -> None:
    ordered = sorted(spans, key=lambda span: (span.start_s, -span.end_s))
    for row, span in enumerate(ordered):
        start, end = span.start_s, span.end_s
        role: Role = FRONT if span.phase == "measure" else OTHER
        axes.barh(row, end - start, left=start, height=0.66, color=role.light)
        axes.annotate(
            f" {seconds(end - start)}", (end, row), va="center", fontsize=8, color=MUTED.light
        )
    axes.set_yticks(range(len(spans)), [span.phase for span in ordered])
    axes.set_ylim(len(spans) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=INK.light)
    axes.grid(visible=True, axis="x", linewidth=0.6)
    axes.margins(x=0.09)
    axes.set_xlim(left=0)


def _memory(axes: Axes, memory: Series, total_bytes: float | None) -> None:
    """Tenants stacked; a tenant without a sample at some moment keeps its last one."""
    times = sorted({time for samples in memory.values() for time, _ in samples})
    stacked = [[value / GIB for value in _held(samples, times)] for samples in memory.values()]
    colours = tenants(list(memory))
    axes.stackplot(
        times,
        *stacked,
        labels=list(memory),
        colors=[colours[name].light for name in memory],
        edgecolor=INK.light,
        linewidth=0.4,
    )
    if total_bytes:
        axes.axhline(total_bytes / GIB, color=INK.light, linestyle="--", linewidth=1.1)
    axes.set(ylabel="memory (GiB)", ylim=(0, None))
    axes.grid(visible=True, linewidth=0.6)
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=6, handlelength=1.0, fontsize=8)


def _held(samples: Sequence[tuple[float, float]], times: Sequence[float]) -> list[float]:
    """The last value at or before each time; 0 before the first."""
    found, index, held = [], 0, 0.0
    ordered = sorted(samples)
    for time in times:
        while index < len(ordered) and ordered[index][0] <= time:
            held = ordered[index][1]
            index += 1
        found.append(held)
    return found


def trial_timeline(trial: TrialRecord) -> Figure:
    """The picture of a stored trial, from its timeline and telemetry."""
    return _drawn(trial.evidence, caption=caption(trial))


def _drawn(evidence: TrialEvidence, *, caption: str) -> Figure:
    telemetry, state = evidence.telemetry, evidence.device_state
    total_bytes = None if state is None else state.total_bytes
    return timeline_figure(
        evidence.timeline,
        memory=None if telemetry is None else memory_series(telemetry),
        total_bytes=total_bytes if telemetry is None else telemetry.total_bytes,
        caption=caption,
    )


def memory_series(telemetry: TelemetrySummary) -> Series | None:
    """Each tenant's memory over time, seconds since the trial began.

    Returns:
        Tenants in their order, then `other`: what is used and known of no tenant. None without
        samples.
    """
    if not telemetry.samples:
        return None
    names = dict.fromkeys(
        name
        for sample in telemetry.samples
        for name, held in sample.tenants.items()
        if held is not None
    )
    series: dict[str, list[tuple[float, float]]] = {name: [] for name in (*names, "other")}
    for sample in telemetry.samples:
        time_s, rest = telemetry.began_s + sample.time_s, float(sample.used_bytes)
        for name in names:
            held = float(sample.tenants.get(name) or 0)
            series[name].append((time_s, held))
            rest -= held
        series["other"].append((time_s, max(rest, 0.0)))
    return series


def caption(trial: TrialRecord) -> str:
    """The trial, its setting and how it ended, in one line."""
    values = ", ".join(f"{name}={choice(value)}" for name, value in trial.params.items())
    ended = {"COMPLETE": "measured", "PRUNED": f"infeasible: {trial.cause}"}.get(
        trial.state, trial.state.lower()
    )
    weights = trial.evidence.weights or "real"
    ended += "" if weights == "real" else f", {weights} weights"
    return f"trial {trial.number}: {values} ({ended})"


def pictures(folder: Path, evidence: TrialEvidence, *, weights: str = "real") -> list[Path]:
    """The pictures of a trial that is about to end, to be kept with it.

    Args:
        folder: Where to draw; it exists.
        evidence: What is about to stand on the trial.
        weights: Said in the picture unless they are real.

    Returns:
        Files; none where nothing was launched.
    """
    if not evidence.settings:
        return []
    reason = evidence.infeasible or evidence.error
    said = f"ended: {'measured' if reason is None else reason.cause}"
    said += "" if weights == "real" else f", {weights} weights"
    return [save(_drawn(evidence, caption=said), folder / "timeline.png")]
