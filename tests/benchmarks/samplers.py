"""Compare all samplers on recorded tables: `python -m tests.benchmarks.samplers TABLE...`.

Every run asks, draws a row of the point at random, and tells. A front is judged by the medians of
its points' rows, the truth that no sampler sees. The reference point lies at 1.1 of the feasible
range of each objective. Columns, as median and quartiles over the seeds:

space to 95 %   launched points until 95 % of the true feasible hypervolume, as share of the space
to exact front  launched points until every point of the true front was measured
infeasible      launches that found their point infeasible
repeats         launches of a point that had been launched before
CPU ms          of one ask, in a made-up study with so many trials

Beside our samplers, `optuna-NAME` is Optuna's own as it is: nothing is predicted for it, and
infeasible points are PRUNED. `optuna-gp` is there where PyTorch and SciPy are.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState, create_trial

from objectives.space import Binding, Parameter, SearchSpace, point_key
from objectives.units import Scalar
from study.replay import Table, read_table
from study.results import far_corner, hypervolume, nondominated
from study.samplers import NAMES, SpaceExhaustedError, make_sampler, random_point

LEGACY = ("stt_latency_ms", "llm_latency_ms", "concurrent_capacity")
MAXIMISED = ("concurrent_capacity",)
ENOUGH = 0.95
SIZES = (100, 1_000, 10_000)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: a sampler, a seed, a table."""

    table: Path
    objectives: tuple[str, ...]
    sampler: str
    seed: int
    budget: int
    margin: float | None
    until_front: bool = True


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a run; None: not within the budget."""

    to_enough: int | None
    to_front: int | None
    infeasible: int
    repeats: int


@dataclass(frozen=True)
class Truth:
    """What the table says of every feasible point, all to be minimised."""

    values: Mapping[object, np.ndarray]
    reference: np.ndarray
    volume: float
    front: frozenset[object]


@cache
def truth_of(path: Path, objectives: tuple[str, ...]) -> tuple[Table, SearchSpace, Truth]:
    table = read_table(path)
    space = table.space()
    signs = np.array([-1.0 if name in MAXIMISED else 1.0 for name in objectives])
    values = {}
    for point in table.points:
        medians = table.medians(point)
        if medians is not None:
            own = np.array([medians[name] for name in objectives])
            values[point_key(point)] = signs * own
    rows = np.array(list(values.values()))
    reference = far_corner(rows)
    kept = nondominated(rows)
    front = frozenset(key for key, keep in zip(values, kept, strict=True) if keep)
    return table, space, Truth(values, reference, hypervolume(rows, reference), front)


def plain_sampler(name: str, seed: int) -> BaseSampler:
    """One of Optuna's own, as a careful person would make it."""
    makers: dict[str, Callable[[], BaseSampler]] = {
        "optuna-tpe": lambda: optuna.samplers.TPESampler(multivariate=True, seed=seed),
        "optuna-nsgaii": lambda: optuna.samplers.NSGAIISampler(population_size=20, seed=seed),
        "optuna-random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "optuna-gp": lambda: optuna.samplers.GPSampler(seed=seed),
    }
    return makers[name]()


def sampler_of(name: str, space: SearchSpace, table: Table, job: Job) -> BaseSampler:
    if name.startswith("optuna-"):
        return plain_sampler(name, job.seed)
    predict = None if job.margin is None else table.predictor(margin=job.margin)
    return make_sampler(name, space=space, seed=job.seed, predict=predict)


def run(job: Job) -> Outcome:
    quiet()
    table, space, truth = truth_of(job.table, job.objectives)
    study = optuna.create_study(
        directions=["maximize" if n in MAXIMISED else "minimize" for n in job.objectives],
        sampler=sampler_of(job.sampler, space, table, job),
    )
    study.set_metric_names(list(job.objectives))
    seen: set[object] = set()
    found: list[np.ndarray] = []
    infeasible = repeats = launched = 0
    to_enough = to_front = None
    while launched < job.budget and (to_enough is None or (job.until_front and to_front is None)):
        trial = study.ask()
        try:
            params = space.suggest(trial)
        except SpaceExhaustedError:
            break
        launched += 1
        row = table.draw(params, seed=job.seed, number=trial.number)
        for name, excess in row.constraints.items():
            trial.set_constraint(name, excess)
        key = point_key(params)
        repeats += key in seen
        seen.add(key)
        if row.values is None:
            infeasible += 1
            study.tell(trial, state=TrialState.PRUNED)
            continue
        study.tell(trial, [row.values[name] for name in job.objectives])
        if key in truth.values:
            found.append(truth.values[key])
        if to_enough is None and hypervolume(found, truth.reference) >= ENOUGH * truth.volume:
            to_enough = launched
        if to_front is None and truth.front <= seen:
            to_front = launched
    return Outcome(to_enough=to_enough, to_front=to_front, infeasible=infeasible, repeats=repeats)


def quiet() -> None:
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def busy_study(trials: int, sampler: BaseSampler, space: SearchSpace) -> optuna.Study:
    """A study in memory with so many made-up trials, about a third of them infeasible."""
    rng = np.random.default_rng(0)
    study = optuna.create_study(directions=["minimize", "minimize", "maximize"], sampler=sampler)
    study.set_metric_names(list(LEGACY))
    for _ in range(trials):
        params = random_point(space, rng)
        values, excess = made_up(params, rng)
        outcome = {"state": TrialState.PRUNED} if excess > 0 else {"values": values}
        study.add_trial(
            create_trial(
                params=params,
                distributions=space.distributions(),
                constraints={"kv_cache_gib": excess},
                **outcome,
            )
        )
    return study


