"""`python -m study.report`: the command, and the pictures as functions."""

import csv
import json

import pytest

from objectives.errors import UsageError
from storage.trials import open_study
from study import report
from study.report import main
from tests.study import studies


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    url = f"sqlite:///{tmp_path_factory.mktemp('report')}/study.db"
    studies.whole_study(url)
    return url


@pytest.fixture(scope="module")
def study(storage):
    return open_study(storage, "shared-gpu")


def run(capsys, *arguments):
    """Exit code, standard output, standard error."""
    code = main(list(arguments))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_front_is_exit_code_0_and_text_is_the_default(storage, capsys):
    code, out, err = run(capsys, "--storage", storage)
    assert (code, err) == (0, "")
    assert out.startswith("Study shared-gpu\n")


@pytest.mark.parametrize("asked", [["--json"], ["--format", "json"]])
def test_json_is_one_document_and_nothing_else(storage, capsys, asked):
    _, out, err = run(capsys, "--storage", storage, *asked)
    assert json.loads(out)["front"] == [4, 7, 9, 12]
    assert err == ""


def test_csv_is_the_recorded_table(storage, capsys):
    _, out, _ = run(capsys, "--storage", storage, "--format", "csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert {row["state"] for row in rows} == {"COMPLETE", "PRUNED"}
    assert rows[0]["param:whisper_model_size"] == "small"


def test_jsonl_is_the_legacy_record(storage, capsys):
    _, out, _ = run(capsys, "--storage", storage, "--format", "jsonl")
    assert json.loads(out.splitlines()[0])["test_id"].startswith("gpu-")


def test_a_report_can_go_to_a_file(storage, capsys, tmp_path):
    code, out, err = run(
        capsys, "--storage", storage, "--format", "html", "--output", str(tmp_path / "a" / "f.html")
    )
    assert (code, out) == (0, "")
    assert err == f"study.report: wrote {tmp_path}/a/f.html\n"
    assert (tmp_path / "a" / "f.html").read_text().startswith("<!doctype html>")


def test_nothing_feasible_is_exit_code_1(capsys, tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    studies.predicted_infeasible(studies.empty_study(url), 0.40, "small")
    code, out, _ = run(capsys, "--storage", url)
    assert code == 1
    assert "None of the 1 setting tried works" in out


def refused(capsys, *arguments):
    """The one line that a refusal is."""
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("study.report: ")
    return err


def test_a_storage_that_is_not_there_is_refused_and_not_made(capsys, tmp_path):
    assert "none.db" in refused(capsys, "--storage", f"sqlite:///{tmp_path}/none.db")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_study_is_refused_with_those_there_are(storage, capsys):
    assert "shared-gpu" in refused(capsys, "--storage", storage, "--study-name", "other")


def test_one_of_several_studies_must_be_named(capsys, tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    for name in ("first", "second"):
        studies.empty_study(url, name)
    said = refused(capsys, "--storage", url)
    assert "--study-name: missing" in said
    assert "first, second" in said


def test_a_configuration_that_is_not_there_is_refused(capsys, tmp_path):
    assert "none.yaml" in refused(capsys, str(tmp_path / "none.yaml"))


def test_a_file_that_cannot_be_written_is_refused(storage, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    said = refused(capsys, "--storage", storage, "--output", str(tmp_path / "file" / "report.txt"))
    assert "cannot be written" in said


@pytest.mark.parametrize(
    "plot",
    [report.plot_fitness_evolution, report.plot_front, report.plot_memory, report.plot_infeasible],
)
def test_every_picture_is_a_function_of_path_and_study(plot, study, tmp_path):
    assert plot(tmp_path / "picture.png", study) == tmp_path / "picture.png"
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_trials_timeline_is_a_function_too(study, tmp_path):
    assert report.plot_timeline(tmp_path / "t.svg", study, trial=4).exists()
    with pytest.raises(UsageError, match="has no trial 99"):
        report.plot_timeline(tmp_path / "t.svg", study, trial=99)


def test_without_a_study_the_bundled_one_is_drawn(tmp_path, monkeypatch):
    """As the first users called it: `plot_fitness_evolution(save_path)`."""
    monkeypatch.chdir(tmp_path)
    config = report.read_config(None)
    (tmp_path / "studies").mkdir()
    made = studies.empty_study(config.storage_url, config.name)
    studies.complete(made, 0.50, "small")
    assert report.plot_fitness_evolution("fitness.png").exists()


def test_a_picture_says_that_weights_were_dummy(tmp_path):
    made = studies.whole_study(weights="dummy")
    report.plot_front(tmp_path / "front.svg", made)
    assert "Dummy weights" in (tmp_path / "front.svg").read_text()


def test_the_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "example: python -m study.report" in capsys.readouterr().out
