"""Still pictures of a study: the front, memory by tenant, what is infeasible, the evolution.

Matplotlib draws every still picture (PNG for people's documents, SVG for the HTML report): it needs
no browser, writes the same file for the same study, and its SVG takes the page's colours. The
dashboard and the notebook show interactive figures, which are Plotly's (`interactive.py`), the
only kind the dashboard keeps.

Every function that is named after a figure takes findings and returns a `Figure`; `save` writes
one by its file's suffix, `inline_svg` as an element of a page.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from objectives.errors import UsageError
from objectives.units import GIB
from study.reports.palette import (
    BASELINE,
    FRONT,
    GRID,
    INK,
    MUTED,
    OTHER,
    PAPER,
    ROLES,
    Role,
    tenants,
)
from study.results import Findings, MeasuredPoint, TrialRecord, choice, label, spread

STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "text.color": INK.light,
    "axes.labelcolor": INK.light,
    "axes.edgecolor": MUTED.light,
    "axes.facecolor": PAPER.light,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED.light,
    "ytick.color": MUTED.light,
    "grid.color": GRID.light,
    "figure.facecolor": PAPER.light,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "savefig.dpi": 160,
}
_SIZE = re.compile(r'viewBox="([^"]*)"')
_BODY = re.compile(r"<svg[^>]*>(.*)</svg>", re.DOTALL)
_METADATA = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)
_IDENTIFIER = re.compile(r'(\bid="|href="#|url\(#)')
_STYLESHEET = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)
_FAMILY = re.compile(r"font-family: [^;\"]*")
_BLANKS = re.compile(r"\s+")
WIDTH_IN = 5.4
LABELS = 16
"""A longer front carries the numbers of its picks only."""

BARS = 14
"""More settings than this are not drawn as bars: those of the front come first."""


def save(figure: Figure, save_path: str | Path) -> Path:
    """Write a figure; the suffix says how: .png, .svg or .pdf.

    Raises:
        UsageError: The suffix is unknown, or the file cannot be written.
    """
    path = Path(save_path)
    undated = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    if path.suffix not in undated:
        raise UsageError(f"{path}: found suffix {path.suffix!r}, allowed: {', '.join(undated)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context({**STYLE, "svg.hashsalt": path.stem}):
            figure.savefig(path, metadata=undated[path.suffix])
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def pairs(findings: Findings) -> list[tuple[str, str]]:
    """The pairs of objectives worth a panel: those that differ between feasible settings.

    Where fewer than two differ, one pair of any: at most three pairs, never none.
    """
    varied = [
        name
        for name in findings.directions
        if len({setting.values()[name] for setting in findings.points}) > 1
    ]
    names = list(findings.directions)
    return list(itertools.combinations(varied, 2))[:3] or [(names[0], names[-1])]


def front_figure(findings: Findings, axes_of: Sequence[tuple[str, str]] | None = None) -> Figure:
    """Every feasible setting, the front with its intervals, and the baseline.

    A panel for each pair of objectives, x and y; by default for those that differ.
    """
    panels = list(axes_of or pairs(findings))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN * len(panels), 3.9), layout="constrained")
        for index, (x, y) in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), index + 1)
            _front_panel(axes, findings, x, y)
    return figure


def _front_panel(axes: Axes, findings: Findings, x: str, y: str) -> None:
    axes.set(xlabel=_axis(findings, x), ylabel=_axis(findings, y))
    axes.grid(visible=True, linewidth=0.6)
    kinds = told_apart(findings)
    for kind, settings in kinds.items():
        _marks(axes, settings, x, y, kind)
    named = set(findings.front)
    if len(named) > LABELS:
        named &= set(findings.picks.values())
    for setting in kinds["front"]:
        _intervals(axes, setting, x, y, role=FRONT, named=setting.trial.number in named)
    for today in kinds["runs today"]:
        if today.trial.number not in findings.front:
            _intervals(axes, today, x, y, role=BASELINE, named=True)
    if findings.points:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, handletextpad=0.2)


def told_apart(findings: Findings) -> dict[str, list[MeasuredPoint]]:
    """The feasible settings by kind: `front`, `runs today`, the rest is `feasible`."""
    today = None if findings.baseline is None else findings.measured_point(findings.baseline)
    return {
        "feasible": [s for s in findings.points if s.trial.number not in findings.front],
        "front": [s for s in findings.points if s.trial.number in findings.front],
        "runs today": [today] if today else [],
    }


MARKS = {
    "feasible": (OTHER, "o", 26),
    "front": (FRONT, "s", 42),
    "runs today": (BASELINE, "D", 110),
}
"""Colour, shape and size of each kind."""


def _marks(axes: Axes, settings: Sequence[MeasuredPoint], x: str, y: str, kind: str) -> None:
    """Marks of one kind; the baseline's is a ring around whatever it is besides."""
    places = [place for setting in settings if (place := _place(setting, x, y)) is not None]
    if not places:
        return
    role, marker, size = MARKS[kind]
    ring = role is BASELINE
    across, up = zip(*places, strict=True)
    axes.scatter(
        across,
        up,
        s=size,
        marker=marker,
        facecolors="none" if ring else role.light,
        edgecolors=role.light if ring else PAPER.light,
        linewidths=1.6 if ring else 0.8,
        label=kind,
        zorder=4 if ring else 3,
    )