def made_up(params: Mapping[str, Scalar], rng: np.random.Generator) -> tuple[list[float], float]:
    size = {"tiny": 1, "base": 2, "small": 4, "medium": 10}[str(params["size"])]
    cache_gib = 12 * float(params["util"]) - 0.3 * size - 3
    capacity = min(float(params["seqs"]), max(0.0, cache_gib) * 8)
    noise = 1 + 0.03 * rng.normal(size=2)
    values = [40 * size * (1 + 0.01 * capacity), 500 + 12 * capacity]
    return [float(values[0] * noise[0]), float(values[1] * noise[1]), capacity], 0.2 - cache_gib


def made_up_space() -> SearchSpace:
    def parameter(name: str, bind: str, **what: object) -> Parameter:
        return Parameter(name=name, binding=Binding.parse(bind), **what)  # type: ignore[arg-type]

    return SearchSpace(
        (
            parameter("util", "vllm.args.gpu-memory-utilization", low=0.3, high=0.7),
            parameter("seqs", "vllm.args.max-num-seqs", low=1, high=256, integer=True, log=True),
            parameter("size", "whisper.model", choices=("tiny", "base", "small", "medium")),
            parameter("len", "vllm.args.max-model-len", choices=(1024, 2048, 4096)),
        )
    )


def ask_ms(job: tuple[str, int]) -> float | None:
    """Median CPU milliseconds of an ask; None where the sampler cannot serve an endless space."""
    name, trials = job
    quiet()
    space = made_up_space()
    if name == "grid":
        return None
    sampler = (
        plain_sampler(name, 0)
        if name.startswith("optuna-")
        else make_sampler(name, space=space, seed=0)
    )
    study = busy_study(trials, sampler, space)
    rng, took_ms = np.random.default_rng(1), []
    for _ in range(2 if name == "optuna-gp" else 6):
        trial = study.ask()
        began = time.process_time()
        params = space.suggest(trial)
        took_ms.append(1000 * (time.process_time() - began))
        values, excess = made_up(params, rng)
        trial.set_constraint("kv_cache_gib", excess)
        if excess > 0:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, values)
    return float(np.median(took_ms[1:]))  # the first one reads the whole study


def spread(found: Sequence[float | None], write: Callable[[float], str]) -> str:
    """Median and quartiles; what was not reached counts as endless."""
    numbers = [float("inf") if value is None else value for value in found]
    quartiles = np.quantile(numbers, [0.25, 0.5, 0.75], method="inverted_cdf")
    low, middle, high = (write(q) if np.isfinite(q) else "-" for q in quartiles)
    return f"{middle} [{low}, {high}]"


def line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.samplers")
    parser.add_argument("tables", type=Path, nargs="+", metavar="TABLE")
    parser.add_argument("--seeds", type=int, default=100, metavar="N")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--samplers", help="names with commas between; default: all")
    parser.add_argument(
        "--share", type=float, default=0.2, help="stop a run after this share of the space"
    )
    parser.add_argument(
        "--no-predictor", action="store_true", help="tell our samplers nothing beforehand"
    )
    parser.add_argument(
        "--margin", type=float, default=0.0, help="how unsure the prediction is, as a share"
    )
    parser.add_argument("--no-cpu", action="store_true", help="leave out the CPU time of an ask")
    return parser.parse_args(argv)


def wanted(args: argparse.Namespace) -> list[str]:
    if args.samplers:
        return str(args.samplers).split(",")
    plain = ["optuna-tpe", "optuna-nsgaii", "optuna-random"]
    if importlib.util.find_spec("torch") and importlib.util.find_spec("scipy"):
        plain.append("optuna-gp")
    return [*NAMES, *plain]


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    quiet()
    os.environ["OMP_NUM_THREADS"] = "1"  # for the children: one core each
    names = wanted(args)
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        cpu = {}
        if not args.no_cpu:
            jobs = [(name, size) for name in names for size in SIZES]
            jobs = [job for job in jobs if job != ("optuna-gp", SIZES[-1])]
            cpu = dict(zip(jobs, pool.map(ask_ms, jobs, chunksize=1), strict=True))
        head = ["table", "objectives", "sampler", f"space to {ENOUGH:.0%}", "to exact front"]
        head += ["infeasible", "repeats", *(f"CPU ms at {size:,}" for size in SIZES)]
        print(line(head))
        print(line(["---"] * len(head)))
        for path in args.tables:
            table = read_table(path)
            sets = dict.fromkeys(
                [tuple(n for n in table.objectives if n in LEGACY), table.objectives]
            )
            for objectives in filter(None, sets):
                for name in names:
                    size = len(table.points)
                    jobs = [
                        Job(
                            table=path,
                            objectives=objectives,
                            sampler=name,
                            seed=seed,
                            budget=max(round(args.share * size), min(size, 60)),
                            margin=None if args.no_predictor else args.margin,
                        )
                        for seed in range(args.seeds)
                    ]
                    found = pool.map(run, jobs, chunksize=1)
                    times = [cpu.get((name, size_)) for size_ in SIZES]
                    cells = [
                        path.stem,
                        str(len(objectives)),
                        name,
                        spread(
                            [None if o.to_enough is None else o.to_enough / size for o in found],
                            lambda share: f"{share:.1%}",
                        ),
                        spread([o.to_front for o in found], lambda count: f"{count:.0f}"),
                        spread([o.infeasible for o in found], lambda count: f"{count:.0f}"),
                        spread([o.repeats for o in found], lambda count: f"{count:.0f}"),
                        *("-" if ms is None else f"{ms:.1f}" for ms in times),
                    ]
                    print(line(cells), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
