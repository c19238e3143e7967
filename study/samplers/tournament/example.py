"""Two objectives, one constraint: Binh and Korn's problem, its infeasible trials pruned."""

# mypy: ignore-errors
from __future__ import annotations

import optuna
import optunahub


def objective(trial: optuna.Trial) -> tuple[float, float]:
    """Binh and Korn's two functions.

    Raises:
        TrialPruned: The point violates the constraint.
    """
    x = trial.suggest_float("x", 0.0, 5.0, step=0.25)
    y = trial.suggest_float("y", 0.0, 3.0, step=0.25)
    short = (x - 5.0) ** 2 + y**2 - 25.0
    trial.set_constraint("short", short)
    if short > 0:
        raise optuna.TrialPruned
    return 4.0 * x**2 + 4.0 * y**2, (x - 5.0) ** 2 + (y - 5.0) ** 2


if __name__ == "__main__":
    sampler = optunahub.load_module("samplers/tournament").TournamentSampler(seed=0)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    study.optimize(objective, n_trials=60)
    for best in study.best_trials:
        print(best.params, best.values)
