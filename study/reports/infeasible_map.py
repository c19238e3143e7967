"""A map of where a study's candidates work and where they do not, and why.

Two parameters span it: those that tell best, of all, whether a setting works. Each cell carries a
letter for its cause, so it reads without colours; several trials in a cell show the most frequent
outcome and how many share it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from objectives.models import WHISPER_SIZES
from objectives.units import Scalar, is_number
from study.reports.palette import FEASIBLE, INK, MUTED, ONFILL, PAPER, Role, fills
from study.reports.plots import STYLE, WIDTH_IN
from study.results import Findings, TrialRecord, causes, choice

TICKS = 10
"""A parameter with more values than this is shown in so many ranges."""

WORKS = "works here"


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of the map.

    Attributes:
        ticks: A word for each column or row, from low to high.
        place: Trial number to its column or row; without trials that lack the parameter.
    """

    name: str
    ticks: tuple[str, ...]
    place: dict[int, int]


def map_figure(findings: Findings) -> Figure:
    """The map; without a second parameter that varies it is one row high."""
    judged = [trial for trial in findings.trials if trial.feasible is not None]
    names = telling_parameters(judged)
    one = Side(name="", ticks=("",), place={trial.number: 0 for trial in judged})
    rows = side(judged, names[1]) if len(names) > 1 else one
    height = 1.2 + 0.42 * len(rows.ticks) + 0.2 * len(causes(findings))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, max(height, 2.2)), layout="constrained")
        axes = figure.add_subplot()
        if not names:
            axes.set_axis_off()
            return figure
        columns = side(judged, names[0])
        _cells(axes, findings, judged, columns, rows)
        _sides(axes, columns, rows)
    return figure


def outcome(trial: TrialRecord) -> str:
    """`works here`, or the cause."""
    return WORKS if trial.feasible else str(trial.cause)


def letters(findings: Findings) -> dict[str, str]:
    """A letter for each cause, A the most frequent; a tick for what works."""
    named = {cause: chr(ord("A") + index % 26) for index, (cause, _) in enumerate(causes(findings))}
    return {WORKS: "✓", **named}


def telling_parameters(trials: Sequence[TrialRecord]) -> list[str]:
    """The parameters that vary, those first that tell best whether a setting works."""
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    varied = [name for name in names if len({repr(t.params.get(name)) for t in trials}) > 1]
    return sorted(varied, key=lambda name: -_told(trials, name))


def _told(trials: Sequence[TrialRecord], name: str) -> float:
    """How many trials one gets right who knows this parameter alone and says the likelier."""
    placed = side(trials, name).place
    by_place: dict[int, Counter[bool]] = {}
    for trial in trials:
        if trial.number in placed:
            by_place.setdefault(placed[trial.number], Counter())[bool(trial.feasible)] += 1
    return sum(max(counts.values()) for counts in by_place.values())


def side(trials: Sequence[TrialRecord], name: str) -> Side:
    """The values of a parameter in order, or ranges of them where there are many."""
    having = {trial.number: trial.params[name] for trial in trials if name in trial.params}
    distinct = sorted(set(having.values()), key=_order)
    if len(distinct) <= TICKS:
        at = {value: index for index, value in enumerate(distinct)}
        ticks = tuple(choice(value) for value in distinct)
        return Side(name=name, ticks=ticks, place={n: at[value] for n, value in having.items()})
    bins = [distinct[len(distinct) * part // TICKS] for part in range(TICKS)]
    place = {
        number: sum(_order(low) <= _order(value) for low in bins) - 1
        for number, value in having.items()
    }
    return Side(name=name, ticks=tuple(f"{choice(low)}…" for low in bins), place=place)


def _order(value: Scalar) -> tuple[int, float, str]:
    """Numbers by size, then Whisper's checkpoints by theirs, then other words by the alphabet."""
    if is_number(value):
        return (0, float(value), "")
    size = WHISPER_SIZES.get(str(value).removesuffix(".en"), len(WHISPER_SIZES))
    return (1, float(size), str(value))


def _cells(
    axes: Axes, findings: Findings, trials: Sequence[TrialRecord], columns: Side, rows: Side
) -> None:
    cells: dict[tuple[int, int], list[TrialRecord]] = {}
    for trial in trials:
        if trial.number in columns.place and trial.number in rows.place:
            at = columns.place[trial.number], rows.place[trial.number]
            cells.setdefault(at, []).append(trial)
    letter = letters(findings)
    named = [cause for cause, _ in causes(findings)]
    colours: dict[str, Role] = {WORKS: FEASIBLE, **fills(named, first=1)}
    for (column, row), inside in cells.items():
        what, times = Counter(outcome(trial) for trial in inside).most_common(1)[0]
        axes.add_patch(
            Rectangle(
                (column - 0.48, row - 0.46),
                0.96,
                0.92,
                facecolor=colours[what].light,
                edgecolor=PAPER.light,
            )
        )
        share = "" if len(inside) == 1 else f" {times}/{len(inside)}"
        axes.text(
            column, row, f"{letter[what]}{share}", ha="center", va="center", color=ONFILL.light
        )
    shown = [Patch(facecolor=colours[w].light, label=f"{letter[w]}  {w}") for w in letter]
    axes.legend(
        handles=shown, loc="upper left", bbox_to_anchor=(0.0, -0.2), borderaxespad=0, ncols=2
    )


def _sides(axes: Axes, columns: Side, rows: Side) -> None:
    axes.set_xticks(range(len(columns.ticks)), columns.ticks)
    axes.set(xlabel=columns.name, xlim=(-0.55, len(columns.ticks) - 0.45))
    axes.set_yticks(range(len(rows.ticks)), rows.ticks)
    axes.set(ylabel=rows.name, ylim=(-0.55, len(rows.ticks) - 0.45))
    axes.tick_params(length=0, labelcolor=INK.light, color=MUTED.light)
    axes.spines[:].set_visible(False)
