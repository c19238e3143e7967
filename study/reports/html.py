"""The report as one HTML file: to mail, to print, to open without a network.

Everything is in the file: styles, and pictures as SVG in the page's own colours. There is no
script in it, and its content security policy forbids anything to be fetched. It follows the
reader's choice of light or dark, fits a phone, and says in words and tables what the pictures show.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template

from matplotlib.figure import Figure

from objectives.evidence import Infeasible
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
    DEVICE_WORDS,
    SCENARIOS,
    STATE_WORDS,
    Findings,
    MeasuredPoint,
    TrialRecord,
    causes,
    change_in_words,
    changes,
    choice,
    command_lines,
    conditions,
    doubts_of,
    figure_with_interval,
    foremost,
    gib,
    headline,
    kv_cache_rows,
    label,
    next_steps,
    number,
    percentile_rows,
    phase_rows,
    point,
)


def section(title: str, *parts: str) -> str:
    """A part of the page under its own heading."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def figure(drawing: Figure, *, name: str, words: str, caption: str) -> str:
    """A picture with its caption."""
    svg = inline_svg(drawing, name=name, words=words)
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str = "",
    tight: bool = False,
) -> str:
    """A table that scrolls sideways where it is too wide, by keyboard too."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    kind = ' class="tight"' if tight else ""
    named = escape(caption or ", ".join(heads), quote=True)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{named}"><table{kind}>{title}'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


MEASURED = (
    "Both servers and every neighbour were up at once, one setting at a time, under the same "
    "requests at the same moments for each. Requests are timed from when they were due; the "
    "warm-up is in no figure."
)
REPLAYED = "No server was started: each trial drew a row of the table for its setting."


def html_report(findings: Findings) -> str:
    """The whole page."""
    template = resources.files("study.reports").joinpath("report.html").read_text(encoding="utf-8")
    caveat = f'<p class="caveat">{escape(findings.caveat)}</p>' if findings.caveat else ""
    sections = (
        _front(findings),
        _picks(findings),
        _infeasible(findings),
        _memory(findings),
        _evolution(findings),
        _how(findings),
        _trials(findings),
        _next(findings),
    )
    return Template(template).substitute(
        title=escape(f"{findings.study}: which settings are best together"),
        light=variables(dark=False),
        dark=variables(dark=True),
        under=escape(_under(findings)),
        headline=escape(headline(findings)),
        caveat=caveat,
        sections="\n".join(section for section in sections if section),
    )


def _under(findings: Findings) -> str:
    """Device, weights and dates, in one line."""
    device = findings.device
    kind = DEVICE_WORDS.get(str(device.get("kind")), "device")
    began = [trial.started for trial in findings.trials if trial.started]
    day = f", begun {min(began):%Y-%m-%d}" if began else ""
    states = ", ".join(
        f"{count} {words}"
        for state, words in STATE_WORDS.items()
        if (count := findings.count(state))
    )
    total = f" with {gib(device['total_bytes'])} GiB" if device.get("total_bytes") else ""
    name = device.get("name", "not recorded")
    weights = "replay" if findings.weights == "replay" else f"{findings.weights} weights"
    return f"{kind}: {name}{total}; {weights}{day}; trials: {states or 'none'}"


def _front(findings: Findings) -> str:
    if not findings.points:
        return ""
    panels = "".join(
        figure(
            front_figure(findings, [(x, y)]),
            name=f"front{index}",
            words=f"Every feasible setting by {label(x)} and {label(y)}; {_front_words(findings)}",
            caption=f"{label(x)} against {label(y)}; lines show where the true value may lie.",
        )
        for index, (x, y) in enumerate(pairs(findings))
    )
    doubts = "".join(
        f"<li>{escape(doubt)} (trials {', '.join(map(str, numbers))})</li>"
        for doubt, numbers in doubts_of(findings.front_points).items()
    )
    return section(
        "The front",
        "<p>A setting is on the front if no other setting that works is at least as good in every "
        "objective and better in one. Choose among these.</p>",
        f'<div class="panels">{panels}</div>',
        _front_table(findings),
        f"<h3>* Doubts</h3><ul>{doubts}</ul>" if doubts else "",
        _percentiles(findings),
    )


def _front_table(findings: Findings) -> str:
    """The front's figures; of a long one the foremost, and all of it to unfold."""
    heads = [
        "trial",
        *findings.parameters,
        *map(label, findings.directions),
        "legacy fitness",
        "measured",
    ]
    caption = "Medians; in parentheses, where the true value may lie."
    first = foremost(findings)
    shown = table(heads, [_row(findings, each) for each in first], caption=caption, tight=True)
    if len(first) == len(findings.front):
        return shown
    rows = [_row(findings, each) for each in findings.front_points]
    unfolded = table(heads, rows, tight=True)
    return f"{shown}<details><summary>All {len(rows)} of the front</summary>{unfolded}</details>"


