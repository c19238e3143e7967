"""The guard as the study meets it: two pipes, and a program run by its path."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from objectives.servers import guard, process_table

SLEEP = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)")


class Guard:
    """A guard under test."""

    def __init__(self, log):
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                (sys.executable, "-I", "-S", guard.__file__, "test"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                start_new_session=True,
            )

    def order(self, *orders):
        self.process.stdin.write(b"".join(json.dumps(each).encode() + b"\n" for each in orders))
        self.process.stdin.flush()

    def report(self):
        return json.loads(self.process.stdout.readline())


@pytest.fixture
def guarded(tmp_path):
    each = Guard(tmp_path / "log")
    yield each
    each.process.stdin.close()
    each.process.stdout.close()
    each.process.wait(30)


def launch(*argv, **more):
    order = {"argv": argv, "env": {}, "cwd": None, "oom_score_adj": 0, "token": "t-o-k-e-n"}
    return {**order, "temporary": None, **more}


def test_it_tells_the_pid_the_end_and_that_all_is_gone(guarded):
    guarded.order(launch(*SLEEP))
    pid = guarded.report()["pid"]
    row = process_table.read_process(pid)
    assert (row.parent, row.group) == (guarded.process.pid, pid)
    guarded.order({"stop": 10})
    assert guarded.report() == {"ended": -signal.SIGTERM}
    assert guarded.report() == {"gone": []}
    assert guarded.process.wait(10) == 0


def test_it_tells_the_exit_code_of_a_server_that_ends_by_itself(guarded):
    guarded.order(launch(sys.executable, "-c", "raise SystemExit(7)"))
    assert guarded.report().keys() == {"pid"}
    assert guarded.report() == {"ended": 7}


def test_it_tells_why_a_server_cannot_be_started(guarded, tmp_path):
    guarded.order(launch(*SLEEP, cwd=str(tmp_path / "nowhere")))
    assert "No such file" in guarded.report()["failed"]
    assert guarded.report() == {"gone": []}


def test_it_starts_nothing_for_a_study_that_died_first(guarded):
    guarded.process.stdin.close()
    assert guarded.process.wait(10) == 0
    assert guarded.process.stdout.read() == b""


def test_it_starts_nothing_for_a_study_that_changed_its_mind(guarded):
    guarded.order({"stop": 0})
    assert guarded.process.wait(10) == 0
    assert guarded.process.stdout.read() == b""


def test_orders_that_come_in_one_breath_are_all_heard(guarded):
    guarded.order(launch(*SLEEP), {"stop": 10})
    assert [*guarded.report(), *guarded.report(), *guarded.report()] == ["pid", "ended", "gone"]


def test_the_end_of_its_input_is_the_end_of_the_server(guarded):
    guarded.order(launch(*SLEEP))
    pid = guarded.report()["pid"]
    guarded.process.stdin.close()
    assert guarded.process.wait(20) == 0
    assert process_table.read_process(pid) is None


def test_it_outlives_its_reader(guarded):
    guarded.order(launch(*SLEEP))
    pid = guarded.report()["pid"]
    guarded.process.stdout.close()
    guarded.process.stdin.close()
    assert guarded.process.wait(20) == 0
    assert process_table.read_process(pid) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_for_the_study_do_not_end_it_and_the_server_heeds_them_as_usual(guarded, number):
    guarded.order(launch(*SLEEP))
    pid = guarded.report()["pid"]
    guarded.process.send_signal(number)
    time.sleep(0.1)
    assert guarded.process.poll() is None
    os.kill(pid, number)
    assert guarded.report() == {"ended": -number}


def test_a_server_that_obeys_does_not_survive_its_guard(guarded):
    guarded.order(launch(*SLEEP))
    pid = guarded.report()["pid"]
    guarded.process.kill()
    guarded.process.wait()
    until = time.monotonic() + 20
    while (row := process_table.read_process(pid)) and row.is_alive and time.monotonic() < until:
        time.sleep(0.02)
    assert not row or not row.is_alive


def test_the_folder_for_temporary_files_is_there_and_goes_with_the_server(guarded, tmp_path):
    folder = tmp_path / "own"
    guarded.order(launch(*SLEEP, temporary=str(folder)))
    guarded.report()
    (folder / "left.sock").touch()
    guarded.order({"stop": 10})
    guarded.process.wait(20)
    assert not folder.exists()


def test_it_needs_nothing_but_the_standard_library():
    """It must start in any environment, and quickly: the imports are counted, not the time."""
    code = f"import runpy, sys; runpy.run_path({guard.__file__!r}); print(*sorted(sys.modules))"
    argv = (sys.executable, "-I", "-S", "-c", code)
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.startswith("objectives")} == set()
    assert "process_table" in loaded  # its neighbour, by path: the package has far more
    assert not loaded & {"subprocess", "asyncio", "logging", "psutil", "shutil", "tempfile"}
