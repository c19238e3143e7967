"""Measure candidates: create a study or go on with it. Changes nothing outside of it.

Exit codes: 0 a feasible front, 1 none, 2 bad usage or configuration, 130 interrupted (every
finished trial is stored; the same command goes on from there).
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler

from objectives.errors import BenchError, UsageError
from objectives.servers import end_leftovers
from objectives.serving import calibration_of
from storage import artifacts, trials
from storage.trials import StorageError
from study.command import add_config, only, quiet_libraries, refused
from study.config import StudyConfig, read_config
from study.fit import render_candidates
from study.reports import annotate, text_report, with_notes
from study.results import findings_to_dict, read_study
from study.samplers import Predict, make_sampler
from study.search import (
    Lines,
    Live,
    Progress,
    Search,
    retry_stale,
    run_search,
    setting,
    write_metrics,
)
from study.setup import (
    make_bench,
    predict_all,
    predictor,
    replay_attrs,
    serving_objective,
    study_attrs,
)

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    args = _parser().parse_args(argv)
    quiet_libraries()
    try:
        with _terminations_as_interrupts():
            return _run(args)
    except (UsageError, StorageError, BenchError) as error:
        return refused("study.run", error)
    except KeyboardInterrupt:
        print("study.run: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED


_count = only(int, lambda value: value >= 1, "1 or more")
_natural = only(int, lambda value: value >= 0, "0 or more")
_seconds = only(float, lambda value: 0 < value < float("inf"), "a number above 0")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m study.run",
        description="Measure candidates: create a study or go on with it.",
        epilog="example: python -m study.run my-box.yaml --trials 20",
    )
    add_config(parser)
    parser.add_argument("--trials", type=_count, metavar="N", help="launch at most N more trials")
    parser.add_argument("--timeout", type=_seconds, metavar="S", help="stop after S seconds")
    parser.add_argument("--storage", metavar="URL", help="default: sqlite:///studies/NAME.db")
    parser.add_argument("--study-name", metavar="NAME", help="default: the configuration's name")
    parser.add_argument("--sampler", metavar="NAME", help="auto, tournament, tpe, ...")
    parser.add_argument("--seed", type=_natural, metavar="N", help="of the load and the sampler")
    parser.add_argument(
        "--dry-run", action="store_true", help="predict every candidate, launch nothing"
    )
    parser.add_argument(
        "--replay", type=Path, metavar="TABLE", help="draw from a recorded table, launch nothing"
    )
    parser.add_argument(
        "--build-engines", action="store_true", help="build the engines that are missing, once"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument(
        "--metrics", type=Path, metavar="FILE", help="keep Prometheus metrics of the run in FILE"
    )
    return parser


@contextmanager
def _terminations_as_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP end a run as Ctrl-C does: servers ended, everything finished stored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # a background job ignores the first
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(args: argparse.Namespace) -> int:
    config = _config(args)
    progress = _progress(args)
    try:
        for note in config.notes:
            progress.log(note)
        if args.dry_run:
            return _dry_run(config, as_json=args.json)
        with ExitStack() as opened:
            prepare = _live if args.replay is None else _replay
            search = prepare(config, args, progress, opened)
            healthy = run_search(
                search,
                progress,
                trials=args.trials,
                timeout_s=args.timeout,
                on_trial_end=partial(_write_metrics, search.config, args.metrics),
            )
            return _conclude(search, args, healthy=healthy)
    finally:
        progress.close()


def _progress(args: argparse.Namespace) -> Progress:
    if args.quiet:
        return Progress()
    return Live() if sys.stderr.isatty() and not args.json else Lines()


def _config(args: argparse.Namespace) -> StudyConfig:
    config = read_config(args.config, experiment=args.experiment)
    asked = {
        "storage": args.storage,
        "name": args.study_name,
        "sampler": args.sampler,
        "seed": args.seed,
    }
    changes = {key: value for key, value in asked.items() if value not in (None, "")}
    return config.with_changes(**changes) if changes else config


def _dry_run(config: StudyConfig, *, as_json: bool) -> int:
    rows = predict_all(config)
    print(render_candidates(rows, as_json=as_json))
    return 0 if any(row.prediction.fits for row in rows) else 1


def _live(
    config: StudyConfig, args: argparse.Namespace, progress: Progress, opened: ExitStack
) -> Search:
    """A study whose trials launch real servers; `opened` closes it."""
    for pid in end_leftovers():
        progress.log(f"ended process {pid}, left behind by a study that was killed")
    bench = make_bench(config, build_engines=args.build_engines, log=progress.log)
    studies: list[optuna.Study] = []
    predict = predictor(bench, lambda: calibration_of(studies[0]))
    sampler = _sampler(config, predict)  # refused before anything is written
    study = _open(config, sampler, opened)
    studies.append(study)
    store = artifacts.open_artifacts(
        artifacts.artifact_place(config.storage_url, config.document.artifacts)
    )
    objective = serving_objective(config, bench, store, progress)
    progress.watch(objective.holding, lambda: _front_rows(study, config))
    return Search(
        config=config,
        study=study,
        objective=with_notes(objective),
        attrs=study_attrs(config, bench),
        predict=predict,
    )


def _front_rows(study: optuna.Study, config: StudyConfig) -> list[tuple[int, str, str]]:
    """The front so far, for whoever watches."""
    rows = []
    for each in read_study(study, config.storage_url).front_points:
        values = ", ".join(f"{value:.4g}" for value in each.values().values())
        rows.append((each.trial.number, setting(each.trial.params), values))
    return rows


def _replay(
    config: StudyConfig, args: argparse.Namespace, progress: Progress, opened: ExitStack
) -> Search:
    """A study that draws from a recorded table; `opened` closes it."""
    from study.replay import (  # noqa: PLC0415 - pandas, only for a table
        read_table,
        replay_objective,
        replay_study,
        table_constraints,
    )

    table = read_table(args.replay)
    if args.study_name is None:
        config = replay_study(config, args.replay)
    objective = replay_objective(config, table, progress.on_trial_start)
    study = _open(config, _sampler(config, table.predictor()), opened)
    attrs = {**replay_attrs(config, args.replay), "constraints": table_constraints(table)}
    progress.log(f"replay of {args.replay}: nothing is launched or measured")
    progress.watch(lambda: None, lambda: _front_rows(study, config))
    return Search(config=config, study=study, objective=objective, attrs=attrs)


def _sampler(config: StudyConfig, predict: Predict | None) -> BaseSampler:
    wanted = config.document
    options: dict[str, Any] = dict(wanted.sampler.options)
    if wanted.sampler.name == "tournament":
        options.setdefault("population_size", wanted.budget.candidates)
    return make_sampler(
        wanted.sampler.name,
        space=config.space,
        seed=wanted.seed,
        predict=predict,
        budget=wanted.budget.trials,
        repeats=wanted.budget.repeats,
        **options,
    )


def _open(config: StudyConfig, sampler: BaseSampler, opened: ExitStack) -> optuna.Study:
    study = opened.enter_context(
        trials.study_at(
            config.storage_url,
            config.name,
            directions=list(config.directions.values()),
            sampler=sampler,
            on_stale=retry_stale,
        )
    )
    study.set_metric_names(list(config.directions))
    return study


def _write_metrics(config: StudyConfig, file: Path | None, study: optuna.Study) -> None:
    """Keep the metrics file up to date, if one was asked for."""
    if file is not None:
        write_metrics(read_study(study, config.storage_url), file)


def _conclude(search: Search, args: argparse.Namespace, *, healthy: bool) -> int:
    findings = read_study(search.study, search.config.storage_url)
    annotate(search.study, findings)
    if args.json:
        print(json.dumps(findings_to_dict(findings), allow_nan=False))
    else:
        print(text_report(findings))
    return 0 if findings.front and healthy else 1


if __name__ == "__main__":
    sys.exit(main())
