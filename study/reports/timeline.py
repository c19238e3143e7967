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
from study.reports.palette import FRONT, INK, MUTED, OTHER, tenants
from study.reports.plots import STYLE, save
from study.results import TrialRecord, choice, seconds


def trial_timeline(trial: TrialRecord) -> Figure:
    """The picture of a stored trial, from its timeline and telemetry."""
    return timeline_figure(trial.evidence, caption=caption(trial))


def timeline_figure(evidence: TrialEvidence, *, caption: str) -> Figure:
    """Phases as bars on one time axis, memory stacked below where it was watched."""
    spans, telemetry = evidence.timeline, evidence.telemetry
    watched = telemetry if telemetry and telemetry.samples else None
    heights = [0.3 * max(len(spans), 2), *([1.9] if watched else [])]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, sum(heights) + 1.1), layout="constrained")
        panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)
        _phases(panels[0, 0], spans)
        if watched:
            _memory(panels[1, 0], watched)
        panels[-1, 0].set_xlabel("seconds since the trial began")
        figure.suptitle(caption, fontsize=9.5, x=0.01, ha="left")
    return figure


def _phases(axes: Axes, spans: Sequence[Span]) -> None:
    ordered = sorted(spans, key=lambda span: (span.start_s, -span.end_s))
    for row, span in enumerate(ordered):
        took_s = span.end_s - span.start_s
        role = FRONT if span.phase == "measure" else OTHER
        axes.barh(row, took_s, left=span.start_s, height=0.66, color=role.light)
        axes.annotate(
            f" {seconds(took_s)}", (span.end_s, row), va="center", fontsize=8, color=MUTED.light
        )
    axes.set_yticks(range(len(spans)), [span.phase for span in ordered])
    axes.set_ylim(len(spans) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=INK.light)
    axes.grid(visible=True, axis="x", linewidth=0.6)
    axes.margins(x=0.09)
    axes.set_xlim(left=0)


def _memory(axes: Axes, telemetry: TelemetrySummary) -> None:
    memory = memory_series(telemetry)
    colours = tenants(list(memory))
    axes.stackplot(
        [telemetry.began_s + sample.time_s for sample in telemetry.samples],
        *([held / GIB for held in series] for series in memory.values()),
        labels=list(memory),
        colors=[colours[name].light for name in memory],
        edgecolor=INK.light,
        linewidth=0.4,
    )
    if telemetry.total_bytes:
        axes.axhline(telemetry.total_bytes / GIB, color=INK.light, linestyle="--", linewidth=1.1)
    axes.set(ylabel="memory (GiB)", ylim=(0, None))
    axes.grid(visible=True, linewidth=0.6)
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=6, handlelength=1.0, fontsize=8)


def memory_series(telemetry: TelemetrySummary) -> Mapping[str, Sequence[int]]:
    """Each tenant's bytes at every sample; then `other`: what is used and known of no tenant."""
    samples = telemetry.samples
    held = [{n: size for n, size in each.tenants.items() if size is not None} for each in samples]
    names = dict.fromkeys(name for known in held for name in known)
    series = {name: [known.get(name, 0) for known in held] for name in names}
    pairs = zip(samples, held, strict=True)
    rest = [max(each.used_bytes - sum(known.values()), 0) for each, known in pairs]
    return {**series, "other": rest}


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
    """The pictures of a trial that is about to end, drawn in a folder that exists.

    None where nothing was launched; weights are said in the picture unless they are real.
    """
    if not evidence.settings:
        return []
    reason = evidence.infeasible or evidence.error
    said = f"ended: {'measured' if reason is None else reason.cause}"
    said += "" if weights == "real" else f", {weights} weights"
    return [save(timeline_figure(evidence, caption=said), folder / "timeline.png")]
