"""Where a trial comes from: a chain of records, each with the hash of the one before it.

Every trial has a parent, whoever proposed it. A tournament names it. Otherwise it is the finished
trial whose setting is nearest: the fewest parameters differ, and of those the oldest. So the chain
says from which known setting one came to this one, by which changes. A replicate's parent is the
first trial of its point; the first trial of a study is the root.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from objectives.space import spelling
from objectives.units import Scalar

ATTR = "lineage"
"""The trial attribute that holds the record."""

_UNSEALED = frozenset({ATTR, "doubts"})


def lineage_for(
    study: optuna.Study,
    trial: Trial,
    params: Mapping[str, Scalar],
    *,
    values: Sequence[float] | None = None,
    final: bool = False,
) -> dict[str, Any]:
    """The record of a trial that runs, to be stored as its attribute `lineage`.

    Args:
        study: Its study; the sampler is asked for parents, if it knows any.
        trial: The trial.
        params: Its point.
        values: What it is about to return; None if it will not return any.
        final: Seal all that stands on the trial now; at its begin that is its parameters alone.

    Returns:
        `id`, `parents` (ids), `generation` (steps from the root, or the tournament's), and
        `mutations`: name to [the parent's value, the own one], null where it has none; `sealed`:
        the attributes that the hash covers; `sha256`: over all that and the parents' hashes.
    """
    trials = study.get_trials(deepcopy=False)
    ask = getattr(study.sampler, "ancestry", None)  # what the sampler knows of its origin
    known = (ask and ask(study, trial.number)) or {}
    numbers = known.get("parents")
    if numbers is None:
        numbers = _nearest(trials, params, trial.number)
    parents = [trials[number] for number in numbers]
    origin: Mapping[str, Scalar] = parents[0].params if parents else params
    record = {
        "id": trial_id(study, trial.number),
        "parents": [trial_id(study, number) for number in numbers],
        "generation": known.get("generation", _depth(parents)),
        "mutations": {
            name: [origin.get(name), params.get(name)] for name in _differing(origin, params)
        },
        "sealed": sorted(set(trial.user_attrs) - _UNSEALED) if final else None,
    }
    return {**record, "sha256": _digest(record, params, trial, values, parents)}


def trial_id(study: optuna.Study, number: int) -> str:
    """A trial's name in lineages."""
    return f"{study.study_name}/{number}"


def verify_lineage(study: optuna.Study) -> list[str]:
    """What is wrong with the records of a study: a sentence each, empty if nothing is.

    Trials that FAILed or still run are not looked at: nothing rests on them.
    """
    trials = study.get_trials(deepcopy=False)
    by_id = _by_id(trials)
    problems: list[str] = []
    for trial in trials:
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            continue
        stored = trial.user_attrs.get(ATTR)
        if not isinstance(stored, Mapping):
            problems.append(f"trial {trial.number}: has no lineage")
            continue
        missing = [parent for parent in stored["parents"] if parent not in by_id]
        if missing:
            problems.append(f"trial {trial.number}: its parent {missing[0]} is gone")
            continue
        record = {key: value for key, value in stored.items() if key != "sha256"}
        parents = [by_id[parent] for parent in stored["parents"]]
        digest = _digest(record, trial.params, trial, trial.values, parents)
        if digest != stored["sha256"]:
            problems.append(f"trial {trial.number}: its record or a parent's was changed")
    return problems


def chain(study: optuna.Study, number: int) -> list[FrozenTrial]:
    """A trial, its parent, its parent's parent, ... to the root.

    Raises:
        KeyError: There is no such trial.
    """
    trials = study.get_trials(deepcopy=False)
    if not 0 <= number < len(trials):
        raise KeyError(number)
    by_id = _by_id(trials)
    found = [trials[number]]
    while True:
        parents = found[-1].user_attrs.get(ATTR, {}).get("parents", [])
        parent = by_id.get(parents[0]) if parents else None
        if parent is None or parent in found:
            return found
        found.append(parent)


def _by_id(trials: Sequence[FrozenTrial]) -> dict[str, FrozenTrial]:
    records = ((trial.user_attrs.get(ATTR), trial) for trial in trials)
    return {record["id"]: trial for record, trial in records if isinstance(record, Mapping)}


def _nearest(trials: Sequence[FrozenTrial], params: Mapping[str, Scalar], own: int) -> list[int]:
    """The finished trial from which the fewest parameters differ, the oldest of those."""
    finished = [
        (len(_differing(trial.params, params)), trial.number)
        for trial in trials
        if trial.number != own
        and trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        and isinstance(trial.user_attrs.get(ATTR), Mapping)
    ]
    return [min(finished)[1]] if finished else []


def _differing(old: Mapping[str, Scalar], new: Mapping[str, Scalar]) -> list[str]:
    """The parameters that differ or exist at one of two points only; none at the same point."""
    return [
        name
        for name in {**new, **old}
        if not (name in old and name in new and spelling(old[name]) == spelling(new[name]))
    ]


def _depth(parents: Sequence[FrozenTrial]) -> int:
    depths = [parent.user_attrs.get(ATTR, {}).get("generation") for parent in parents]
    return 1 + max((depth for depth in depths if depth is not None), default=-1)


def _digest(
    record: Mapping[str, Any],
    params: Mapping[str, Scalar],
    trial: Trial | FrozenTrial,
    values: Sequence[float] | None,
    parents: Sequence[FrozenTrial],
) -> str:
    """SHA-256 over the canonical JSON of a record, of what it seals, and of its parents' hashes."""
    sealed = record["sealed"]
    hashes = [str(parent.user_attrs.get(ATTR, {}).get("sha256")) for parent in parents]
    whole: dict[str, Any] = {"record": record, "params": dict(params), "parents": hashes}
    if sealed is not None:
        whole["attrs"] = {name: trial.user_attrs.get(name) for name in sealed}
        whole["constraints"] = dict(trial.constraints)
        whole["values"] = None if values is None else [float(value) for value in values]
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
