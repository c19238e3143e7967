import os
import subprocess
import sys

import pytest

from objectives.telemetry.processes import (
    CpuLedger,
    ProcessTimes,
    ResidentMeter,
    cpu_pressure,
    machine_times,
    peak_rss_bytes,
    process_table,
    pss_bytes,
    rss_bytes,
    tree,
)
from tests.fakes.fake_machine import MIB, FakeMachine

HOLDS_40_MIB = "held = bytearray(40 << 20); print(len(held), flush=True); input()"


@pytest.fixture
def holder():
    """A process that holds 40 MiB until its standard input ends."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDS_40_MIB], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    child.stdout.readline()
    yield child
    child.communicate()


@pytest.fixture
def machine(tmp_path):
    return FakeMachine(tmp_path)


def test_memory_of_a_real_process(holder):
    for held in (rss_bytes(holder.pid), pss_bytes(holder.pid), peak_rss_bytes(holder.pid)):
        assert 40 * MIB <= held < 400 * MIB


def test_a_process_that_is_gone_holds_nothing_that_is_known():
    gone = 2**22 + 1
    assert rss_bytes(gone) is pss_bytes(gone) is peak_rss_bytes(gone) is None


def test_a_child_is_in_its_parents_tree(holder):
    table = process_table()
    assert holder.pid in tree(os.getpid(), table)
    assert table[holder.pid].parent == os.getpid()
    assert os.getppid() not in tree(os.getpid(), table)


def test_a_name_with_blanks_and_brackets_does_not_shift_the_fields(machine):
    rest = "S 7 1 1 0 -1 0 0 0 0 0 250 50 0 0 20 0 1 0 9000 0 0"
    machine.write("proc/42/stat", f"42 (a) b (c) {rest}\n")
    assert process_table(machine.root) == {
        42: ProcessTimes(parent=7, began_ticks=9000, cpu_s=300 / os.sysconf("SC_CLK_TCK"))
    }


def test_busy_counts_everything_but_idling_and_waiting(machine):
    machine.write("proc/stat", "cpu  100 10 50 9999 777 5 5 30 0 0\ncpu0 1\ncpu1 1\nintr 0\n")
    times = machine_times(machine.root)
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert times.busy_s == pytest.approx(200 * tick)
    assert times.stolen_s == pytest.approx(30 * tick)
    assert times.cpus == 2


def test_a_machine_that_does_not_tell_its_times(machine):
    (machine.root / "proc").mkdir()
    assert machine_times(machine.root) is None
    assert cpu_pressure(machine.root) is None


def test_pressure_is_a_share(machine):
    machine.write("proc/pressure/cpu", "some avg10=57.60 avg60=1.00 avg300=0 total=9\n")
    assert cpu_pressure(machine.root) == pytest.approx(0.576)


def at(cpu_s, *, began_ticks=100):
    return ProcessTimes(parent=1, began_ticks=began_ticks, cpu_s=cpu_s)


def test_the_ledger_counts_from_the_first_entry_of_an_old_process():
    ledger = CpuLedger(opened_ticks=500)
    assert ledger.enter([7], {7: at(90.0)}) == 0
    assert ledger.enter([7], {7: at(92.5)}) == pytest.approx(2.5)


def test_the_ledger_counts_all_of_a_process_that_was_born_later():
    ledger = CpuLedger(opened_ticks=500)
    ledger.enter([7], {7: at(90.0)})
    assert ledger.enter([7, 8], {7: at(90.0), 8: at(3.0, began_ticks=600)}) == pytest.approx(3.0)


def test_the_ledger_does_not_count_the_past_of_a_process_that_joins():
    ledger = CpuLedger(opened_ticks=500)
    ledger.enter([7], {7: at(1.0)})
    assert ledger.enter([7, 9], {7: at(1.0), 9: at(5000.0)}) == 0


def test_the_ledger_keeps_what_a_process_used_that_has_ended():
    ledger = CpuLedger(opened_ticks=500)
    ledger.enter([7], {7: at(1.0)})
    ledger.enter([7], {7: at(4.0)})
    assert ledger.enter([7], {}) == pytest.approx(3.0)


def test_a_process_id_that_is_used_again_is_another_process():
    ledger = CpuLedger(opened_ticks=500)
    ledger.enter([7], {7: at(100.0)})
    assert ledger.enter([7], {7: at(2.0, began_ticks=700)}) == pytest.approx(2.0)


def resident(machine, pid, *, rss, pss):
    machine.write(f"proc/{pid}/statm", f"0 {rss // os.sysconf('SC_PAGE_SIZE')} 0 0\n")
    if pss is not None:
        machine.write(f"proc/{pid}/smaps_rollup", f"Rss: 9 kB\nPss: {pss >> 10} kB\n")


def test_shared_pages_are_divided(machine):
    resident(machine, 7, rss=100 * MIB, pss=60 * MIB)
    resident(machine, 8, rss=100 * MIB, pss=60 * MIB)
    meter = ResidentMeter(machine.root)
    assert meter.read([7, 8], careful=True) == 120 * MIB
    assert meter.source == "pss"


def test_between_careful_readings_growth_is_seen_at_once(machine):
    resident(machine, 7, rss=100 * MIB, pss=60 * MIB)
    meter = ResidentMeter(machine.root)
    meter.read([7], careful=True)
    resident(machine, 7, rss=164 * MIB, pss=999 * MIB)
    assert meter.read([7], careful=False) == 124 * MIB


def test_another_users_process_is_counted_by_its_resident_set(machine):
    resident(machine, 7, rss=100 * MIB, pss=None)
    meter = ResidentMeter(machine.root)
    assert meter.read([7], careful=True) == 100 * MIB
    assert meter.source == "rss"


def test_no_process_holds_nothing_and_unreadable_ones_hold_what_nobody_knows(machine):
    meter = ResidentMeter(machine.root)
    assert meter.read([], careful=True) == 0
    assert meter.read([7], careful=True) is None
