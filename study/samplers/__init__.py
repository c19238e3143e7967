"""Who proposes the next point: what was tried, what may be tried, which sampler chooses."""

from __future__ import annotations

from study.samplers.by_name import NAMES, make_sampler
from study.samplers.legacy_fitness import legacy_fitness
from study.samplers.point_sampler import PointSampler
from study.samplers.predictions import (
    UNKNOWN,
    PointPrediction,
    Predict,
    SpaceExhaustedError,
    infeasible_points,
)
from study.samplers.tournament import TournamentSampler
from study.samplers.tried_points import ATTEMPTS, History, fixed_params

__all__ = [
    "ATTEMPTS",
    "NAMES",
    "UNKNOWN",
    "History",
    "PointPrediction",
    "PointSampler",
    "Predict",
    "SpaceExhaustedError",
    "TournamentSampler",
    "fixed_params",
    "infeasible_points",
    "legacy_fitness",
    "make_sampler",
]
