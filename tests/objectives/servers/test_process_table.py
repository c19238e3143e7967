import os
import signal
import subprocess
import sys
import time
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from objectives.servers.process_table import (
    MARK,
    below,
    end,
    kill,
    leftovers,
    marked,
    read_process,
    read_table,
    segments,
    still_lives,
    sweep,
)

SLEEP = "import time; time.sleep(60)"
DEAF = (
    "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
)


@pytest.fixture
def spawn():
    """A function: a child of this process that runs some Python."""
    children = []

    def start(code, **more):
        child = subprocess.Popen(
            (sys.executable, "-I", "-S", "-c", code),
            stdout=subprocess.PIPE,
            start_new_session=True,
            **more,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.wait()
        child.stdout.close()


def test_a_process_is_known_by_its_parent_its_group_and_its_start(spawn):
    child = spawn(SLEEP)
    row = read_process(child.pid)
    assert (row.parent, row.group, row.is_alive) == (os.getpid(), child.pid, True)
    assert still_lives(child.pid, row.started_ticks)
    assert not still_lives(child.pid, row.started_ticks + 1)  # another one with its pid


def test_a_zombie_is_not_alive(spawn):
    child = spawn("")
    child.stdout.read()
    while read_process(child.pid).state != "Z":
        time.sleep(0.01)
    row = read_process(child.pid)
    assert not row.is_alive
    assert child.pid not in below(os.getpid(), read_table())


def test_there_is_no_row_for_a_process_that_is_not_there(spawn):
    child = spawn("")
    child.wait()
    assert read_process(child.pid) is None


def test_descendants_are_found_at_any_depth(spawn):
    nested = f"import subprocess, sys; p = subprocess.Popen((sys.executable, '-c', {SLEEP!r}))"
    child = spawn(f"{nested}; print(p.pid, flush=True); p.wait()")
    grandchild = int(child.stdout.readline())
    assert {child.pid, grandchild} <= below(os.getpid(), read_table())
    assert below(child.pid, read_table()) == {grandchild}
    os.kill(grandchild, signal.SIGKILL)


def test_a_mark_is_found_in_the_environment(spawn):
    child = spawn("print(1, flush=True); " + SLEEP, env={MARK: "one"})
    child.stdout.readline()
    assert marked("one") == {child.pid}
    assert marked("another") == set()


def test_a_marked_process_is_left_over_once_its_study_is_dead(spawn):
    own = f"{os.getpid()}.{read_process(os.getpid()).started_ticks}.x"
    earlier = f"{os.getpid()}.{read_process(os.getpid()).started_ticks - 1}.x"
    ours = spawn("print(1, flush=True); " + SLEEP, env={MARK: own})
    theirs = spawn("print(1, flush=True); " + SLEEP, env={MARK: earlier})
    strange = spawn("print(1, flush=True); " + SLEEP, env={MARK: "no study's"})
    for child in (ours, theirs, strange):
        child.stdout.readline()
    assert leftovers() & {ours.pid, theirs.pid, strange.pid} == {theirs.pid}


def test_who_obeys_is_asked_and_not_killed(spawn):
    child = spawn("print(1, flush=True); " + SLEEP)
    child.stdout.readline()
    left = end(finder(child), leader=child.pid, grace_s=lambda: 20.0, wait=time.sleep)
    assert left == set()
    assert child.wait() == -signal.SIGTERM


def test_who_is_deaf_is_killed_when_the_grace_is_over(spawn):
    child = spawn(DEAF)
    child.stdout.readline()
    assert end(finder(child), leader=child.pid, grace_s=lambda: 0.1, wait=time.sleep) == set()
    assert child.wait() == -signal.SIGKILL


def test_a_grace_that_shrinks_meanwhile_is_heeded(spawn):
    child = spawn(DEAF)
    child.stdout.readline()
    graces_s = iter([60.0, 60.0])
    end(finder(child), leader=child.pid, grace_s=lambda: next(graces_s, 0.0), wait=time.sleep)
    assert child.wait() == -signal.SIGKILL


def test_what_cannot_be_killed_is_told(monkeypatch):
    monkeypatch.setattr("objectives.servers.process_table.KILL_S", 0.05)
    monkeypatch.setattr(os, "kill", lambda *_: None)
    assert kill(lambda: {4_194_305}, time.sleep) == {4_194_305}


def finder(child):
    def find():
        row = read_process(child.pid)
        return {child.pid} if row is not None and row.is_alive else set()

    return find


def test_a_segment_that_nobody_maps_is_swept():
    left = Path("/dev/shm/psm_nobody_maps_this")
    left.write_bytes(b"x")
    assert left.name in segments()
    sweep({left.name})
    assert not left.exists()


def test_a_segment_that_a_living_process_maps_stays():
    segment = shared_memory.SharedMemory(create=True, size=64)
    try:
        sweep({segment.name})
        assert segment.name in segments()
    finally:
        segment.close()
        segment.unlink()


def test_nothing_new_is_nothing_swept():
    left = Path("/dev/shm/psm_nobody_names_this")
    left.write_bytes(b"x")
    sweep(set())
    assert left.exists()
    left.unlink()


def test_a_segment_that_somebody_else_swept_first_is_no_fault():
    sweep({"psm_gone_already"})
    assert "psm_gone_already" not in segments()
