"""What commands have in common: how their arguments are read, how they print and refuse."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def only(kind: Callable[[str], T], allows: Callable[[T], bool], words: str) -> Callable[[str], T]:
    """An argument's `type`: text of that kind which is allowed, refused with `words` otherwise."""

    def value_of(text: str) -> T:
        try:
            value = kind(text)
        except ValueError:
            pass
        else:
            if allows(value):
                return value
        raise argparse.ArgumentTypeError(f"found {text}, allowed: {words}")

    return value_of


def add_config(parser: argparse.ArgumentParser) -> None:
    """The configuration that a study's command takes, and which block of it."""
    parser.add_argument(
        "config", type=Path, nargs="?", help="YAML; default: the bundled study for this machine"
    )
    parser.add_argument("--experiment", metavar="NAME", help="which block of a file with several")


def quiet_libraries() -> None:
    """Leave standard error to the command itself."""
    import optuna  # noqa: PLC0415 - some commands start at once, without it

    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def put(text: str) -> None:
    """Print, also to a reader who leaves after the first line."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  # for the interpreter's end


def refused(prog: str, error: Exception) -> int:
    """Say in one line why a command was refused; its exit status, 2."""
    print(f"{prog}: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
