"""What commands have in common."""

import argparse
import sys
import warnings

import optuna
import pytest

from study.command import add_config, only, put, quiet_libraries, refused


def test_an_argument_is_what_is_allowed_of_its_kind():
    port = only(int, lambda value: value <= 65535, "up to 65535")
    assert port("8080") == 8080
    for text in ("65536", "eighty"):
        with pytest.raises(argparse.ArgumentTypeError) as refusal:
            port(text)
        assert str(refusal.value) == f"found {text}, allowed: up to 65535"


def test_a_configuration_may_be_left_out():
    parser = argparse.ArgumentParser()
    add_config(parser)
    assert vars(parser.parse_args([])) == {"config": None, "experiment": None}
    args = parser.parse_args(["box.yaml", "--experiment", "mine"])
    assert (args.config.name, args.experiment) == ("box.yaml", "mine")


def test_a_reader_who_leaves_is_no_error(monkeypatch):
    class Left:
        def write(self, text):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Left())
    put("a line")
    sys.stdout.close()


def test_a_refusal_is_one_line_and_exit_status_2(capsys):
    assert refused("study.run", ValueError("first\n  second")) == 2
    assert capsys.readouterr().err == "study.run: first second\n"


def test_libraries_say_nothing_of_their_own():
    with warnings.catch_warnings():
        quiet_libraries()
        warnings.warn("try it", optuna.exceptions.ExperimentalWarning, stacklevel=1)
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING
