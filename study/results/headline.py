"""What a study found, in one sentence, and what to do next."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from study.results.findings import Findings
from study.results.pareto import balanced
from study.results.phrases import Change, causes, changes, label, number, point
from study.results.points import MeasuredPoint


def headline(findings: Findings) -> str:
    """The study's result in one sentence; what limits it follows in `Findings.caveat`."""
    tried = {t.point for t in findings.trials if t.feasible is not None}
    works = len(findings.points)
    if not tried:
        return "No trial has finished yet, so nothing can be said."
    where = findings.device.get("name") or "this device"
    if not works:
        cause, times = causes(findings)[0]
        return (
            f"None of the {_settings(len(tried))} tried works on {where}; the most frequent "
            f"cause is {cause} ({times} of {len(findings.infeasible)} trials)."
        )
    return (
        f"{works} of {_settings(len(tried))} tried work{'s' if works == 1 else ''} on {where}, "
        f"{len(findings.front)} of them on the front; {_headline(findings, best(findings))}."
    )


def _settings(count: int) -> str:
    return f"{count} setting" if count == 1 else f"{count} settings"


def best(findings: Findings) -> MeasuredPoint:
    """The setting to name first: the fitness pick, or the most balanced of the front without one.

    Raises:
        IndexError: Nothing is feasible.
    """
    fittest = findings.picks["fitness"]
    setting = None if fittest is None else findings.measured_point(fittest)
    return setting or balanced(findings.front_points, findings.directions)[0]


def _headline(findings: Findings, setting: MeasuredPoint) -> str:
    name = f"{point(setting.trial.params)} (trial {setting.trial.number})"
    doubt = ", though every measurement of it is doubted" if setting.doubted else ""
    if findings.baseline is None:
        return f"the best compromise is {name}{doubt}"
    today = findings.measured_point(findings.baseline)
    if today is None:
        cause = findings[findings.baseline].cause
        return f"what runs today does not ({cause}); the best compromise is {name}{doubt}"
    if today.point == setting.point:
        return f"what runs today, {name}, is already the best compromise{doubt}"
    changed = ", ".join(map(change_in_words, changes(findings, setting)))
    return f"{name} changes, against what runs today: {changed}{doubt}"


def change_in_words(change: Change) -> str:
    """`speech latency −81 % (better)`."""
    if change.before == change.after:
        return f"{label(change.name, unit=False)} the same"
    judged = {True: "better", False: "worse", None: "within noise"}[change.better]
    how = change.percent or f"from {number(change.before)} to {number(change.after)}"
    return f"{label(change.name, unit=False)} {how} ({judged})"


@dataclass(frozen=True)
class Step:
    """Something a person can do now: a sentence, and the command that does it."""

    why: str
    command: str = ""


def next_steps(findings: Findings) -> list[Step]:
    """What a person can do now, the most useful first."""
    url, name = shlex.quote(findings.storage), shlex.quote(findings.study)
    steps = []
    if findings.count("RUNNING") or findings.count("WAITING"):
        steps.append(Step("Not finished: the command that began the study goes on with it."))
    if not findings.trials:
        return steps or [Step("Measure:", "python -m study.run")]
    if not findings.points:
        steps.append(
            Step(
                "Nothing is feasible: free memory on the device, take a smaller model, or "
                "widen the search space. What would fit, without starting anything:",
                "python -m study.fit",
            )
        )
    elif findings.weights == "dummy":
        steps.append(Step("Name the real models in the configuration and run it again."))
    elif findings.weights == "real":
        steps.append(
            Step(
                "Take a setting's command lines from above into the services' own units, and "
                "keep the old ones at hand."
            )
        )
    if flat := _flat_capacity(findings):
        steps.append(Step(why=flat))
    if any(setting.doubted for setting in findings.front_points):
        steps.append(Step("Repeat doubted settings, or measure longer, before relying on them."))
    return [
        *steps,
        Step("Look closer, in a browser:", f"python -m study.dashboard {url}"),
        Step(
            "Mail it, one file:",
            f"python -m study.report --storage {url} --study-name {name} "
            "--format html --output front.html",
        ),
    ]


def _flat_capacity(findings: Findings) -> str | None:
    """A sentence where no feasible setting has its capacity from the KV cache, else None."""
    measured = [trial.evidence.measurement for trial in findings.feasible]
    known = [each.capacity for each in measured if each is not None and each.capacity is not None]
    if len(findings.points) < 2 or not known:
        return None
    if any(each.limited_by != "max_num_seqs" for each in known):
        return None
    limits = ", ".join(map(str, sorted({each.requests for each in known})))
    return (
        f"Capacity is limited by max-num-seqs ({limits}) in every setting that works: more memory "
        "for the KV cache, and so utilisation, cannot raise it. Raise max-num-seqs."
    )
