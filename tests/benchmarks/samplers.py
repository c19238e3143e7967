"""Compare samplers on recorded tables: `python -m tests.benchmarks.samplers TABLE...`.

Every run asks, draws a row of the point at random, and tells. A front is judged by the medians of
its points' rows, the truth that no sampler sees: its share of the true feasible hypervolume, with
the reference point at 1.1 of the feasible range of each objective. Every sampler knows the same
beforehand: points that cannot fit are never launched, and none is launched twice.

share        after 5 % of the space was launched: mean over the seeds, 95 % interval
difference   of the share from the first sampler's with the same seed: mean, 95 % interval
to 95 %      launches until the share is 95 %: median and quartiles, `>` where the cap ended it
ms an ask    CPU time, mean

`optuna-gp` is Optuna's GPSampler (it needs PyTorch), shown every ordered parameter as a whole
number, its rank; its acquisition is looked up at the points that are left. Tables of other
structure: `python -m tests.benchmarks.synthetic_tables`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler
from optuna.trial import TrialState, create_trial

from objectives.space import SearchSpace, point_key
from objectives.units import Scalar
from study.replay import Table, read_table
from study.results import far_corner, hypervolume
from study.samplers import PointSampler, SpaceExhaustedError, make_sampler
from study.samplers.choosers import Chooser, nearest_allowed
from study.samplers.encoding import Encoding
from study.samplers.sampling_context import SamplingContext

LEGACY = ("stt_latency_ms", "llm_latency_ms", "concurrent_capacity")
MAXIMISED = ("concurrent_capacity",)
SAMPLERS = ("auto", "gp", "tpe", "tournament", "random")
SPACE_SHARE = 0.05
ENOUGH = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: a sampler, a seed, a table."""

    table: str
    objectives: int
    sampler: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a run.

    Attributes:
        share: Of the true hypervolume, after `SPACE_SHARE` of the space.
        to_enough: Launches until `ENOUGH` of it; None: not within `launched`.
        launched: Launches in all.
        ask_ms: CPU time of an ask.
    """

    share: float
    to_enough: int | None
    launched: int
    ask_ms: float


@dataclass(frozen=True)
class Truth:
    """What the table says of every feasible point, all to be minimised."""

    values: Mapping[object, np.ndarray]
    reference: np.ndarray
    volume: float

    def share(self, launched: Sequence[object]) -> float:
        """Of the true hypervolume, what some points have."""
        rows = [self.values[key] for key in launched if key in self.values]
        return hypervolume(rows, self.reference) / self.volume if rows else 0.0


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
    return table, space, Truth(values, reference, hypervolume(rows, reference))


class GPAmongPoints(GPSampler):
    """Optuna's, which takes the best of given points instead of searching a whole box."""

    points: Sequence[Mapping[str, int]] = ()

    def _optimize_acqf(self, acqf: Any, best_params: object) -> np.ndarray:
        # "Advanced users can override this method", says Optuna 5.
        rows = acqf.search_space.get_normalized_params(self.points, self.points)
        best: np.ndarray = rows[int(acqf.eval_acqf_no_grad(rows).argmax())]
        return best


class OptunaGP(Chooser):
    """Asks Optuna's GPSampler in a copy of the study that knows ranks."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        encoding = Encoding(space)
        self._sampler = GPAmongPoints(seed=seed)
        self._levels: dict[str, list[Scalar]] = {}
        self._distributions: dict[str, IntDistribution | CategoricalDistribution] = {}
        for parameter, columns in zip(space, encoding.columns, strict=True):
            name, values, at = parameter.name, list(parameter.choices), columns.start
            if columns.stop - at == 1:
                values = sorted(values, key=lambda value: encoding.row({name: value})[at])
                self._distributions[name] = IntDistribution(0, len(values) - 1)
            else:
                self._distributions[name] = CategoricalDistribution(range(len(values)))
            self._levels[name] = values
        self._copy: optuna.Study | None = None
        self._read = 0

    def choose(self, context: SamplingContext) -> Mapping[str, Scalar]:
        directions = context.study.directions
        copy = self._copy or optuna.create_study(directions=directions, sampler=self._sampler)
        self._copy = copy
        for trial in context.history.finished[self._read :]:
            if trial.state == TrialState.COMPLETE:
                copy.add_trial(
                    create_trial(
                        params=self._ranks(trial.params),
                        distributions=self._distributions,
                        values=trial.values,
                    )
                )
        self._read = len(context.history.finished)
        self._sampler.points = [self._ranks(point) for point in context.candidates()]
        asked = copy.ask(self._distributions)
        copy.tell(asked, state=TrialState.FAIL)
        wanted = {name: levels[asked.params[name]] for name, levels in self._levels.items()}
        return nearest_allowed(context, wanted)

    def _ranks(self, point: Mapping[str, Scalar]) -> dict[str, int]:
        return {name: levels.index(point[name]) for name, levels in self._levels.items()}


def sampler_of(name: str, space: SearchSpace, table: Table, seed: int) -> BaseSampler:
    predict = table.predictor()
    if name == "optuna-gp":
        return PointSampler(space, OptunaGP(space, seed), predict=predict, seed=seed)
    return make_sampler(name, space=space, seed=seed, predict=predict)


def run(path: Path, objectives: tuple[str, ...], sampler: str, seed: int, cap: float) -> Outcome:
    """Launch 5 % of the space, then on until `ENOUGH` is there or `cap` of the space launched."""
    table, space, truth = truth_of(path, objectives)
    study = optuna.create_study(
        directions=["maximize" if n in MAXIMISED else "minimize" for n in objectives],
        sampler=sampler_of(sampler, space, table, seed),
    )
    study.set_metric_names(list(objectives))
    first, last = (round(share * len(table.points)) for share in (SPACE_SHARE, cap))
    launched: list[object] = []
    asks_s = 0.0
    while len(launched) < last:
        trial = study.ask()
        began_s = time.process_time()
        try:
            params = space.suggest(trial)
        except SpaceExhaustedError:
            break
        asks_s += time.process_time() - began_s
        launched.append(point_key(params))
        tell(study, trial, table.draw(params, seed=seed, number=trial.number), objectives)
        if len(launched) % first == 0 and truth.share(launched) >= ENOUGH:
            break
    share = truth.share(launched[:first])
    return Outcome(
        share=share,
        to_enough=launches_to(truth, launched),
        launched=len(launched),
        ask_ms=1000 * asks_s / len(launched),
    )


def tell(study: optuna.Study, trial: optuna.Trial, row, objectives: Sequence[str]) -> None:
    for name, excess in row.constraints.items():
        trial.set_constraint(name, excess)
    if row.values is None:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        for name, value in row.values.items():
            trial.set_user_attr(name, value)  # what a tournament's fitness rests on
        study.tell(trial, [row.values[name] for name in objectives])


def launches_to(truth: Truth, launched: Sequence[object]) -> int | None:
    """The first launch after which `ENOUGH` is there: the share only grows, so by halving."""
    low, high = 0, len(launched)
    if truth.share(launched) < ENOUGH:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if truth.share(launched[:middle]) >= ENOUGH else (middle, high)
    return high


def interval(values: np.ndarray) -> tuple[float, float]:
    """Of the mean: 95 %, by the bootstrap."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, size=(RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def quartiles(outcomes: Sequence[Outcome]) -> str:
    cap = max(outcome.launched for outcome in outcomes)
    numbers = [outcome.to_enough or cap + 1 for outcome in outcomes]
    low, middle, high = np.quantile(numbers, [0.25, 0.5, 0.75], method="inverted_cdf")
    low, middle, high = (f"{q}" if q <= cap else f">{cap}" for q in (low, middle, high))
    return f"{middle} [{low}, {high}]"