def _row(findings: Findings, setting: MeasuredPoint) -> list[str]:
    return [
        f"{setting.trial.number}{'*' if doubts_of([setting]) else ''}",
        *(choice(setting.trial.params.get(name)) for name in findings.parameters),
        *(figure_with_interval(setting, name) for name in findings.directions),
        number(setting.figure("fitness")),
        str(len(setting.trials)),
    ]


def _percentiles(findings: Findings) -> str:
    rows = percentile_rows(findings)
    if not rows:
        return ""
    heads = ["trial", "latency (ms)", "p50", "p95", "p99", "requests", "failed"]
    return f"<details><summary>Percentiles</summary>{table(heads, rows, tight=True)}</details>"


def _front_words(findings: Findings) -> str:
    listed = [f"{s.trial.number}: {point(s.trial.params)}" for s in findings.front_points]
    return f"on the front are trials {'; '.join(listed)}."


def _picks(findings: Findings) -> str:
    """The baseline against the picks, and the picks as command lines."""
    chosen: dict[int, list[str]] = {}
    for scenario in SCENARIOS:
        pick = findings.picks[scenario]
        if pick is not None:
            chosen.setdefault(pick, []).append(scenario)
    if not chosen:
        return ""
    rows = [["what runs today", *_figures(findings, findings.baseline)]]
    rows += [[" and ".join(names), *_figures(findings, pick)] for pick, names in chosen.items()]
    heads = ["pick", "trial", "setting", *map(label, findings.directions), "legacy fitness"]
    commands = "".join(_commands(findings, pick, names) for pick, names in chosen.items())
    return section(
        "What runs today, and what to choose",
        table(
            heads,
            rows,
            caption="Latency, capacity, quality, and the legacy weighted number.",
            tight=True,
        ),
        commands,
    )


def _figures(findings: Findings, chosen: int | None) -> list[str]:
    """A trial's setting and figures; why there are none where there are none."""
    if chosen is None:
        return ["–", "not tried", *["–"] * (len(findings.directions) + 1)]
    trial = findings[chosen]
    setting = findings.measured_point(chosen)
    if setting is None:
        reason = f"{point(trial.params)}: {trial.cause}"
        return [str(chosen), reason, *["–"] * (len(findings.directions) + 1)]
    return [
        str(chosen),
        point(trial.params),
        *(figure_with_interval(setting, name) for name in findings.directions),
        number(setting.figure("fitness")),
    ]


def _commands(findings: Findings, pick: int, scenarios: Sequence[str]) -> str:
    setting = findings.measured_point(pick)
    against = changes(findings, setting) if setting else []
    said = "; ".join(change_in_words(change) for change in against)
    lines = "".join(
        f"<p class=muted>{escape(server)}</p><pre>{escape(line)}</pre>"
        for server, line in command_lines(findings[pick]).items()
    )
    return (
        f"<h3>For {escape(' and '.join(scenarios))}: {escape(point(findings[pick].params))}</h3>"
        + (f"<p>Against what runs today: {escape(said)}.</p>" if said else "")
        + lines
    )


