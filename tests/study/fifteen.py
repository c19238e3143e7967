"""The first users' fifteen points, with made-up figures: a whole study in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from objectives.space import Binding, Parameter, SearchSpace
from objectives.units import Scalar
from study.samplers.by_name import make_sampler
from study.samplers.predictions import PointPrediction, SpaceExhaustedError

UTILISATIONS = (0.40, 0.45, 0.50, 0.55, 0.60)
SIZES = ("tiny", "base", "small")
OBJECTIVES = ("stt_latency_ms", "llm_latency_ms", "concurrent_capacity")
DIRECTIONS = ("minimize", "minimize", "maximize")


def parameter(name: str, bind: str, **what: Any) -> Parameter:
    return Parameter(name=name, binding=Binding.parse(bind), **what)


SPACE = SearchSpace(
    (
        parameter("vllm_memory_util", "vllm.args.gpu-memory-utilization", choices=UTILISATIONS),
        parameter("whisper_model_size", "whisper.model", choices=SIZES),
    )
)

ENDLESS = SearchSpace(
    (
        parameter("vllm_memory_util", "vllm.args.gpu-memory-utilization", low=0.3, high=0.7),
        parameter("beam_size", "whisper.args.beam-size", low=1, high=16, integer=True, log=True),
    )
)

CONDITIONAL = SearchSpace(
    (
        parameter("device", "whisper.device", choices=("cuda:0", "cpu")),
        parameter("vllm_memory_util", "vllm.args.gpu-memory-utilization", choices=UTILISATIONS),
        parameter("threads", "whisper.args.threads", choices=(2, 4, 8), when={"device": ("cpu",)}),
    )
)


def excess(params: Mapping[str, Scalar]) -> dict[str, float]:
    """vLLM needs 0.45 for its cache, and a large Whisper leaves no room above."""
    util = float(params["vllm_memory_util"])
    rank = SIZES.index(str(params["whisper_model_size"]))
    return {
        "kv_cache_gib": round(12 * (0.44 - util), 6),
        "device_memory_gib": round(util * 12 + 0.5 + 0.5 * rank - 7.4, 6),
    }


def figures(params: Mapping[str, Scalar]) -> tuple[float, float, float]:
    util = float(params["vllm_memory_util"])
    rank = SIZES.index(str(params["whisper_model_size"]))
    return (
        40.0 * 2**rank * (1 + util),
        round(700 - 300 * util + 25 * rank, 3),
        round(40 * (util - 0.4) + 5 - rank, 3),
    )


def predict(params: Mapping[str, Scalar]) -> PointPrediction:
    over = excess(params)
    return PointPrediction(feasible=max(over.values()) <= 0, certain=True, excess=over)


def feasible_points() -> list[dict[str, Scalar]]:
    return [point for point in SPACE.points() or [] if max(excess(point).values()) <= 0]


def make_study(name: str = "auto", *, space: SearchSpace = SPACE, **options: Any) -> optuna.Study:
    study = optuna.create_study(
        directions=DIRECTIONS,
        sampler=make_sampler(name, space=space, **{"seed": 0, **options}),
    )
    study.set_metric_names(list(OBJECTIVES))
    return study


Figures = Callable[[Mapping[str, Scalar]], Sequence[float]]


def measure(
    study: optuna.Study,
    trials: int,
    *,
    space: SearchSpace = SPACE,
    figures: Figures = figures,
    excess: Callable[[Mapping[str, Scalar]], Mapping[str, float]] = excess,
) -> list[dict[str, Scalar]]:
    """Ask, measure, tell; ends early once nothing is left.

    Returns:
        The points, in order.
    """
    points: list[dict[str, Scalar]] = []
    for _ in range(trials):
        trial = study.ask()
        try:
            params = space.suggest(trial)
        except SpaceExhaustedError:
            study.tell(trial, state=TrialState.FAIL)
            break
        points.append(params)
        over = excess(params)
        for name, value in over.items():
            trial.set_constraint(name, value)
        if max(over.values(), default=0) > 0:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, list(figures(params)))
    return points