def lines(found: Mapping[Job, Outcome], names: Sequence[str]) -> list[str]:
    """The Markdown table; differences are from the first name's."""
    head = [
        "table",
        "objectives",
        "sampler",
        "seeds",
        "share",
        "difference",
        "to 95 %",
        "ms an ask",
    ]
    out = [head, ["---"] * len(head)]
    for table, objectives in dict.fromkeys((job.table, job.objectives) for job in found):
        by_name = {
            name: {
                job.seed: outcome
                for job, outcome in found.items()
                if (job.table, job.objectives, job.sampler) == (table, objectives, name)
            }
            for name in names
        }
        for name, own in by_name.items():
            if own:
                cells = [table, str(objectives), name, str(len(own))]
                out.append([*cells, *figures(own, by_name[names[0]])])
    return ["| " + " | ".join(cells) + " |" for cells in out]


def figures(own: Mapping[int, Outcome], first: Mapping[int, Outcome]) -> list[str]:
    shares = np.array([outcome.share for outcome in own.values()])
    apart = np.array([own[seed].share - first[seed].share for seed in own if seed in first])
    low, high = interval(shares)
    difference = "-"
    if len(apart) and own is not first:
        difference = "{:+.3f} [{:+.3f}, {:+.3f}]".format(apart.mean(), *interval(apart))
    return [
        f"{shares.mean():.3f} [{low:.3f}, {high:.3f}]",
        difference,
        quartiles(list(own.values())),
        f"{np.mean([outcome.ask_ms for outcome in own.values()]):.0f}",
    ]


def read_results(path: Path | None) -> dict[Job, Outcome]:
    if path is None or not path.exists():
        return {}
    read = [json.loads(line) for line in path.read_text().splitlines()]
    return {Job(**each["job"]): Outcome(**each["outcome"]) for each in read}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.samplers")
    parser.add_argument("tables", type=Path, nargs="+", metavar="TABLE")
    parser.add_argument("--seeds", type=int, default=100, metavar="N")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N")
    parser.add_argument("--samplers", default=",".join(SAMPLERS), help="names with commas between")
    parser.add_argument(
        "--cap", type=float, default=0.15, help="share of the space that ends a run"
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run after")
    parser.add_argument(
        "--results", type=Path, help="keep runs here; what is there is not repeated"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    os.environ["OMP_NUM_THREADS"] = "1"
    names = args.samplers.split(",")
    paths = {path.stem: path for path in args.tables}
    found = read_results(args.results)
    began_s = time.monotonic()
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for stem, path in paths.items():
            every = read_table(path).objectives
            for objectives in dict.fromkeys([tuple(n for n in every if n in LEGACY), every]):
                for name in names:
                    job = Job(table=stem, objectives=len(objectives), sampler=name, seed=seed)
                    if job in found or time.monotonic() - began_s > args.seconds:
                        continue
                    found[job] = run(path, objectives, name, seed, args.cap)
                    if args.results:
                        with args.results.open("a") as file:
                            file.write(
                                json.dumps({"job": asdict(job), "outcome": asdict(found[job])})
                                + "\n"
                            )
    kept = {job: outcome for job, outcome in found.items() if job.table in paths}
    print("\n".join(lines(kept, names)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
