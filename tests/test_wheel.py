"""The program as `pip install` brings it: another folder, another working directory."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.study.boxes import environment, write_box


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, text=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel):
    """Where the wheel's packages are; nothing of the repository is before them."""
    folder = wheel.with_name("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def run(installed, tmp_path):
    """Runs a module of the installed program; the repository is there for the fakes alone."""

    def run(*words):
        done = subprocess.run(
            (sys.executable, "-W", "ignore", "-m", *words),
            cwd=tmp_path,
            env={
                **os.environ,
                **environment(tmp_path),
                "PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)]),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_it_holds_every_file_of_the_packages_and_no_test(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = {
        str(path.relative_to(ROOT))
        for package in ("study", "objectives", "storage")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert held == tracked
    assert {"study/configs/cpu.yaml", "study/reports/report.html", "study/py.typed"} <= held


def test_a_trial_runs_from_it_with_guards_workers_and_pictures(installed, run, tmp_path):
    assert str(installed) in run("inspect", "--details", "objectives.workers")
    box = str(write_box(tmp_path))
    machine = str(tmp_path / "machine")
    report = json.loads(run("tests.fakes.fixed_node", machine, box, "--trials", "1", "--json"))
    assert [trial["state"] for trial in report["trials"]] == ["COMPLETE"]
    kept = {path.suffix for path in (tmp_path / "studies/fakes.db.artifacts").iterdir()}
    assert kept
    page = run("study.report", box, "--format", "html")
    assert page.rstrip().endswith("</html>")


@pytest.mark.parametrize("module", ["study.config", "study.fit", "study.engines"])
def test_a_folder_with_a_command_is_run_by_its_name(run, module):
    assert f"usage: python -m {module}" in run(module, "--help")


def test_what_another_interpreter_runs_is_found_by_path(installed):
    code = "from objectives import workers; print(*(getattr(workers, n) for n in workers.__all__))"
    done = subprocess.run(
        (sys.executable, "-c", code),
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=installed,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [Path(word) for word in done.stdout.split() if "/" in word]
    assert len(paths) == 6
    assert all(path.is_file() and path.is_relative_to(installed) for path in paths)
