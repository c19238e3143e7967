"""A study's state as a Prometheus text file."""

import re

import pytest

from objectives.errors import UsageError
from study.results.findings import read_study
from study.search.metrics_file import write_metrics
from tests.study import studies

LINE = re.compile(r'^[a-z_]+\{(?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*\} [-+.e0-9]+$')


def metrics_text(study, folder):
    """What is written of a study."""
    write_metrics(read_study(study, ""), folder / "study.prom")
    return (folder / "study.prom").read_text()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return metrics_text(studies.whole_study(), tmp_path_factory.mktemp("whole"))


def test_every_line_is_of_the_text_format(text):
    assert text.endswith("\n")
    for line in text.splitlines():
        assert line.startswith(("# HELP ", "# TYPE ")) or LINE.match(line), line


def test_trials_are_counted_by_state(text):
    assert 'trials{state="COMPLETE",study="shared-gpu",weights="real"} 11.0' in text
    assert 'trials{state="WAITING",study="shared-gpu",weights="real"} 0.0' in text


def test_the_front_and_its_volume_are_told(text):
    assert 'front_size{study="shared-gpu",weights="real"} 4.0' in text
    volume = re.search(r"front_hypervolume\{[^}]*\} (\S+)", text)
    assert volume and 0 < float(volume[1]) < 1


def test_the_last_cause_is_told_with_its_trial(text):
    assert 'last_cause{cause="bench",study="shared-gpu",weights="real"} 15.0' in text


def test_what_is_not_known_is_not_exposed(tmp_path):
    text = metrics_text(studies.empty_study(), tmp_path)
    assert "front_size" in text
    assert "hypervolume" not in text
    assert "last_cause" not in text


def test_a_name_cannot_break_the_format(tmp_path):
    study = studies.empty_study(name='a "b"\\\n')
    lines = metrics_text(study, tmp_path).splitlines()
    assert all(line.startswith("#") or LINE.match(line) for line in lines)


def test_the_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "textfile" / "study.prom"
    whole = studies.whole_study()
    write_metrics(read_study(studies.empty_study(), ""), path)
    write_metrics(read_study(whole, ""), path)
    assert path.read_text() == metrics_text(whole, tmp_path)
    assert [each.name for each in path.parent.iterdir()] == ["study.prom"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_place_that_cannot_be_written_is_said_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write_metrics(read_study(studies.empty_study(), ""), tmp_path / "file" / "study.prom")
