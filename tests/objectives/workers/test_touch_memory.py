import os
import subprocess
import sys

import pytest

from objectives import workers
from objectives.workers.touch_memory import touch
from tests.fakes.fake_machine import GIB, MIB, FakeMachine


@pytest.fixture
def meminfo(tmp_path):
    def write(available):
        FakeMachine(tmp_path).memory(total=8 * GIB, available=available)
        return tmp_path / "proc/meminfo"

    return write


def run(wanted, reserve, meminfo):
    command = [
        sys.executable,
        "-I",
        str(workers.TOUCH_MEMORY),
        str(wanted),
        str(reserve),
        str(meminfo),
    ]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def test_it_touches_what_it_is_told_and_ends(meminfo):
    assert run(40 * MIB, GIB, meminfo(4 * GIB)) == 40 * MIB


def test_it_stops_at_the_reserve(meminfo):
    assert run(40 * MIB, 2 * GIB, meminfo(2 * GIB)) == 0


def test_it_stops_when_its_parent_is_gone(meminfo, monkeypatch):
    parents = iter([4711, 4711, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    assert touch(640 * MIB, GIB, meminfo(4 * GIB)) == 32 * MIB


def test_memory_that_is_not_told_is_not_touched(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\n")
    assert touch(MIB, 0, tmp_path / "meminfo") == 0


def test_it_is_a_program_of_its_own_that_needs_nothing_of_ours():
    assert "objectives" not in workers.TOUCH_MEMORY.read_text()
