"""One trial: predict, start, load, measure, stop, conclude."""

from __future__ import annotations

from objectives.trial.bench import Bench, Objective
from objectives.trial.evidence import Evidence
from objectives.trial.launch import shown
from objectives.trial.prediction import (
    LATEST_VLLM,
    CandidatePrediction,
    PredictionInputs,
    predict_candidate,
    predict_on_bench,
)
from objectives.trial.stages import TrialStages
from objectives.trial.stopwatch import Stopwatch

__all__ = [
    "LATEST_VLLM",
    "Bench",
    "CandidatePrediction",
    "Evidence",
    "Objective",
    "PredictionInputs",
    "Stopwatch",
    "TrialStages",
    "predict_candidate",
    "predict_on_bench",
    "shown",
]
