"""`python -m study.config`."""

import json
import subprocess
import sys

import pytest

from study.config.__main__ import main
from study.config.files import bundled
from study.config.reference import reference
from study.config.schema import Document
from tests.paths import ROOT
from tests.study.config.configurations import OURS


def test_the_command_checks_a_file(write, capsys):
    assert main([str(write(OURS))]) == 0
    assert "mine: 4 points" in capsys.readouterr().out
    assert main([str(write({**OURS, "seeed": 1}))]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_that_is_allowed_is_one_line_with_name_points_and_objectives(write, capsys):
    objectives = {"llm_latency_ms": "minimize", "concurrent_capacity": "maximize"}
    assert main([str(write({**OURS, "objectives": objectives}))]) == 0
    captured = capsys.readouterr()
    assert captured.out == "mine: 4 points, objectives llm_latency_ms, concurrent_capacity\n"
    assert captured.err == ""


def test_a_space_without_an_end_is_said_to_have_none(write, capsys):
    space = {"vllm_memory_util": {"low": 0.3, "high": 0.7}}
    assert main([str(write({**OURS, "search_space": space}))]) == 0
    assert capsys.readouterr().out.startswith("mine: infinitely many points, ")


def test_a_refusal_goes_to_stderr_with_file_and_key_and_exits_with_2(write, capsys):
    path = write({**OURS, "seed": -1})
    assert main([str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"study.config: {path}: seed: found -1")
    assert captured.out == ""


def test_without_a_file_the_study_for_this_machine_is_checked(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out.startswith(f"{bundled('cpu').name}: 15 points, ")


def test_one_experiment_of_several_is_named(write, capsys):
    path = write({"experiments": [OURS, {**OURS, "name": "other"}]})
    assert main([str(path), "--experiment", "other"]) == 0
    assert capsys.readouterr().out.startswith("other: 4 points")
    assert main([str(path)]) == 2
    assert "name one with --experiment: mine, other" in capsys.readouterr().err


def test_the_command_prints_the_schema(capsys):
    assert main(["--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Document"


def test_the_printed_schema_is_the_whole_one(capsys):
    main(["--schema"])
    assert json.loads(capsys.readouterr().out) == Document.model_json_schema()


def test_the_command_prints_the_reference(capsys):
    assert main(["--reference"]) == 0
    assert capsys.readouterr().out == f"{reference()}\n"


@pytest.mark.parametrize("option", ["--schema", "--reference"])
def test_what_may_be_said_is_printed_without_a_look_at_file_or_machine(option, asked, capsys):
    assert main([option, "/nowhere.yaml"]) == 0
    assert capsys.readouterr().err == ""
    assert asked == []


def test_bad_usage_exits_with_2(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--scheme"])
    assert left.value.code == 2
    assert "python -m study.config: error: " in capsys.readouterr().err


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    assert "example: python -m study.config my-box.yaml" in capsys.readouterr().out


def test_the_exit_code_is_that_of_the_process(tmp_path):
    argv = [sys.executable, "-m", "study.config", str(tmp_path / "missing.yaml")]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "missing.yaml: cannot be read: " in done.stderr
