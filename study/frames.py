"""A study as pandas frames, ready to use: for the notebook, and for questions nobody foresaw."""

from __future__ import annotations

import warnings

import optuna
import pandas as pd
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from study.results import Findings

GOOD_TRIALS = 5
"""An importance is about reaching the best tenth of the trials, and at least so many."""


def trials_frame(findings: Findings) -> pd.DataFrame:
    """A row a trial: setting, outcome, objectives as measured, constraints, phases in seconds.

    What was not measured is missing.
    """
    rows = [
        {
            "trial": trial.number,
            "state": trial.state,
            **trial.params,
            **{name: trial.figure(name) for name in findings.directions},
            "fitness": trial.fitness,
            "largest_allocation_mb": trial.figure("largest_allocation_mb"),
            "front": trial.number in findings.front,
            "feasible": trial.feasible,
            "cause": trial.cause,
            "generation": trial.generation,
            "doubts": "; ".join(trial.doubts),
            **{f"constraint:{name}": excess for name, excess in trial.constraints.items()},
            **{f"{name}_s": took for name, took in trial.phases_s.items()},
            "duration_s": trial.duration_s,
        }
        for trial in findings.trials
    ]
    return pd.DataFrame(rows).set_index("trial") if rows else pd.DataFrame()


def phases_frame(findings: Findings) -> pd.DataFrame:
    """Seconds by phase, a row a trial that has any; a phase that was not reached is missing."""
    rows = {trial.number: dict(trial.phases_s) for trial in findings.trials if trial.phases_s}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("trial")


def kv_cache_frame(findings: Findings) -> pd.DataFrame:
    """KV cache as predicted before the launch and as vLLM logged it, bytes and percent off."""
    rows = [
        (trial.number, predicted, logged)
        for trial in findings.trials
        for predicted, logged in [trial.kv_cache_bytes]
        if predicted is not None and logged
    ]
    columns = ["trial", "predicted_bytes", "logged_bytes"]
    frame = pd.DataFrame(rows, columns=columns).set_index("trial")
    off = frame["predicted_bytes"] - frame["logged_bytes"]
    return frame.assign(off_percent=100 * off / frame["logged_bytes"])


def noise_frame(findings: Findings) -> pd.DataFrame:
    """Settings that were measured several times: median and range of each objective."""
    rows = [
        (setting.point, name, value)
        for setting in findings.points
        if len(setting.trials) > 1
        for name in findings.directions
        for trial in setting.trials
        if (value := trial.figure(name)) is not None
    ]
    keys = ["setting", "objective"]
    frame = pd.DataFrame(rows, columns=[*keys, "value"]).astype({"value": float})
    return frame.groupby(keys, sort=False).agg(
        measurements=("value", "count"),
        median=("value", "median"),
        least=("value", "min"),
        most=("value", "max"),
    )


def generations_frame(findings: Findings) -> pd.DataFrame:
    """What the tournament did: trials, infeasible ones, best and median fitness by generation."""
    frame = pd.DataFrame(
        [
            {
                "generation": trial.generation,
                "fitness": 0.0 if trial.feasible is False else trial.fitness,
                "infeasible": trial.feasible is False,
            }
            for trial in findings.trials
            if trial.generation is not None and trial.feasible is not None
        ],
        columns=["generation", "fitness", "infeasible"],
    )
    return frame.groupby("generation").agg(
        trials=("fitness", "size"),
        infeasible=("infeasible", "sum"),
        best=("fitness", "max"),
        median=("fitness", "median"),
    )


def importances_frame(study: optuna.Study, findings: Findings) -> pd.DataFrame:
    """How much each parameter decides whether a trial is among the best tenth, by objective.

    Each column adds up to 1; empty with fewer than `GOOD_TRIALS` measurements. Optuna's measure
    asks what makes a value small, so a maximised objective goes in negated.
    """
    measured = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    if measured < GOOD_TRIALS:
        return pd.DataFrame()
    evaluator = PedAnovaImportanceEvaluator(
        target_quantile=min(0.5, max(0.1, GOOD_TRIALS / measured))
    )
    columns = {}
    for index, (name, direction) in enumerate(findings.directions.items()):
        sign = 1.0 if direction == "minimize" else -1.0

        def loss(trial: FrozenTrial, index: int = index, sign: float = sign) -> float:
            return float(sign * trial.values[index])

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its advice to negate what is to be maximised
            columns[name] = get_param_importances(study, evaluator=evaluator, target=loss)
    return pd.DataFrame(columns).fillna(0.0)
