import json
import os
import sys

import psutil
import pytest

from objectives import workers
from objectives.device.cpu import CpuNode
from tests.fakes.fake_machine import GIB, MIB, FakeMachine

GROWS = """
import os, pathlib, sys, time
node = pathlib.Path(sys.argv[3]).parents[1] / "sys/devices/system/node/node0/meminfo"
node.with_name("pid").write_text(str(os.getpid()))
node.with_name("asked").write_text(sys.argv[1])
new = "".join(
    f"Node 0 MemTotal: {16 << 20} kB\\n" if "MemTotal" in line else line
    for line in node.read_text().splitlines(keepends=True)
)
node.with_name("new").write_text(new)
node.with_name("new").rename(node)
time.sleep(600)
"""
SLEEPS = """
import os, pathlib, sys, time
node = pathlib.Path(sys.argv[3]).parents[1] / "sys/devices/system/node/node0"
(node / "writing").write_text(str(os.getpid()))
(node / "writing").rename(node / "pid")
time.sleep(600)
"""


@pytest.fixture
def machine(tmp_path):
    """16 GiB, of which the only node counts 4 until more are touched."""
    machine = FakeMachine(tmp_path)
    machine.processor()
    machine.memory(total=16 * GIB, available=15 * GIB)
    machine.nodes_with_memory("0")
    machine.node(0, total=4 * GIB, free=2 * GIB, cache=GIB)
    return machine


@pytest.fixture
def toucher(tmp_path, monkeypatch):
    """Puts another program in the place of the one that touches memory."""

    def replace(text):
        script = tmp_path / "toucher.py"
        script.write_text(text)
        monkeypatch.setattr(workers, "TOUCH_MEMORY", script)

    return replace


def node(machine):
    return CpuNode(root=machine.root, cpus=(0,))


def left_behind(machine):
    """Process id of the program that touched memory, if it still runs."""
    pid = int((machine.root / "sys/devices/system/node/node0/pid").read_text())
    return [pid] if psutil.pid_exists(pid) else []


def test_it_reads_what_a_server_on_the_cpu_reads(machine):
    state = node(machine).read()
    assert state.total_bytes == 4 * GIB
    assert state.free_bytes == 3 * GIB
    assert state.used_bytes == GIB
    assert state.by_pid == {}


def test_its_name_tells_the_processor_and_the_node(machine):
    assert node(machine).name == "Some CPU @ 2 GHz, memory node 0"
    assert node(machine).kind == "cpu"
    assert node(machine).index is None


def test_its_uuid_stays_with_machine_and_node_and_hides_the_machines_id(machine):
    uuid = node(machine).uuid
    assert uuid.startswith("cpu-node0-")
    assert "c0ffee" not in uuid
    machine.memory(total=20 * GIB, available=5 * GIB)
    machine.node(0, total=9 * GIB, free=GIB)
    assert node(machine).uuid == uuid
    machine.cpu_in_node(0, 1)
    assert node(machine).uuid.startswith("cpu-node1-")
    machine.processor(machine_id="decaf")
    assert node(machine).uuid.removeprefix("cpu-node1-") != uuid.removeprefix("cpu-node0-")


def test_a_machine_without_an_id_is_known_by_its_host_name(machine):
    (machine.root / "etc/machine-id").unlink()
    assert node(machine).uuid == node(machine).uuid


def test_servers_see_no_cuda_device(machine):
    assert node(machine).environment() == {"CUDA_VISIBLE_DEVICES": ""}


def test_a_description_can_be_stored_as_json(machine):
    machine.cgroup_v2("/")
    machine.write("sys/fs/cgroup/memory.max", f"{12 * GIB}\n")
    machine.write("sys/fs/cgroup/memory.events", "oom_kill 0\n")
    facts = json.loads(json.dumps(node(machine).describe()))
    assert facts["node"] == 0
    assert facts["settled"] is False
    assert facts["unborn_bytes"] == 12 * GIB
    assert facts["cgroup_version"] == 2
    assert facts["cgroup_limit_bytes"] == 12 * GIB


def test_settling_lets_the_node_grow_and_ends_the_child_once_it_has(machine, toucher):
    toucher(GROWS)
    before, after = node(machine).settle()
    assert (before.total_bytes, after.total_bytes) == (4 * GIB, 16 * GIB)
    asked = int((machine.root / "sys/devices/system/node/node0/asked").read_text())
    assert asked == 13 * GIB  # 15 available, less 2 in reserve
    assert left_behind(machine) == []
    assert node(machine).settled


def test_an_interrupt_while_settling_leaves_no_process(machine, toucher, monkeypatch):
    toucher(SLEEPS)
    running = machine.root / "sys/devices/system/node/node0/pid"

    def interrupt(seconds):
        if running.exists():
            raise KeyboardInterrupt

    monkeypatch.setattr("objectives.device.cpu.time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        node(machine).settle()
    assert left_behind(machine) == []


def test_settling_gives_up_at_its_deadline(machine, toucher):
    toucher(SLEEPS)
    before, after = node(machine).settle(deadline_s=0)
    assert before == after


def test_a_machine_that_has_its_size_starts_nothing(machine, toucher):
    toucher("raise SystemExit('must not run')")
    machine.memory(total=4 * GIB, available=3 * GIB)
    device = node(machine)
    before, after = device.settle()
    assert before == after
    assert device.settled


def test_settling_really_touches_memory(machine):
    """A few MiB with the real child: the folder's node cannot grow, so the child ends by itself."""
    machine.memory(total=4 * GIB, available=4 * GIB)
    machine.node(0, total=4 * GIB - 50 * MIB, free=MIB)
    before, after = node(machine).settle()
    assert before == after


def test_this_machines_node_can_be_read():
    device = CpuNode()
    state = device.read()
    assert 0 < state.free_bytes <= state.total_bytes
    assert device.uuid == CpuNode().uuid
    assert device.describe()["cpus"] == len(os.sched_getaffinity(0))


@pytest.mark.skipif(sys.platform != "linux", reason="memory nodes are Linux's")
def test_the_engines_reading_and_ours_are_of_the_same_size():
    device = CpuNode()
    assert device.total_bytes <= psutil.virtual_memory().total