def _intervals(
    axes: Axes, setting: MeasuredPoint, x: str, y: str, *, role: Role, named: bool
) -> None:
    """Where the true values may lie, and the trial's number."""
    place = _place(setting, x, y)
    if place is None:
        return
    wide, tall = spread(setting, x), spread(setting, y)
    axes.plot(wide, (place[1], place[1]), color=role.light, linewidth=1.1, zorder=2)
    axes.plot((place[0], place[0]), tall, color=role.light, linewidth=1.1, zorder=2)
    if not named:
        return
    axes.annotate(
        f"{setting.trial.number}{'*' if setting.doubted else ''}",
        place,
        xytext=(6, 5),
        textcoords="offset points",
        color=INK.light,
        zorder=5,
    )


def _place(setting: MeasuredPoint, x: str, y: str) -> tuple[float, float] | None:
    across, up = setting.figure(x), setting.figure(y)
    return None if across is None or up is None else (across, up)


def _axis(findings: Findings, name: str) -> str:
    target = findings.target(name)
    wanted = "less" if findings.directions[name] == "minimize" else "more"
    return f"{label(name)}, " + (f"{wanted} is better" if target is None else f"near {target:g}")


def memory_figure(findings: Findings) -> Figure:
    """Each tenant's peak, stacked, against the whole device: front, picks and baseline first."""
    trials = memory_trials(findings)
    names = list(dict.fromkeys(name for trial in trials for name in trial.evidence.tenants_bytes))
    colours = tenants(names)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 1.5 + 0.36 * max(1, len(trials))), layout="constrained")
        axes = figure.add_subplot()
        for row, trial in enumerate(trials):
            left = 0.0
            for name in names:
                width = (trial.evidence.tenants_bytes.get(name) or 0) / GIB
                axes.barh(
                    row,
                    width,
                    left=left,
                    height=0.68,
                    color=colours[name].light,
                    edgecolor=INK.light,
                    linewidth=0.5,
                    label=name if row == 0 else None,
                )
                left += width
        _memory_axes(axes, findings, trials)
    return figure


def _memory_axes(axes: Axes, findings: Findings, trials: Sequence[TrialRecord]) -> None:
    total_bytes = findings.device.get("total_bytes")
    if total_bytes:
        axes.axvline(total_bytes / GIB, color=INK.light, linewidth=1.2, linestyle="--")
        axes.annotate(
            f"device {total_bytes / GIB:.1f}",
            (total_bytes / GIB, len(trials) + 0.1),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            va="bottom",
        )
    names = [bar_name(findings, trial) for trial in trials]
    axes.set_yticks(range(len(trials)), names)
    axes.set(xlabel="peak memory (GiB)", ylabel="trial", xlim=(0, None))
    axes.set_ylim(len(trials) + (0.15 if total_bytes else -0.4), -0.6)
    axes.grid(visible=True, axis="x", linewidth=0.6)
    if trials:
        axes.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=4, handlelength=1.0)


