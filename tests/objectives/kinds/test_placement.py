"""Where a server computes, by what the driver tells of this very device."""

from pathlib import Path

import pytest

from objectives.device.cuda import all_devices
from objectives.errors import BenchError
from objectives.kinds.kind import Up
from objectives.kinds.placement import prove_by_driver
from tests.fakes import machines
from tests.fakes.fake_nvml import GIB, FakeGpu, FakeNvml
from tests.objectives.kinds.test_kind import gpu_of

MINE = 700
WEIGHTS = int(5.2 * GIB)
MACHINES = {
    "the host's process ids": machines.container_with_foreign_pids,
    "no process's bytes": machines.container_without_bytes,
    "WSL2": machines.wsl2,
    "an old driver": machines.first_memory_call_only,
}


def first_card():
    return all_devices()[0][0]


def server_since(before):
    """A server of one process, and its device before it was launched."""
    return Up(url="", key="", log=Path(), members=lambda: [MINE], before=before)


def start(machine, took_bytes, *, least=WEIGHTS, listed=True):
    """A server that takes so much of the machine's first card as it starts."""
    with machine.installed():
        gpu, device = machine.gpus[0], first_card()
        server = server_since(device.read())
        gpu.used_bytes += took_bytes
        gpu.processes = {MINE: took_bytes} if listed else {}
        return prove_by_driver("vllm", device, server, least)


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_on_every_machine_a_server_that_loaded_there_is_proven(machine):
    proof = start(machine(), 6 * GIB)
    assert (proof.doubts, proof.failure) == ((), None)
    assert machines.RTX_3060 in proof.said


def test_where_ids_are_the_hosts_the_fall_of_free_memory_is_the_proof_and_said():
    proof = start(machines.container_with_foreign_pids(), 6 * GIB)
    assert proof.said == (
        f"free memory of NVIDIA GeForce RTX 3060 (number 0 by PCI bus, {machines.RTX_3060}) "
        "fell by 6.00 GiB as it loaded 5.20 GiB"
    )


@pytest.mark.parametrize("took", [0, GIB, -2 * GIB // 4])
@pytest.mark.parametrize("machine", [machines.container_with_foreign_pids, machines.wsl2])
def test_a_card_that_lost_less_than_was_loaded_is_not_where_it_is(machine, took):
    failure = start(machine(), took).failure
    assert type(failure) is BenchError
    assert str(failure).startswith("vllm is not on NVIDIA GeForce RTX 3060 (number 0 by PCI bus")
    assert f"fell by {max(0, took) / GIB:.2f} GiB while it loaded 5.20 GiB" in str(failure)


def test_on_the_other_card_it_is_not_listed_here_and_that_is_found():
    with machines.two_unlike_cards().installed() as driver:
        driver.gpus[1].processes = {MINE: 6 * GIB}
    assert start(driver, 0, listed=False).failure is not None


def test_what_loads_is_rounded_in_logs_and_freed_a_little_by_others():
    assert start(machines.wsl2(), int(0.985 * WEIGHTS)).said


@pytest.mark.parametrize("machine", [machines.container_with_foreign_pids, machines.wsl2])
def test_where_nobody_says_what_was_loaded_it_is_a_doubt(machine):
    proof = start(machine(), 6 * GIB, least=None)
    (doubt,) = proof.doubts
    assert doubt.startswith("the driver does not list vllm among the device's processes")
    assert (proof.said, proof.failure) == ("", None)


def test_an_id_of_the_host_that_is_ours_by_chance_proves_nothing():
    """Another's process has our number, and less than was loaded."""
    with gpu_of(FakeGpu(processes={MINE: GIB // 2})) as device:
        server = server_since(device.read())
        proof = prove_by_driver("vllm", device, server, WEIGHTS)
    assert type(proof.failure) is BenchError


def test_a_lost_card_is_a_fault_of_the_device():
    with FakeNvml(FakeGpu()).installed() as driver:
        device = first_card()
        server = server_since(device.read())
        driver.gpus[0].lost = True
        with pytest.raises(BenchError) as caught:
            prove_by_driver("vllm", device, server, WEIGHTS)
    assert caught.value.cause == "device_fault"
