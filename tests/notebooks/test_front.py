"""The notebook runs, whole, on any study."""

import json
import os
import subprocess
import sys

import pytest

from tests.paths import ROOT
from tests.study import studies

NOTEBOOK = ROOT / "notebooks" / "front.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def executed(storage, folder):
    """The notebook's cells after they ran on this storage."""
    subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "nbconvert", "--to", "notebook", "--execute"),
            *("--output-dir", str(folder), str(NOTEBOOK)),
        ],
        check=True,
        capture_output=True,
        timeout=60,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "STUDY_STORAGE": storage,
            "STUDY_NAME": "shared-gpu",
            "JUPYTER_PLATFORM_DIRS": "1",
        },
    )
    return {cell["id"]: cell for cell in json.loads((folder / NOTEBOOK.name).read_text())["cells"]}


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    pytest.importorskip("nbconvert", reason="the extra `test` brings it")
    folder = tmp_path_factory.mktemp("notebook")
    storage = f"sqlite:///{folder}/study.db"
    study = studies.whole_study(storage)
    studies.complete(study, 0.60, "tiny", noise=1.03, generation=4)
    return executed(storage, folder)


def kinds(cell):
    return {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}


def test_outputs_are_stripped():
    assert all(not c["outputs"] and c["execution_count"] is None for c in CELLS if "outputs" in c)


def test_it_defines_nothing_itself():
    code = "".join(line for cell in CELLS if cell["cell_type"] == "code" for line in cell["source"])
    assert "def " not in code
    assert "class " not in code
    assert "lambda" not in code


def test_every_cell_ran_without_a_word_on_stderr(cells):
    spoken = [o for c in cells.values() for o in c.get("outputs", []) if o.get("name") == "stderr"]
    assert spoken == []


def test_it_begins_with_the_verdict(cells):
    said = cells["open"]["outputs"][0]["data"]["text/markdown"]
    assert "11 of 15 settings tried work" in "".join(said)


def test_the_front_is_interactive(cells):
    assert "application/vnd.plotly.v1+json" in kinds(cells["front"])


def test_the_pictures_are_there(cells):
    assert {name for name in cells if "image/png" in kinds(cells[name])} >= {
        "map",
        "phases",
        "evolution",
        "trial",
    }


def test_a_maximised_objective_is_about_what_makes_it_large(cells):
    """The share of memory decides the capacity, not Whisper's size."""
    table = "".join(cells["importances"]["outputs"][0]["data"]["text/plain"])
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()[1:]}
    assert float(rows["vllm_memory_util"][2]) > 0.9
