import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.device.numa import (
    bytes_to_touch,
    machine_memory,
    node_of,
    parse_ids,
    read_node,
    reserve_bytes,
    unborn_bytes,
)
from tests.fakes.fake_machine import GIB, FakeMachine


@pytest.fixture
def machine(tmp_path):
    return FakeMachine(tmp_path)


def test_the_kernels_lists_of_numbers():
    assert parse_ids("0-2,4,7-8\n") == (0, 1, 2, 4, 7, 8)
    assert parse_ids("3") == (3,)
    assert parse_ids("\n") == ()


def test_available_is_free_page_cache_and_reclaimable_slab(machine):
    machine.node(0, total=16 * GIB, free=3 * GIB, cache=4 * GIB)
    memory = read_node(0, machine.root)
    assert memory.total_bytes == 16 * GIB
    assert memory.available_bytes == 7 * GIB
    assert memory.free_bytes == 3 * GIB
    assert not memory.limited


def test_a_smaller_limit_of_the_container_takes_the_nodes_place(machine):
    machine.node(0, total=64 * GIB, free=40 * GIB)
    machine.write("sys/fs/cgroup/memory.max", f"{16 * GIB}\n")
    machine.write("sys/fs/cgroup/memory.current", f"{5 * GIB}\n")
    memory = read_node(0, machine.root)
    assert memory.limited
    assert memory.total_bytes == 16 * GIB
    assert memory.available_bytes == 11 * GIB


def test_a_limit_beyond_the_node_changes_nothing(machine):
    machine.node(0, total=16 * GIB, free=10 * GIB)
    machine.write("sys/fs/cgroup/memory.max", f"{32 * GIB}\n")
    machine.write("sys/fs/cgroup/memory.current", f"{20 * GIB}\n")
    assert read_node(0, machine.root).available_bytes == 10 * GIB


def test_a_kernel_without_nodes_is_read_as_a_whole(machine):
    machine.memory(total=8 * GIB, available=6 * GIB)
    memory = read_node(0, machine.root)
    assert (memory.total_bytes, memory.available_bytes) == (8 * GIB, 6 * GIB)


def test_the_node_is_that_of_the_first_allowed_cpu(machine):
    machine.cpu_in_node(0, 0)
    machine.cpu_in_node(8, 1)
    machine.cpu_in_node(9, 1)
    assert node_of((0, 8), machine.root) == 0
    assert node_of((9, 8), machine.root) == 1


def test_where_that_nodes_memory_is_forbidden_it_is_the_first_allowed(machine):
    machine.cpu_in_node(0, 0)
    machine.write("proc/self/status", "Name:\tpython\nMems_allowed_list:\t1-2\n")
    assert node_of((0,), machine.root) == 1


def test_a_cpu_without_a_node_belongs_to_node_0(machine):
    assert node_of((3,), machine.root) == 0


def test_a_machine_whose_node_has_all_its_memory_has_nothing_unborn(machine):
    machine.memory(total=16 * GIB, available=12 * GIB)
    machine.nodes_with_memory("0")
    machine.node(0, total=16 * GIB, free=12 * GIB)
    assert unborn_bytes(0, machine.root) == 0


def test_a_node_that_grows_as_it_is_touched_tells_what_is_missing(machine):
    machine.memory(total=24 * GIB, available=23 * GIB)
    machine.nodes_with_memory("0")
    machine.node(0, total=4 * GIB, free=3 * GIB)
    assert unborn_bytes(0, machine.root) == 20 * GIB


def test_one_node_of_several_is_smaller_than_the_machine_by_right(machine):
    machine.memory(total=24 * GIB, available=23 * GIB)
    machine.nodes_with_memory("0-1")
    machine.node(0, total=12 * GIB, free=11 * GIB)
    assert unborn_bytes(0, machine.root) == 0


def test_a_containers_limit_does_not_grow(machine):
    machine.memory(total=24 * GIB, available=23 * GIB)
    machine.nodes_with_memory("0")
    machine.node(0, total=12 * GIB, free=11 * GIB)
    machine.write("sys/fs/cgroup/memory.max", f"{8 * GIB}\n")
    assert unborn_bytes(0, machine.root) == 0


def test_the_reserve_is_two_gib_or_a_tenth():
    assert reserve_bytes(8 * GIB) == 2 * GIB
    assert reserve_bytes(40 * GIB) == 4 * GIB


def grown(**changes):
    figures = {
        "unborn_bytes": 20 * GIB,
        "node_free_bytes": 3 * GIB,
        "machine_total_bytes": 24 * GIB,
        "machine_available_bytes": 23 * GIB,
    }
    return bytes_to_touch(**{**figures, **changes})


def test_growing_stops_at_the_reserve():
    assert grown() == 23 * GIB - reserve_bytes(24 * GIB)


def test_growing_touches_what_is_free_and_what_is_unborn():
    assert grown(unborn_bytes=7 * GIB) == 3 * GIB + 7 * GIB


def test_a_node_with_nothing_unborn_touches_nothing():
    assert grown(unborn_bytes=0) == 0


def test_where_the_safe_share_would_not_even_fill_what_is_free_nothing_is_touched():
    assert grown(machine_available_bytes=5 * GIB) == 0


def test_the_headroom_of_the_control_group_is_respected():
    assert grown(headroom_bytes=10 * GIB) == 9 * GIB


@given(
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 40),
)
def test_the_reserve_is_never_touched(unborn, free, total, available):
    touched = bytes_to_touch(
        unborn_bytes=unborn,
        node_free_bytes=free,
        machine_total_bytes=total,
        machine_available_bytes=available,
    )
    assert touched >= 0
    assert touched == 0 or available - touched >= reserve_bytes(total)


def test_this_machine_can_be_read():
    total, available = machine_memory()
    assert 0 < available <= total
