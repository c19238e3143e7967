"""The report as plain text, 80 columns wide: for a terminal, a log, a mail.

It says first what was found, in one sentence, then the front with its intervals and doubts, what
is infeasible and why, the picks as command lines to copy, whether the memory model was right, and
what to do next.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence

from objectives.evidence import Fault, Infeasible
from study.results import (
    ROWS,
    Findings,
    MeasuredPoint,
    TrialRecord,
    command_lines,
    device_line,
    doubts_of,
    figure_with_interval,
    foremost,
    fragments,
    headline,
    kv_cache_rows,
    label,
    least_in_one_piece,
    next_steps,
    point,
    seconds,
    setting_row,
    states_line,
    telling_trials,
)

WIDTH = 80


def text_report(findings: Findings) -> str:
    """The whole report, ending in a newline."""
    sections = [
        _head(findings),
        _front(findings),
        _infeasible(findings),
        _failed(findings),
        _picks(findings),
        _kv_cache(findings),
        _next(findings),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(findings: Findings) -> str:
    lines = [
        f"Study {findings.study}",
        device_line(findings, ","),
        f"Trials: {states_line(findings)}",
        "",
        _wrap(headline(findings)),
    ]
    if findings.caveat:
        lines.append(_wrap(findings.caveat))
    return "\n".join(lines)


def _front(findings: Findings) -> str:
    settings = foremost(findings)
    if not settings:
        return ""
    objectives = [label(name) for name in findings.directions]
    header = ["trial", *findings.parameters, *objectives, "fit-ness", "n"]
    table = columns(header, [setting_row(findings, setting) for setting in settings])
    if max(map(len, table)) > WIDTH:
        table = _front_cards(findings, settings)
    doubts = [
        _wrap(f"* {doubt} ({_trials(numbers)})", indent="  ")
        for doubt, numbers in doubts_of(settings).items()
    ]
    notes = ["Medians of replicates; in parentheses, where the true value may lie."]
    left_out = len(findings.front) - len(settings)
    if left_out:
        notes.append(f"{left_out} more are on the front; --format html, csv or json has them all.")
    if pieces := least_in_one_piece(findings):
        doubts.append(_wrap(f"Largest single allocation: {pieces}."))
    return "\n".join([_title("Front"), *table, "", *notes, *doubts])


def _trials(numbers: Sequence[int]) -> str:
    return f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _front_cards(findings: Findings, settings: Sequence[MeasuredPoint]) -> list[str]:
    """The front where a table is too wide: a block a setting."""
    lines = []
    for setting in settings:
        name = setting_row(findings, setting)[0]
        figures = [
            f"{label(objective)} {figure_with_interval(setting, objective)}"
            for objective in (*findings.directions, "fitness")
            if setting.figure(objective) is not None
        ]
        lines.append(_wrap(f"trial {name}: {point(setting.trial.params)}"))
        lines.append(_wrap(", ".join(figures), indent="    "))
    return lines


def _infeasible(findings: Findings) -> str:
    if not findings.infeasible:
        return ""
    lines = [_title("Infeasible")]
    for cause, trials, telling in telling_trials(findings):
        lines += _cause(cause, trials, telling)
    return "\n".join(lines)


def _cause(cause: str, trials: Sequence[TrialRecord], telling: TrialRecord) -> list[str]:
    """A cause, where it struck, one telling line, and what to do about it."""
    predicted = sum(trial.predicted for trial in trials)
    reason = telling.infeasible or Infeasible()
    lines = [f"{cause}: {len(trials)} trials, {predicted} of them predicted without a launch"]
    lines += [_wrap(f"{t.number}: {point(t.params)}", indent="    ") for t in trials[:ROWS]]
    if len(trials) > ROWS:
        lines.append(f"    ... and {len(trials) - ROWS} more")
    if reason.evidence:
        lines.append(_wrap(f"trial {telling.number}: {reason.evidence}", indent="  > "))
    if reason.remedy:
        lines.append(_wrap(f"remedy: {reason.remedy}", indent="  "))
    if pieces := fragments(telling):
        lines.append(_wrap(pieces, indent="  "))
    return lines


def _failed(findings: Findings) -> str:
    failed = [trial for trial in findings.trials if trial.state == "FAIL"]
    faults = [(trial.number, trial.evidence.error or Fault()) for trial in failed]
    lines = [_wrap(f"{tried}: {it.cause}: {it.message}", indent="  ") for tried, it in faults]
    title = _title("Failed: the bench broke, the settings are not to blame")
    return "\n".join([title, *lines]) if lines else ""


def _picks(findings: Findings) -> str:
    if not findings.points:
        return ""
    lines = [_title("Picks")]
    for scenario, chosen in findings.picks.items():
        if chosen is None:
            lines.append(f"{scenario:<9} none: what decides it was not measured")
            continue
        today = ", what runs today" if chosen == findings.baseline else ""
        words = f"trial {chosen}{today}: {point(findings[chosen].params)}"
        lines.append(_wrap(words, indent=f"{scenario:<10}"))
    for chosen in sorted({pick for pick in findings.picks.values() if pick is not None}):
        commands = command_lines(findings[chosen]).values()
        if commands:
            lines += ["", f"Trial {chosen}, to run:"]
            lines += [line for command in commands for line in continued(command)]
    return "\n".join(lines)


def _kv_cache(findings: Findings) -> str:
    rows = kv_cache_rows(findings)
    if not rows:
        return ""
    header = ["trial", "predicted GiB", "logged GiB", "off by %"]
    lines = [_title("KV cache, predicted and as vLLM logged it"), *columns(header, rows[:ROWS])]
    if len(rows) > ROWS:
        lines.append(f"... and {len(rows) - ROWS} more")
    return "\n".join(lines)


def _next(findings: Findings) -> str:
    lines = [_title("Next")]
    for step in next_steps(findings):
        lines.append(_wrap(step.why))
        if step.command:
            lines += continued(step.command)
    spent = sum(trial.duration_s or 0.0 for trial in findings.trials)
    lines += ["", f"The trials took {seconds(spent)} in all; kept in {findings.storage}"]
    return "\n".join(lines)


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table, right-aligned; a header breaks at its underscores, spaces and hyphens."""
    stacks = [_stack(cell) for cell in header]
    height = max(map(len, stacks))
    heads = [[""] * (height - len(stack)) + stack for stack in stacks]
    lines = [*zip(*heads, strict=True)]
    widths = [max(map(len, column)) for column in zip(*lines, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (*lines, rule, *rows)
    ]


def _stack(cell: str) -> list[str]:
    """A header's words, one below the other."""
    return cell.replace("_", "_ ").replace("-", "- ").split() or [""]


def continued(command: str, *, width: int = WIDTH) -> list[str]:
    """A command line over several lines, each continued with a backslash, indented by 4.

    An option and its value stay on one line.
    """
    lines: list[str] = []
    current = "   "
    for phrase in _phrases(command):
        if len(current) + len(phrase) + 3 > width and current.strip():
            lines.append(f"{current} \\")
            current = "       "
        current = f"{current} {phrase}"
    return [*lines, current]


def _phrases(command: str) -> list[str]:
    """The command's words, quoted, an option together with its value."""
    phrases: list[str] = []
    option = False
    for word in shlex.split(command):
        if option and not word.startswith("-"):
            phrases[-1] += f" {_requoted(word)}"
        else:
            phrases.append(_requoted(word))
        option = word.startswith("-") and not option
    return phrases


def _requoted(word: str) -> str:
    """A word as a shell reads it; an assignment keeps its name bare."""
    name, equals, value = word.partition("=")
    return f"{name}={shlex.quote(value)}" if equals and name.isidentifier() else shlex.quote(word)


def _title(words: str) -> str:
    return f"{words}\n{'=' * len(words)}"


def _wrap(words: str, *, indent: str = "") -> str:
    """Words in lines of at most 80 columns; a longer word, a path, is broken."""
    return textwrap.fill(
        words,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_on_hyphens=False,
    )
