"""What comes back into the queue: points of trials that were cut off, or at which the bench broke.

Only parameters go back: an attribute or a constraint of the dead trial would speak for the new one.
"""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState

from objectives.evidence import Fault, fault_of
from objectives.space import point_key
from storage.trials import is_abandoned
from study.samplers import ATTEMPTS, fixed_params

RETRY_ATTR = "retry_of"


def sweep(study: optuna.Study) -> list[int]:
    """End trials whose worker is gone, and put their points back in the queue; their numbers."""
    ended: list[int] = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if is_abandoned(trial):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            enqueue_again(study, trial)
            ended.append(trial.number)
    return ended


def enqueue_again(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Put a trial's point back in the queue, unless it is there or was tried often enough."""
    if not trial.params or failures(study, trial) >= ATTEMPTS:
        return False
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    if any(point_key(fixed_params(other)) == point_key(trial.params) for other in waiting):
        return False
    study.enqueue_trial(trial.params, user_attrs={RETRY_ATTR: trial.number})
    return True


def retry_stale(study: optuna.Study, trial: FrozenTrial) -> None:
    """What a storage with a heartbeat does about a trial whose host vanished."""
    enqueue_again(study, trial)


def failures(study: optuna.Study, trial: FrozenTrial) -> int:
    """How many tries in a row failed at a point, this one included; interruptions are none."""
    trials = {each.number: each for each in study.get_trials(deepcopy=False)}
    count, latest = 0, trials.get(trial.number)
    while latest is not None:
        count += (fault_of(latest.user_attrs) or Fault()).cause != "interrupted"
        latest = trials.get(latest.user_attrs.get(RETRY_ATTR, -1))
    return count


def unfinished_business(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that failed, and whose point was neither measured nor tried again since."""
    latest: dict[str, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        if trial.state != TrialState.FAIL or trial.params:
            latest[point_key(trial.params or fixed_params(trial))] = trial
    return [trial for trial in latest.values() if trial.state == TrialState.FAIL]