def bar_name(findings: Findings, trial: TrialRecord) -> str:
    """`12: 0.6 tiny`, and what is special about it."""
    values = " ".join(choice(value) for value in list(trial.params.values())[:3])
    special = " (infeasible)" if trial.feasible is False else ""
    special = " (today)" if trial.number == findings.baseline else special
    return f"{trial.number}: {values}{special}"


def memory_trials(findings: Findings) -> list[TrialRecord]:
    """The settings whose tenants were watched, those that decide anything first."""
    chosen = {number for number in findings.picks.values() if number is not None}
    first = [findings.baseline, *findings.front, *sorted(chosen)]
    rest = [trial.number for trial in findings.trials]
    order = dict.fromkeys(number for number in (*first, *rest) if number is not None)
    watched: dict[str, TrialRecord] = {}  # one of the measurements of a setting stands for all
    for number in order:
        if findings[number].evidence.tenants_bytes:
            watched.setdefault(findings[number].point, findings[number])
    return list(watched.values())[:BARS]


def fitness_figure(findings: Findings) -> Figure:
    """Legacy fitness over the generations, or over the trials where there are none.

    What is infeasible stands at 0 as a cross: it was tried, and cannot win.
    """
    tried = [t for t in findings.trials if t.fitness is not None or t.feasible is False]
    by_generation = any(trial.generation is not None for trial in tried)
    placed = [(trial.generation if by_generation else trial.number, trial) for trial in tried]
    known = [(step, trial) for step, trial in placed if step is not None]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 3.4), layout="constrained")
        axes = figure.add_subplot()
        _evolution(axes, known)
        axes.set(
            xlabel="generation" if by_generation else "trial",
            ylabel="legacy fitness, more is better",
            ylim=(-0.04, 1.04),
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True, linewidth=0.6)
    return figure


def _evolution(axes: Axes, known: Sequence[tuple[int, TrialRecord]]) -> None:
    fit = [(step, trial.fitness) for step, trial in known if trial.feasible and trial.fitness]
    unfit = [step for step, trial in known if trial.feasible is False]
    axes.scatter(
        [step for step, _ in fit],
        [value for _, value in fit],
        s=26,
        color=FRONT.light,
        edgecolors=PAPER.light,
        label="a trial",
        zorder=3,
    )
    if unfit:
        axes.scatter(
            unfit, [0] * len(unfit), s=26, marker="x", color=BASELINE.light, label="infeasible"
        )
    steps = sorted({step for step, _ in known})
    best = [max([value for at, value in fit if at <= step], default=0.0) for step in steps]
    axes.step(steps, best, where="post", color=INK.light, linewidth=1.4, label="best so far")
    if len(steps) < len(known):
        typical = [median([t.fitness or 0.0 for at, t in known if at == step]) for step in steps]
        axes.plot(steps, typical, color=MUTED.light, linestyle=":", marker=".", label="median")
    if known:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, handletextpad=0.3)


def title(findings: Findings) -> str:
    """What a picture that travels alone must say about where it comes from, a line or two."""
    where = " · ".join([findings.study, str(findings.device.get("name", ""))]).removesuffix(" · ")
    return f"{where}\n{findings.caveat}" if findings.caveat else where


def inline_svg(figure: Figure, *, name: str, words: str) -> str:
    """The figure as an `<svg>` element: in the page's colours, with words for a screen reader.

    Matplotlib writes a whole document with fixed colours. Its head is cut off, each colour of the
    palette becomes a CSS variable, so the same picture is right on light and on dark paper, and
    its identifiers get a prefix, so several pictures can stand in one page.

    The name is a word for it, unique in the page; the colours must be the palette's light ones.
    """
    buffer = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):  # the same figure gives the same text
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    box, body = _SIZE.search(text), _BODY.search(text)
    assert box is not None and body is not None, "matplotlib wrote no SVG"
    drawn = _STYLESHEET.sub("", _METADATA.sub("", body[1]))
    drawn = _IDENTIFIER.sub(rf"\g<1>{name}-", drawn)
    drawn = _BLANKS.sub(" ", _FAMILY.sub("font-family: var(--font)", drawn))
    for role in ROLES:
        drawn = drawn.replace(role.light, f"var(--{role.name})")
    title = f"{name}-title"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box[1]}" role="img" aria-labelledby="{title}" class="drawing">'
        f'<title id="{title}">{escape(words)}</title>{drawn}</svg>'
    )
