"""One trial: predict, start, load, measure, stop, conclude."""

from __future__ import annotations

from objectives.trial.bench import Bench, Objective
from objectives.trial.evidence import Seen
from objectives.trial.prediction import (
    CandidatePrediction,
    PredictionInputs,
    predict_candidate,
    predict_on_bench,
)
from objectives.trial.stages import TrialStages
from objectives.trial.stopwatch import Stopwatch

__all__ = [
    "Bench",
    "CandidatePrediction",
    "Objective",
    "PredictionInputs",
    "Seen",
    "Stopwatch",
    "TrialStages",
    "predict_candidate",
    "predict_on_bench",
]
