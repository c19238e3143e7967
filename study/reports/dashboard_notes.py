"""What optuna-dashboard shows beside its own plots: notes and our figures.

The study's note says what was measured, on what, and what was found; a trial's note says what was
launched, where the time went, and, for an infeasible one, the telling line. Both are written with
the dashboard's public functions, so the plain `optuna-dashboard` command shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import optuna
from optuna.trial import Trial
from optuna_dashboard import get_note, save_note, save_plotly_graph_object
from plotly.graph_objects import Figure

from objectives.evidence import Fault, Infeasible, TrialEvidence
from study.reports.interactive import front_graphs, hypervolume_graph, memory_graph
from study.reports.plots import memory_trials
from study.reports.text import continued
from study.results import (
    UNITS,
    Findings,
    TrialRecord,
    command_lines,
    conditions,
    fragments,
    gib,
    headline,
    in_one_piece,
    number,
    point,
    seconds,
)


def annotate(study: optuna.Study, findings: Findings) -> None:
    """Write the study's note and figures; a note that is up to date is left alone."""
    note = study_note(findings)
    if get_note(study) != note:
        save_note(study, note)
    for name, figure in graphs(findings).items():
        save_plotly_graph_object(study, figure, graph_object_id=name)


def graphs(findings: Findings) -> dict[str, Figure]:
    """The figures kept with a study, by identifier; writing one again replaces it."""
    kept: dict[str, Figure] = {}
    if findings.points:
        for index, figure in enumerate(front_graphs(findings), start=1):
            kept[f"front-{index}"] = figure
        kept["hypervolume"] = hypervolume_graph(findings)
    if memory_trials(findings):
        kept["memory"] = memory_graph(findings)
    return kept


def with_notes(
    objective: Callable[[Trial], Sequence[float]],
) -> Callable[[Trial], tuple[float, ...]]:
    """The same objective; each trial gets its note when it ends, however it ends."""

    def judged(trial: Trial) -> tuple[float, ...]:
        state = "FAIL"
        try:
            values = tuple(objective(trial))
            state = "COMPLETE"
            return values
        except optuna.TrialPruned:
            state = "PRUNED"
            raise
        finally:
            save_note(trial, trial_note(ending(trial, state)))

    return judged


def ending(trial: Trial, state: str) -> TrialRecord:
    """A trial that is about to end in this state, as reports read it."""
    attrs = trial.user_attrs
    return TrialRecord(
        number=trial.number,
        state=state,
        params=trial.params,
        values=None,
        constraints=dict(trial.constraints),
        attrs=attrs,
        doubts=TrialEvidence.from_attrs(attrs).doubts,
    )


def study_note(findings: Findings) -> str:
    """The study's note, Markdown."""
    lines = [f"**{_plain(headline(findings))}**", ""]
    if findings.caveat:
        lines += [f"> {_plain(findings.caveat)}", ""]
    lines += [f"- {fact}: {_plain(words)}" for fact, words in conditions(findings).items()]
    lines += ["", "| objective | unit | wanted |", "|---|---|---|"]
    for objective, direction in findings.directions.items():
        target = findings.target(objective)
        wanted = "less" if direction == "minimize" else "more"
        wanted = wanted if target is None else f"near {target:g} (stored: the distance)"
        lines.append(f"| {_plain(objective)} | {UNITS.get(objective, '')} | {wanted} |")
    picks = [
        f"- {name}: trial {pick}, {_plain(point(findings[pick].params))}"
        for name, pick in findings.picks.items()
        if pick is not None
    ]
    lines += ["", *(["Picks:", "", *picks, ""] if picks else [])]
    lines += ["A trial that is pruned is infeasible; its page says why, with the log line."]
    return "\n".join(lines)


def trial_note(trial: TrialRecord) -> str:
    """A trial's note, Markdown."""
    lines = [f"**{_outcome(trial)}**", ""]
    reason = trial.infeasible or Infeasible()
    if reason.evidence:
        lines += [f"    {line}" for line in reason.evidence.splitlines()] + [""]
    if reason.remedy:
        lines += [f"Remedy: {_plain(reason.remedy)}", ""]
    if pieces := fragments(trial):
        lines += [_plain(pieces), ""]
    if trial.doubts:
        lines += ["Doubts:", "", *(f"- {_plain(doubt)}" for doubt in trial.doubts), ""]
    if trial.phases_s:
        spent = ", ".join(f"{name} {seconds(took)}" for name, took in trial.phases_s.items())
        lines += [f"Time: {spent}", ""]
    predicted, logged = trial.kv_cache_bytes
    if (predicted, logged) != (None, None):
        lines += [f"KV cache: {gib(predicted)} GiB predicted, {gib(logged)} GiB logged by vLLM", ""]
    if pieces := in_one_piece(trial):
        lines += [f"Largest single allocation: {_plain(pieces)}", ""]
    for server, command in command_lines(trial).items():
        lines += [f"{server}, to run:", "", *continued(command), ""]
    return "\n".join(lines)


def _outcome(trial: TrialRecord) -> str:
    special = {"dummy": " (dummy weights)", "replay": " (replay of a recorded table)"}
    caveat = special.get(trial.evidence.weights or "real", "")
    if trial.state == "COMPLETE":
        fitness = "" if trial.fitness is None else f", legacy fitness {number(trial.fitness)}"
        return f"Measured{fitness}{caveat}"
    if trial.state == "PRUNED":
        how = "predicted, nothing launched" if trial.predicted else "seen"
        return f"Infeasible: {trial.cause} ({how}){caveat}"
    message = (trial.evidence.error or Fault()).message
    return f"Failed, the setting is not to blame: {_plain(message)}{caveat}"


def _plain(words: str) -> str:
    """Words that Markdown leaves as they are."""
    return "".join(f"\\{char}" if char in "\\`*_<>[]|#" else char for char in words)
