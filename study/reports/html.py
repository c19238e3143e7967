"""The report as one HTML file: to mail, to print, to open without a network.

Everything is in the file: styles, and pictures as SVG in the page's own colours. There is no
script in it, and its content security policy forbids anything to be fetched. It follows the
reader's choice of light or dark, fits a phone, and says in words and tables what the pictures show.
How it looks is in `report.html`, a Jinja template that escapes whatever it is given; here is what
it shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from study.reports.infeasible_map import letters, map_figure
from study.reports.palette import variables
from study.reports.plots import (
    fitness_figure,
    front_figure,
    inline_svg,
    memory_figure,
    memory_trials,
    pairs,
)
from study.results import (
    SCENARIOS,
    STATE_WORDS,
    Findings,
    TrialRecord,
    causes,
    change_in_words,
    changes,
    command_lines,
    conditions,
    device_line,
    doubts_of,
    figure_with_interval,
    foremost,
    fragments,
    gib,
    headline,
    kv_cache_rows,
    label,
    next_steps,
    number,
    percentile_rows,
    phase_rows,
    point,
    setting_row,
    states_line,
    telling_trials,
)


def html_report(findings: Findings) -> str:
    """The whole page."""
    pages = Environment(
        loader=PackageLoader("study.reports", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    pages.filters.update(label=label, point=point, pairs=pairs)
    return pages.get_template("report.html").render(
        findings=findings,
        light=variables(dark=False),
        dark=variables(dark=True),
        under=_under(findings),
        headline=headline(findings),
        pictures={
            name: inline_svg(drawing, name=name, words=words)
            for drawing, name, words in _drawings(findings)
        },
        foremost=[setting_row(findings, each) for each in foremost(findings)],
        front=[setting_row(findings, each) for each in findings.front_points],
        doubts=doubts_of(findings.front_points),
        percentiles=percentile_rows(findings),
        picks=[*_pick_rows(findings)],
        commands=[*_commands(findings)],
        causes=[*telling_trials(findings)],
        fragments=fragments,
        letters=letters(findings),
        kv_cache=kv_cache_rows(findings),
        conditions=conditions(findings),
        phases=phase_rows(findings),
        trials=[*_trial_rows(findings)],
        next_steps=next_steps(findings),
    )


def _drawings(findings: Findings) -> Iterator[tuple[Figure, str, str]]:
    """Every picture that there is something for, its name, and what it shows in words."""
    listed = [f"{s.trial.number}: {point(s.trial.params)}" for s in findings.front_points]
    for index, (x, y) in enumerate(pairs(findings) if findings.points else ()):
        words = (
            f"Every feasible setting by {label(x)} and {label(y)}; "
            f"on the front are trials {'; '.join(listed)}."
        )
        yield front_figure(findings, [(x, y)]), f"front{index}", words
    if findings.infeasible:
        listed = [f"{cause}: {times} trials" for cause, times in causes(findings)]
        words = f"Where settings work and where they do not. {'; '.join(listed)}."
        yield map_figure(findings), "map", words
    if trials := memory_trials(findings):
        words = f"Peak memory in GiB by tenant. {'; '.join(map(_tenants, trials))}."
        yield memory_figure(findings), "memory", words
    if known := [trial for trial in findings.trials if trial.fitness is not None]:
        top = max(known, key=lambda trial: trial.fitness or 0.0)
        words = (
            f"Legacy fitness over the search; the best is trial {top.number} with "
            f"{number(top.fitness)}."
        )
        yield fitness_figure(findings), "fitness", words


def _tenants(trial: TrialRecord) -> str:
    held = trial.evidence.tenants_bytes.items()
    return f"trial {trial.number}: {', '.join(f'{name} {gib(size)}' for name, size in held)}"


def _under(findings: Findings) -> str:
    """Device, weights and dates, in one line."""
    began = [trial.started for trial in findings.trials if trial.started]
    day = f", begun {min(began):%Y-%m-%d}" if began else ""
    weights = "replay" if findings.weights == "replay" else f"{findings.weights} weights"
    return f"{device_line(findings, ' with')}; {weights}{day}; trials: {states_line(findings)}"


def _chosen(findings: Findings) -> dict[int, str]:
    """Each picked trial, and for which scenarios."""
    chosen: dict[int, list[str]] = {}
    for scenario in SCENARIOS:
        if (pick := findings.picks[scenario]) is not None:
            chosen.setdefault(pick, []).append(scenario)
    return {pick: " and ".join(scenarios) for pick, scenarios in chosen.items()}


def _pick_rows(findings: Findings) -> Iterator[list[str]]:
    """The baseline, then the picks."""
    yield ["what runs today", *_figures(findings, findings.baseline)]
    for pick, scenarios in _chosen(findings).items():
        yield [scenarios, *_figures(findings, pick)]


def _figures(findings: Findings, chosen: int | None) -> list[str]:
    """A trial's setting and figures; why there are none where there are none."""
    nothing = ["–"] * (len(findings.directions) + 1)
    if chosen is None:
        return ["–", "not tried", *nothing]
    trial, setting = findings[chosen], findings.measured_point(chosen)
    if setting is None:
        return [str(chosen), f"{point(trial.params)}: {trial.cause}", *nothing]
    return [
        str(chosen),
        point(trial.params),
        *(figure_with_interval(setting, name) for name in findings.directions),
        number(setting.figure("fitness")),
    ]


def _commands(findings: Findings) -> Iterator[dict[str, Any]]:
    """Each pick as command lines, and what it changes against what runs today."""
    for pick, scenarios in _chosen(findings).items():
        setting = findings.measured_point(pick)
        yield {
            "scenarios": scenarios,
            "point": point(findings[pick].params),
            "changes": [*map(change_in_words, changes(findings, setting) if setting else ())],
            "lines": command_lines(findings[pick]),
        }


def _trial_rows(findings: Findings) -> Iterator[list[str]]:
    for trial in findings.trials:
        yield [
            str(trial.number),
            STATE_WORDS.get(trial.state, trial.state),
            point(trial.params),
            *(number(trial.figure(name)) for name in findings.directions),
            trial.cause or "; ".join(trial.doubts),
        ]
