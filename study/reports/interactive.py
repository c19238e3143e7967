"""Interactive figures of a study, for the dashboard and the notebook: Plotly's.

The dashboard keeps Plotly figures only, so these are; still pictures are in `plots.py`. Colours
mean the same in both.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from objectives.units import GIB
from study.reports.palette import BASELINE, FRONT, INK, OTHER, tenants
from study.reports.plots import bar_name, memory_trials, pairs, title, told_apart
from study.results import (
    Findings,
    MeasuredPoint,
    hypervolume_history,
    label,
    number,
    point,
    spread,
)

LAYOUT = {"template": "plotly_white", "font": {"family": "system-ui, sans-serif", "size": 13}}


def front_graphs(findings: Findings) -> list[go.Figure]:
    """For each pair of objectives that differ: every feasible setting, the front with intervals."""
    return [_front_graph(findings, x, y) for x, y in pairs(findings)]


def _front_graph(findings: Findings, x: str, y: str) -> go.Figure:
    kinds = told_apart(findings).items()
    figure = go.Figure([_marks(settings, x, y, name) for name, settings in kinds])
    figure.update_layout(
        title=_title(findings), xaxis_title=label(x), yaxis_title=label(y), **LAYOUT
    )
    return figure


def _title(findings: Findings) -> str:
    return title(findings).replace("\n", "<br>")


def _marks(settings: Sequence[MeasuredPoint], x: str, y: str, name: str) -> go.Scatter:
    """One kind of setting; the front with error bars, what runs today as a ring."""
    known = [s for s in settings if s.figure(x) is not None and s.figure(y) is not None]
    symbols = {"feasible": "circle", "front": "square", "runs today": "diamond-open"}
    colours = {"feasible": OTHER.light, "front": FRONT.light, "runs today": BASELINE.light}
    sizes = {"feasible": 7, "front": 10, "runs today": 16}
    return go.Scatter(
        x=[setting.figure(x) for setting in known],
        y=[setting.figure(y) for setting in known],
        mode="markers+text" if name == "front" else "markers",
        text=[str(setting.trial.number) for setting in known],
        textposition="top right",
        hovertext=[_hover(setting) for setting in known],
        hoverinfo="text",
        marker={
            "symbol": symbols[name],
            "color": colours[name],
            "size": sizes[name],
            "line": {"width": 2 if name == "runs today" else 0, "color": colours[name]},
        },
        error_x=_bars(known, x) if name == "front" else None,
        error_y=_bars(known, y) if name == "front" else None,
        name=name,
    )


def _bars(settings: Sequence[MeasuredPoint], name: str) -> dict[str, object]:
    """Error bars from each setting's median to the ends of its interval."""
    ends = [(setting.figure(name) or 0.0, spread(setting, name)) for setting in settings]
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - middle for middle, (_, high) in ends],
        "arrayminus": [middle - low for middle, (low, _) in ends],
        "thickness": 1,
        "width": 0,
    }


def _hover(setting: MeasuredPoint) -> str:
    lines = [f"trial {setting.trial.number}", point(setting.trial.params)]
    lines += [f"{label(name)}: {number(value)}" for name, value in setting.values().items()]
    return "<br>".join([*lines, *setting.trial.doubts])


def hypervolume_graph(findings: Findings) -> go.Figure:
    """What the front has won so far, trial by trial, as a share of what it has now."""
    steps = hypervolume_history(findings)
    figure = go.Figure(
        go.Scatter(
            x=[number for number, _ in steps],
            y=[share for _, share in steps],
            mode="lines",
            line={"shape": "hv", "color": FRONT.light},
            hovertemplate="after trial %{x}: %{y:.1%}<extra></extra>",
        )
    )
    figure.update_layout(
        title=_title(findings),
        xaxis_title="trial",
        yaxis={"title": "hypervolume, share of now", "tickformat": ".0%", "rangemode": "tozero"},
        **LAYOUT,
    )
    return figure


def memory_graph(findings: Findings) -> go.Figure:
    """Each tenant's peak, stacked, against the whole device."""
    trials = memory_trials(findings)
    names = list(dict.fromkeys(name for trial in trials for name in trial.evidence.tenants_bytes))
    colours = tenants(names)
    rows = [bar_name(findings, trial) for trial in trials]
    figure = go.Figure(
        [
            go.Bar(
                y=rows,
                x=[(trial.evidence.tenants_bytes.get(name) or 0) / GIB for trial in trials],
                name=name,
                orientation="h",
                marker={"color": colours[name].light, "line": {"color": INK.light, "width": 0.5}},
                hovertemplate="%{x:.2f} GiB<extra>" + name + "</extra>",
            )
            for name in names
        ]
    )
    total_bytes = findings.device.get("total_bytes")
    if total_bytes:
        figure.add_vline(x=total_bytes / GIB, line={"dash": "dash", "color": INK.light})
    figure.update_layout(
        title=_title(findings),
        barmode="stack",
        xaxis_title="peak memory (GiB)",
        yaxis={"autorange": "reversed"},
        **LAYOUT,
    )
    return figure
