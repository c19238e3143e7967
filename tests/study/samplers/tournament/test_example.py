"""The folder as OptunaHub loads it: by path, with nothing of this repository beside it."""

import ast
import importlib
import importlib.util
import re
import runpy
import shutil
import sys
from types import ModuleType

import optuna
import pytest
from optuna.trial import FixedTrial, TrialState

from tests.benchmarks.house import PACKAGES
from tests.paths import ROOT

FOLDER = ROOT / "study" / "samplers" / "tournament"
NEEDED = {"optuna", "optunahub", "numpy"}


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry that holds the folder, and an `optunahub` that loads from it by path.

    Meanwhile nothing of this repository can be imported.
    """
    package = tmp_path / "package" / "samplers" / "tournament"
    shutil.copytree(FOLDER, package, ignore=shutil.ignore_patterns("__pycache__"))
    before = set(sys.modules)

    def load_module(name):
        folder = tmp_path / "package" / name
        spec = importlib.util.spec_from_file_location(folder.name, folder / "__init__.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, folder.name, module)
        spec.loader.exec_module(module)
        return module

    hub = ModuleType("optunahub")
    hub.load_module = load_module
    monkeypatch.setitem(sys.modules, "optunahub", hub)
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        monkeypatch.delitem(sys.modules, name)
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
    yield package
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "tournament":
            del sys.modules[name]


@pytest.fixture
def created(monkeypatch):
    """Every study that is created."""
    studies, create_study = [], optuna.create_study

    def create(**options):
        studies.append(create_study(**options))
        return studies[-1]

    monkeypatch.setattr(optuna, "create_study", create)
    return studies


@pytest.fixture
def objective(registry):
    return runpy.run_path(str(registry / "example.py"))["objective"]


def imported(path):
    """Top-level packages that a file imports, without those of the standard library."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." if node.level == 1 else node.module.partition(".")[0])
    return names - sys.stdlib_module_names


def test_every_file_of_the_folder_imports_only_its_neighbours_optuna_and_numpy():
    found = {path.name: imported(path) for path in FOLDER.glob("*.py")}
    assert found.pop("example.py") == {"optuna", "optunahub"}
    assert found["tournament.py"] >= {"optuna", "numpy"}
    assert set().union(*found.values()) <= {*NEEDED, "."}


def test_the_folder_can_be_loaded_by_path_and_gives_what_its_door_names(registry):
    module = sys.modules["optunahub"].load_module("samplers/tournament")
    assert module.TournamentSampler.__module__ == "tournament.tournament"
    assert set(module.__all__) == {"TournamentOptions", "TournamentSampler"}
    with pytest.raises(ImportError):
        importlib.import_module("study")


class TestTheObjective:
    @pytest.mark.parametrize(
        ("x", "y", "values"),
        [
            (0.0, 0.0, (0.0, 50.0)),
            (5.0, 3.0, (136.0, 4.0)),
            (1.0, 2.0, (20.0, 25.0)),
        ],
    )
    def test_is_binh_and_korns_problem(self, objective, x, y, values):
        trial = FixedTrial({"x": x, "y": y})
        assert objective(trial) == values
        assert trial.constraints["short"] <= 0

    def test_prunes_a_point_that_violates_the_constraint_by_how_much(self, objective):
        trial = FixedTrial({"x": 0.0, "y": 3.0})
        with pytest.raises(optuna.TrialPruned):
            objective(trial)
        assert trial.constraints == {"short": 9.0}

    def test_allows_a_point_on_the_edge_of_the_constraint(self, objective):
        trial = FixedTrial({"x": 0.0, "y": 0.0})
        objective(trial)
        assert trial.constraints == {"short": 0.0}


class TestTheSearch:
    def test_does_not_begin_when_the_example_is_only_imported(self, created, objective):
        assert created == []

    def test_ends_with_a_front_of_feasible_points_and_prints_it(self, registry, created, capsys):
        runpy.run_path(str(registry / "example.py"), run_name="__main__")
        (study,) = created
        assert type(study.sampler).__module__ == "tournament.tournament"
        assert len(study.trials) == 60
        assert {trial.state for trial in study.trials} == {TrialState.COMPLETE, TrialState.PRUNED}
        assert all(trial.state == TrialState.COMPLETE for trial in study.best_trials)
        printed = capsys.readouterr().out.splitlines()
        assert printed == [f"{best.params} {best.values}" for best in study.best_trials]
        assert len(printed) > 1

    def test_gives_the_pruned_trials_their_seats(self, registry, created):
        runpy.run_path(str(registry / "example.py"), run_name="__main__")
        (study,) = created
        seated = [trial for g in range(7) for trial in study.sampler.get_population(study, g)]
        assert [trial.number for trial in seated] == list(range(60))

    def test_of_the_readme_is_the_same_one(self, registry, created):
        (code,) = re.findall(r"```python\n(.*?)```", (registry / "README.md").read_text(), re.S)
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
        runpy.run_path(str(registry / "example.py"), run_name="__main__")
        shown, run = created
        assert [trial.params for trial in shown.trials] == [trial.params for trial in run.trials]
        assert [trial.values for trial in shown.trials] == [trial.values for trial in run.trials]
