import os
import subprocess
import sys
from dataclasses import dataclass, field

import psutil
import pytest

from objectives.telemetry import processes
from objectives.telemetry.processes import (
    CpuLedger,
    ResidentMeter,
    cpu_pressure,
    cpu_reading,
    family,
    peak_rss_bytes,
    pss_bytes,
    rss_bytes,
)
from tests.fakes.fake_machine import MIB, FakeMachine

GONE = 2**22 + 1
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
    assert rss_bytes(GONE) is pss_bytes(GONE) is peak_rss_bytes(GONE) is None


def test_a_child_is_in_its_parents_family_and_so_is_whoever_is_named(holder):
    parent = os.getppid()
    assert {each.pid for each in family([])} >= {os.getpid(), holder.pid}
    assert parent not in {each.pid for each in family([])}
    assert parent in {each.pid for each in family([parent, GONE])}


def test_busy_counts_everything_but_idling_and_waiting(monkeypatch):
    stat = psutil.cpu_times()._replace(
        user=1.0, nice=0.1, system=0.5, idle=99.0, iowait=7.0, irq=0.05, softirq=0.05, steal=0.3
    )
    monkeypatch.setattr(psutil, "cpu_times", lambda: stat)
    times = cpu_reading(1.5)
    assert times.busy_s == pytest.approx(2.0)
    assert times.stolen_s == pytest.approx(0.3)
    assert times.ours_s == 1.5
    assert times.cpus == psutil.cpu_count()


def test_a_machine_that_does_not_tell_its_pressure(machine):
    assert cpu_pressure(machine.root) is None


def test_pressure_is_a_share(machine):
    machine.write("proc/pressure/cpu", "some avg10=57.60 avg60=1.00 avg300=0 total=9\n")
    assert cpu_pressure(machine.root) == pytest.approx(0.576)


@dataclass(frozen=True)
class Fake:
    """A process as the ledger sees it; who compares equal is the same one."""

    pid: int
    began_s: float = 100.0
    cpu_s: float = field(default=0.0, compare=False)

    def create_time(self):
        return self.began_s

    def cpu_times(self):
        if self.cpu_s < 0:
            raise psutil.NoSuchProcess(self.pid)
        half_s = self.cpu_s / 2
        return psutil.Process().cpu_times()._replace(user=half_s, system=half_s)


def test_the_ledger_counts_from_the_first_entry_of_an_old_process():
    ledger = CpuLedger(opened_s=500.0)
    assert ledger.enter([Fake(7, cpu_s=90.0)]) == 0
    assert ledger.enter([Fake(7, cpu_s=92.5)]) == pytest.approx(2.5)


def test_the_ledger_counts_all_of_a_process_that_was_born_later():
    ledger = CpuLedger(opened_s=500.0)
    ledger.enter([Fake(7, cpu_s=90.0)])
    later = Fake(8, began_s=600.0, cpu_s=3.0)
    assert ledger.enter([Fake(7, cpu_s=90.0), later]) == pytest.approx(3.0)


def test_the_ledger_does_not_count_the_past_of_a_process_that_joins():
    ledger = CpuLedger(opened_s=500.0)
    ledger.enter([Fake(7, cpu_s=1.0)])
    assert ledger.enter([Fake(7, cpu_s=1.0), Fake(9, cpu_s=5000.0)]) == 0


def test_the_ledger_keeps_what_a_process_used_that_has_ended():
    ledger = CpuLedger(opened_s=500.0)
    ledger.enter([Fake(7, cpu_s=1.0)])
    ledger.enter([Fake(7, cpu_s=4.0)])
    assert ledger.enter([Fake(7, cpu_s=-1)]) == pytest.approx(3.0)
    assert ledger.enter([]) == pytest.approx(3.0)


def test_a_process_id_that_is_used_again_is_another_process():
    ledger = CpuLedger(opened_s=500.0)
    ledger.enter([Fake(7, cpu_s=100.0)])
    assert ledger.enter([Fake(7, began_s=700.0, cpu_s=2.0)]) == pytest.approx(2.0)


def test_a_real_child_of_a_ledger_that_is_open_counts_from_its_birth():
    ledger = CpuLedger()
    busy = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True); input()"
    argv = [sys.executable, "-c", busy]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    used_s = ledger.enter([psutil.Process(child.pid)])
    child.communicate()
    assert used_s >= 0.15, "the kernel counts in ticks"


class Held:
    """What the kernel would say of each process: resident and proportional bytes."""

    def __init__(self, monkeypatch):
        self.rss, self.pss = {}, {}
        monkeypatch.setattr(processes, "rss_bytes", self.rss.get)
        monkeypatch.setattr(processes, "pss_bytes", self.pss.get)


@pytest.fixture
def held(monkeypatch):
    return Held(monkeypatch)


def test_shared_pages_are_divided(held):
    held.rss.update({7: 100 * MIB, 8: 100 * MIB})
    held.pss.update({7: 60 * MIB, 8: 60 * MIB})
    meter = ResidentMeter()
    assert meter.read([7, 8], careful=True) == 120 * MIB
    assert meter.source == "pss"


def test_between_careful_readings_growth_is_seen_at_once(held):
    held.rss[7], held.pss[7] = 100 * MIB, 60 * MIB
    meter = ResidentMeter()
    meter.read([7], careful=True)
    held.rss[7], held.pss[7] = 164 * MIB, 999 * MIB
    assert meter.read([7], careful=False) == 124 * MIB


def test_another_users_process_is_counted_by_its_resident_set(held):
    held.rss[7] = 100 * MIB
    meter = ResidentMeter()
    assert meter.read([7], careful=True) == 100 * MIB
    assert meter.source == "rss"


def test_no_process_holds_nothing_and_unreadable_ones_hold_what_nobody_knows(held):
    meter = ResidentMeter()
    assert meter.read([], careful=True) == 0
    assert meter.read([7], careful=True) is None
