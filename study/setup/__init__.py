"""From a checked configuration to a bench, its objective, its predictions and its attributes."""

from __future__ import annotations

from study.setup.make_bench import make_bench
from study.setup.make_objective import serving_objective
from study.setup.model_shapes import DummyLlm
from study.setup.predictions import Predicted, predict_all, predictor
from study.setup.study_attrs import replay_attrs, study_attrs
from study.setup.weights import dummy_llm

__all__ = [
    "DummyLlm",
    "Predicted",
    "dummy_llm",
    "make_bench",
    "predict_all",
    "predictor",
    "replay_attrs",
    "serving_objective",
    "study_attrs",
]
