"""The feasible front of a study and what speaks for it: text, JSON, rows, a page, pictures.

Exit codes: 0 there is a front, 1 nothing is feasible, 2 bad usage.

The pictures can be had as functions, too; each writes one file, PNG, SVG or PDF by its suffix, and
without a study takes the bundled one of this machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import optuna
from matplotlib.figure import Figure
from optuna.storages import BaseStorage

from objectives.errors import UsageError
from storage.trials import StorageError, masked, open_study, storage_at, study_at
from study.command import add_config, quiet_libraries, refused
from study.config import read_config
from study.replay import table_frame
from study.reports import (
    STYLE,
    fitness_figure,
    front_figure,
    html_report,
    legacy_lines,
    map_figure,
    memory_figure,
    save,
    text_report,
    title,
    trial_timeline,
)
from study.results import Findings, findings_to_dict, point, read_study
from study.search import ATTR, chain, verify_lineage

FORMATS = ("text", "json", "csv", "jsonl", "html")


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    args = _parser().parse_args(argv)
    quiet_libraries()
    try:
        with _opened(args) as (study, url):
            if args.lineage is not None:
                return _lineage(study, args.lineage)
            findings = read_study(study, url)
            _put(rendered(study, findings, "json" if args.json else args.format), args.output)
    except (UsageError, StorageError) as error:
        return refused("study.report", error)
    return 0 if findings.front else 1


def _lineage(study: optuna.Study, number: int) -> int:
    """Print a trial's parents; 1 if any record of the study was changed since, which it says, or 0.

    Raises:
        UsageError: There is no such trial.
    """
    try:
        trials = chain(study, number)
    except KeyError:
        raise UsageError(
            f"--lineage: found {number}, allowed: 0 to {len(study.trials) - 1}"
        ) from None
    for trial in trials:
        record = trial.user_attrs.get(ATTR, {})
        changes = ", ".join(
            f"{name} {old} -> {new}" for name, (old, new) in record.get("mutations", {}).items()
        )
        generation = record.get("generation", "?")
        print(f"{record.get('id', trial.number)}  generation {generation}  {point(trial.params)}")
        print(f"    {changes or 'root'}  sha256 {record.get('sha256', 'none')[:16]}")
    problems = verify_lineage(study)
    for problem in problems:
        print(problem)
    print("every record is whole" if not problems else f"{len(problems)} records do not fit")
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m study.report",
        description="The feasible front of a study, the infeasible and why, the picks.",
        epilog="example: python -m study.report my-box.yaml --format html --output front.html",
    )
    add_config(parser)
    parser.add_argument("--storage", metavar="URL", help="default: the configuration's")
    parser.add_argument(
        "--study-name",
        metavar="NAME",
        help="default: the storage's only one, or the configuration's",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="csv: the recorded table; jsonl: the legacy evaluation record, a line a trial",
    )
    parser.add_argument(
        "--lineage", type=int, metavar="N", help="trial N and its parents, to the root"
    )
    parser.add_argument("--json", action="store_true", help="the same as --format json")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")
    return parser


@contextmanager
def _opened(args: argparse.Namespace) -> Iterator[tuple[optuna.Study, str]]:
    """The study that was asked for, and where it is kept; open as long as the block lasts."""
    url, name = args.storage, args.study_name
    if not (url and args.config is None):
        config = read_config(args.config, experiment=args.experiment)
        url, name = url or config.storage_url, name or config.name
    with storage_at(url, create=False) as storage:
        yield open_study(url, name or _only_study(storage, url), storage=storage), url


def _only_study(storage: BaseStorage, url: str) -> str:
    """The name of the only study there.

    Raises:
        UsageError: There is none, or more than one.
    """
    names = optuna.get_all_study_names(storage)
    if len(names) != 1:
        found = ", ".join(names) or "no study"
        raise UsageError(f"--study-name: missing; {masked(url)} holds {found}")
    return names[0]


def rendered(study: optuna.Study, findings: Findings, form: str) -> str:
    """The report in one of `FORMATS`, ending in a newline."""
    if form == "json":
        return json.dumps(findings_to_dict(findings), allow_nan=False) + "\n"
    if form == "csv":
        return str(table_frame(study).to_csv(index=False))
    written = {"jsonl": legacy_lines, "html": html_report, "text": text_report}
    return written[form](findings)


def _put(text: str, output: Path | None) -> None:
    """Write the report to a file, or to standard output.

    Raises:
        UsageError: The file cannot be written.
    """
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--output: {output}: cannot be written: {error.strerror}") from error
    print(f"study.report: wrote {output}", file=sys.stderr)


def plot_fitness_evolution(save_path: str | Path, study: optuna.Study | None = None) -> Path:
    """Legacy fitness against generation, for a promotion's review."""
    return _plotted(fitness_figure, save_path, study)


def plot_front(save_path: str | Path, study: optuna.Study | None = None) -> Path:
    """Every feasible setting, the front with its intervals, and what runs today."""
    return _plotted(front_figure, save_path, study)


def plot_memory(save_path: str | Path, study: optuna.Study | None = None) -> Path:
    """Each tenant's peak memory, stacked, against the whole device."""
    return _plotted(memory_figure, save_path, study)


def plot_infeasible(save_path: str | Path, study: optuna.Study | None = None) -> Path:
    """Where settings work and where they do not, and why."""
    return _plotted(map_figure, save_path, study)


def plot_timeline(save_path: str | Path, study: optuna.Study | None = None, *, trial: int) -> Path:
    """One trial's phases, and the memory meanwhile.

    Raises:
        UsageError: The study has no such trial.
    """
    findings = _read(study)
    try:
        return save(trial_timeline(findings[trial]), save_path)
    except KeyError as error:
        raise UsageError(f"{findings.study}: has no trial {trial}") from error


def _plotted(
    draw: Callable[[Findings], Figure], save_path: str | Path, study: optuna.Study | None
) -> Path:
    """A picture that says itself where it comes from."""
    findings = _read(study)
    figure = draw(findings)
    with mpl.rc_context(STYLE):
        figure.suptitle(title(findings), fontsize=9, x=0.01, ha="left")
    return save(figure, save_path)


def _read(study: optuna.Study | None) -> Findings:
    """Findings of a study that is open, or of the bundled one of this machine."""
    if study is not None:
        return read_study(study, "")
    config = read_config(None)
    with study_at(config.storage_url, config.name) as opened:
        return read_study(opened, config.storage_url)


if __name__ == "__main__":
    sys.exit(main())
