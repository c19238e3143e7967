"""optuna-dashboard on a study, in a browser."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from threading import Thread

import pytest
from optuna.artifacts import FileSystemArtifactStore

from objectives.errors import UsageError
from storage.trials import storage_at
from study.dashboard import address, main, make
from study.reports.dashboard_notes import with_notes
from tests.study import studies
from tests.study.browsers import browser, complaints

REFUSED = 17
"""The trial that was pruned last, with a note and a log."""


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dashboard")
    url = f"sqlite:///{folder}/study.db"
    artifacts = folder / "study.db.artifacts"
    artifacts.mkdir()
    (folder / "vllm.log").write_text(f"INFO starting\n{studies.NO_BLOCKS}\n")
    study = studies.whole_study(url)
    kept = FileSystemArtifactStore(artifacts)
    judged = with_notes(lambda trial: studies.refuse(trial, kept, folder / "vllm.log"))
    study.enqueue_trial(studies.point(0.60, "small"))
    study.optimize(judged, n_trials=1)
    return url


@contextmanager
def running(url, **options):
    """A dashboard that answers, for as long as the block lasts."""
    artifacts = f"{url.removeprefix('sqlite:///')}.artifacts"
    with storage_at(url) as storage:
        server = make(storage, url, artifacts=artifacts, port=0, **options)
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def asked(server, path, **headers):
    where = address(server).removesuffix("/dashboard") + path
    with urllib.request.urlopen(urllib.request.Request(where, headers=headers)) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def server(storage):
    with running(storage) as found:
        yield found


def test_only_the_front_is_best(server):
    assert [trial["number"] for trial in asked(server, "/api/studies/1")["best_trials"]] == [
        4,
        7,
        9,
        12,
    ]


def test_objectives_have_their_names(server):
    assert asked(server, "/api/studies/1")["objective_names"] == list(studies.OBJECTIVES)


def test_note_and_figures_are_there_without_a_run(server):
    found = asked(server, "/api/studies/1")
    assert "11 of 15 settings tried work" in found["note"]["body"]
    assert {graph["id"] for graph in found["plotly_graph_objects"]} == {
        "front-1",
        "front-2",
        "front-3",
        "hypervolume",
        "memory",
    }


def test_a_pruned_trials_log_can_be_opened(server):
    trial = asked(server, "/api/studies/1")["trials"][REFUSED]
    (log,) = trial["artifacts"]
    where = f"/artifacts/1/{trial['trial_id']}/{log['artifact_id']}"
    url = address(server).removesuffix("/dashboard") + where
    with urllib.request.urlopen(url) as answer:
        assert studies.NO_BLOCKS in answer.read().decode()


def test_a_page_from_elsewhere_cannot_reach_in(server):
    """A name that resolves to this machine, as a hostile page would use."""
    with pytest.raises(urllib.error.HTTPError, match="403"):
        asked(server, "/api/studies", Host="rebound.example")


def test_it_listens_on_this_machine_only(server):
    assert server.server_address[0] == "127.0.0.1"


def test_a_storage_that_is_not_there_is_refused_in_one_line(tmp_path, capsys):
    assert main([f"sqlite:///{tmp_path}/none.db"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "none.db" in said
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_refused_in_one_line(storage):
    with socket.create_server(("127.0.0.1", 0)) as taken, storage_at(storage) as opened:
        port = taken.getsockname()[1]
        artifacts = f"{storage.removeprefix('sqlite:///')}.artifacts"
        with pytest.raises(UsageError, match=f"--port: found {port}: .*allowed: a free one"):
            make(opened, storage, artifacts=artifacts, port=port)


def test_ctrl_c_ends_the_command(storage):
    command = [sys.executable, "-m", "study.dashboard", storage, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert "http://127.0.0.1:" in process.stderr.readline()
        process.send_signal(2)
        assert process.wait(timeout=20) == 130
        assert process.stderr.read() == ""


def eventually(look, *, within_s=20.0):
    """What `look` finds once it finds anything: a page draws itself when it likes."""
    deadline = time.monotonic() + within_s
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


@pytest.mark.browser
def test_the_front_page_shows_feasible_points_only(server):
    with browser(width=1500) as opened:
        opened.get(f"{address(server)}/studies/1")
        marks = eventually(
            lambda: opened.execute_script(
                "const plot = [...document.querySelectorAll('.js-plotly-plot')]"
                ".find(p => p.data && p.data.some(t => t.name === 'Best Trial'"
                " || (t.hovertemplate || '').includes('Best')));"
                "return plot ? plot.data.map(t => [t.hovertemplate, t.x.length]) : null"
            )
        )
        assert complaints(opened) == []
        words = opened.find_element("tag name", "body").text
    shown = {words.split("<extra>")[1].removesuffix("</extra>"): count for words, count in marks}
    assert (shown["Best Trial"], shown["Trial"], shown["Infeasible Trial"]) == (4, 7, 0)
    assert "Best Trials" in words


@pytest.mark.browser
def test_a_pruned_trials_page_shows_its_cause_and_its_log(server):
    with browser(width=1500) as opened:
        opened.get(f"{address(server)}/studies/1/trials?numbers={REFUSED}")
        words = eventually(
            lambda: (
                text
                if "vllm.log" in (text := opened.find_element("tag name", "body").text)
                else None
            )
        )
        assert complaints(opened) == []
    assert "Infeasible: kv_cache_no_blocks (seen)" in words
    assert "No available memory for the cache blocks" in words
