"""Whose the bytes of a GPU are, by lists of every kind."""

import os
import subprocess
import sys

import pytest

from objectives.device.discovery import Own
from objectives.device.state import DeviceState
from objectives.telemetry.ownership import FRESH_S, Ownership, Stranger, listed_bytes
from tests.fakes.fake_nvml import GIB

MINE, ANOTHER = os.getpid(), os.getppid()
NOBODYS = 2**22 + 1
"""Beyond the largest process id that there can be."""


def listing(by_pid):
    return DeviceState(total_bytes=10, free_bytes=5, used_bytes=5, by_pid=by_pid)


def seen(*looks):
    """Who is whose after looks of (listed, members), a second apart."""
    ownership = Ownership()
    for at_s, (by_pid, members) in enumerate(looks):
        ownership.see(listing(by_pid), members, float(at_s))
    return ownership


@pytest.mark.parametrize(
    ("by_pid", "held"),
    [
        ({MINE: 5, ANOTHER: 9}, 5),
        ({MINE: None, ANOTHER: 9}, None),
        ({ANOTHER: 9}, None),
        ({}, None),
    ],
)
def test_listed_are_the_bytes_that_the_driver_tells_of_these(by_pid, held):
    assert listed_bytes([MINE], listing(by_pid)) == held


class TestWhoIsInNoList:
    def held(self, ownership, by_pid, *, at_s, pids=(ANOTHER,), grown=None):
        return ownership.held("w", pids, listing(by_pid), at_s=at_s, grown_bytes=grown)

    def test_holds_nothing_where_the_list_is_ours_and_it_had_time_to_come_into_it(self):
        ownership = seen(({MINE: 5}, {"v": [MINE], "w": [ANOTHER]}))
        assert self.held(ownership, {MINE: 5}, at_s=FRESH_S) == 0
        assert self.held(ownership, {MINE: 5}, at_s=FRESH_S / 2) is None

    @pytest.mark.parametrize("by_pid", [{}, {NOBODYS: 5}])
    def test_is_unknown_where_the_list_has_none_of_ours(self, by_pid):
        ownership = seen((by_pid, {"v": [MINE], "w": [ANOTHER]}))
        assert self.held(ownership, by_pid, at_s=60) is None

    def test_holds_what_it_took_as_it_started_where_that_is_known(self):
        ownership = seen(({}, {"w": [ANOTHER]}))
        assert self.held(ownership, {}, at_s=60, grown=7) == 7
        assert ownership.differences == {"w"}

    def test_holds_nothing_where_it_has_no_process(self):
        ownership = seen(({}, {"w": []}))
        assert self.held(ownership, {}, at_s=0, pids=()) == 0
        assert self.held(ownership, {}, at_s=0, pids=(), grown=7) == 0

    def test_is_unknown_while_it_starts(self):
        ownership = seen(({MINE: 5}, {"v": [MINE], "w": None}))
        assert self.held(ownership, {MINE: 5}, at_s=60, pids=None, grown=7) is None


class TestStrangers:
    def test_are_those_who_came_and_are_no_tenants(self):
        before = {NOBODYS + 1: 3}
        ownership = seen(
            (before, {"v": []}),
            ({**before, MINE: 5, NOBODYS: 2 * GIB}, {"v": [MINE]}),
            ({**before, MINE: 5, NOBODYS: GIB}, {"v": [MINE]}),
        )
        assert ownership.strangers() == (
            Stranger(pid=NOBODYS, name=None, most_bytes=2 * GIB, looks=2),
        )
        assert str(ownership.strangers()[0]) == (
            f"process {NOBODYS} (of another namespace) and held up to 2.00 GiB"
        )

    def test_have_the_name_of_their_program(self):
        (stranger,) = seen(({}, {}), ({ANOTHER: None}, {})).strangers()
        assert (stranger.pid, stranger.most_bytes) == (ANOTHER, None)
        assert stranger.name
        assert "held" not in str(stranger)

    def test_are_unknown_where_the_list_has_the_hosts_numbers(self):
        assert seen(({}, {}), ({NOBODYS: GIB}, {"v": [MINE]})).strangers() == ()

    def test_a_tenant_that_is_met_before_it_is_known_is_none(self):
        ownership = seen(
            ({}, {"v": []}), ({ANOTHER: 5}, {"v": []}), ({ANOTHER: 5}, {"v": [ANOTHER]})
        )
        assert ownership.strangers() == ()

    def test_one_that_is_gone_as_it_is_looked_up_may_have_been_a_child_and_is_none(self):
        ownership = seen(({}, {}), ({MINE: 5, NOBODYS: 5}, {"v": [MINE]}), ({MINE: 5}, {}))
        assert ownership.strangers() == ()

    def test_the_study_and_its_children_are_none(self):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        ownership = seen(({}, {}), ({child.pid: 5, MINE: 5}, {}))
        child.communicate()
        assert ownership.strangers() == ()


def test_what_is_ours_in_the_end_is_of_the_tenants_that_must_be_gone():
    ownership = seen(({MINE: 5, ANOTHER: 6}, {"v": [MINE, 1], "ollama": [ANOTHER]}))
    for name, pid in (("v", MINE), ("ollama", ANOTHER)):
        ownership.held(name, [pid], listing({MINE: 5, ANOTHER: 6}), at_s=0)
    assert ownership.of({"v", "absent"}) == Own(
        pids=frozenset({MINE, 1}), is_listed=True, held_bytes=(5,)
    )