def _infeasible(findings: Findings) -> str:
    if not findings.infeasible:
        return ""
    letter = letters(findings)
    parts = []
    for cause, times in causes(findings):
        trials = [trial for trial in findings.infeasible if trial.cause == cause]
        reason = (_launched(trials) or trials[0]).infeasible or Infeasible()
        predicted = sum(trial.predicted for trial in trials)
        parts.append(
            f"<h3>{letter[cause]}: {escape(cause)}</h3>"
            f"<p>{times} trials, {predicted} of them predicted without a launch.</p>"
            f"<blockquote>{escape(reason.evidence)}</blockquote>"
            + (f"<p>{escape(reason.remedy)}</p>" if reason.remedy else "")
        )
    words = "; ".join(f"{cause}: {times} trials" for cause, times in causes(findings))
    picture = figure(
        map_figure(findings),
        name="map",
        words=f"Where settings work and where they do not. {words}.",
        caption="Each cell is a setting, or several; its letter is the cause below.",
    )
    return section("What does not work here, and why", picture, *parts)


def _launched(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The first that was really started: its evidence is a server's own word."""
    return next((trial for trial in trials if not trial.predicted), None)


def _memory(findings: Findings) -> str:
    trials = memory_trials(findings)
    if not trials:
        return ""
    words = "; ".join(
        f"trial {trial.number}: "
        + ", ".join(f"{name} {gib(size)}" for name, size in trial.evidence.tenants_bytes.items())
        for trial in trials
    )
    kv_rows = kv_cache_rows(findings)
    heads = ["trial", "predicted (GiB)", "logged (GiB)", "off by (%)"]
    kv_cache = table(heads, kv_rows, caption="KV cache, predicted before the launch and as logged.")
    return section(
        "Memory, tenant by tenant",
        figure(
            memory_figure(findings),
            name="memory",
            words=f"Peak memory in GiB by tenant. {words}.",
            caption="Peak of each tenant while requests arrived, against the whole device.",
        ),
        f"<details><summary>Was the memory model right?</summary>{kv_cache}</details>"
        if kv_rows
        else "",
    )


def _evolution(findings: Findings) -> str:
    known = [trial for trial in findings.trials if trial.fitness is not None]
    if not known:
        return ""
    top = max(known, key=lambda trial: trial.fitness or 0.0)
    return section(
        "Fitness, as the search went on",
        figure(
            fitness_figure(findings),
            name="fitness",
            words=f"Legacy fitness over the search; the best is trial {top.number} with "
            f"{number(top.fitness)}.",
            caption="The legacy weighted number; a cross is a setting that does not work here.",
        ),
    )


def _how(findings: Findings) -> str:
    """What the figures rest on."""
    listed = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(words)}</dd>"
        for name, words in conditions(findings).items()
    )
    spent = phase_rows(findings)
    return section(
        "How it was measured",
        f"<p>{escape(REPLAYED if findings.weights == 'replay' else MEASURED)}</p>",
        f"<dl>{listed}</dl>",
        table(["phase", "all trials"], spent, caption="Where the time went.") if spent else "",
    )


def _trials(findings: Findings) -> str:
    rows = [
        [
            str(trial.number),
            STATE_WORDS.get(trial.state, trial.state),
            point(trial.params),
            *(number(trial.figure(name)) for name in findings.directions),
            trial.cause or "; ".join(trial.doubts),
        ]
        for trial in findings.trials
    ]
    heads = ["trial", "outcome", "setting", *map(label, findings.directions), "cause or doubts"]
    return f"<details><summary>All {len(rows)} trials</summary>{table(heads, rows)}</details>"


def _next(findings: Findings) -> str:
    steps = "".join(
        f"<li>{escape(step.why)}{f'<pre>{escape(step.command)}</pre>' if step.command else ''}</li>"
        for step in next_steps(findings)
    )
    return section("What to do next", f"<ul>{steps}</ul>")
