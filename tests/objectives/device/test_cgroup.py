import pytest

from objectives.device.cgroup import engine_limit_bytes, engine_usage_bytes, oom_kills, own_group
from tests.fakes.fake_machine import GIB, FakeMachine

V1_UNLIMITED = "9223372036854771712\n"


@pytest.fixture
def machine(tmp_path):
    return FakeMachine(tmp_path)


def test_a_container_of_version_2_has_its_limit_at_the_mount(machine):
    machine.cgroup_v2("/")
    machine.write("sys/fs/cgroup/memory.max", f"{8 * GIB}\n")
    machine.write("sys/fs/cgroup/memory.current", f"{3 * GIB}\n")
    machine.write("sys/fs/cgroup/memory.events", "low 0\nhigh 1\nmax 7\noom 2\noom_kill 1\n")
    group = own_group(machine.root)
    assert group.version == 2
    assert group.limit_bytes() == 8 * GIB
    assert group.headroom_bytes() == 5 * GIB
    assert group.events() == {"low": 0, "high": 1, "max": 7, "oom": 2, "oom_kill": 1}


def test_the_tightest_limit_on_the_way_up_counts(machine):
    machine.cgroup_v2("/user.slice/job")
    for group, limit, used in (("user.slice/job", "max", 1), ("user.slice", f"{4 * GIB}", 2)):
        machine.write(f"sys/fs/cgroup/{group}/memory.max", f"{limit}\n")
        machine.write(f"sys/fs/cgroup/{group}/memory.current", f"{used * GIB}\n")
        machine.write(f"sys/fs/cgroup/{group}/memory.events", "oom_kill 0\n")
    group = own_group(machine.root)
    assert group.limit_bytes() == 4 * GIB
    assert group.headroom_bytes() == 2 * GIB


def test_no_limit_is_none(machine):
    machine.cgroup_hybrid("/job")
    machine.write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", V1_UNLIMITED)
    group = own_group(machine.root)
    assert group.limit_bytes() is None
    assert group.headroom_bytes() is None


def test_on_a_hybrid_machine_memory_is_read_from_version_1(machine):
    machine.cgroup_hybrid("/job/one")
    machine.write("sys/fs/cgroup/memory/job/one/memory.limit_in_bytes", f"{2 * GIB}\n")
    machine.write("sys/fs/cgroup/memory/job/one/memory.usage_in_bytes", f"{GIB}\n")
    machine.write("sys/fs/cgroup/memory/job/one/memory.failcnt", "12\n")
    machine.write(
        "sys/fs/cgroup/memory/job/one/memory.oom_control",
        "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    )
    group = own_group(machine.root)
    assert group.version == 1
    assert group.limit_bytes() == 2 * GIB
    assert group.headroom_bytes() == GIB
    assert group.events() == {"oom_kill": 3, "max": 12}
    assert oom_kills(machine.root) == 3


def test_a_container_that_is_shown_its_own_part_only_is_found_at_the_mount(machine):
    machine.cgroup_v2("/docker/abc", below="/docker/abc")
    machine.write("sys/fs/cgroup/memory.events", "oom_kill 0\n")
    assert own_group(machine.root).path == machine.root / "sys/fs/cgroup"


def test_a_path_outside_of_what_is_mounted_falls_back_to_the_mount(machine):
    machine.cgroup_v2("/../elsewhere")
    machine.write("sys/fs/cgroup/memory.events", "oom_kill 0\n")
    assert own_group(machine.root).path == machine.root / "sys/fs/cgroup"


def test_no_memory_controller_is_no_group(machine):
    machine.cgroup_v2("/")
    assert own_group(machine.root) is None


def test_a_machine_without_control_groups_is_no_error(machine):
    assert own_group(machine.root) is None
    assert oom_kills(machine.root) is None
    assert engine_limit_bytes(machine.root) is None


def test_without_a_group_the_machines_own_count_of_kills_serves(machine):
    machine.write("proc/vmstat", "nr_free_pages 1\noom_kill 5\n")
    assert oom_kills(machine.root) == 5


def test_the_engine_reads_a_fixed_file_not_the_group_of_its_process(machine):
    machine.cgroup_hybrid("/job")
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", V1_UNLIMITED)
    machine.write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", f"{2 * GIB}\n")
    assert engine_limit_bytes(machine.root) is None
    assert own_group(machine.root).limit_bytes() == 2 * GIB


def test_the_engine_prefers_version_2(machine):
    machine.write("sys/fs/cgroup/memory.max", f"{6 * GIB}\n")
    machine.write("sys/fs/cgroup/memory.current", f"{2 * GIB}\n")
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", f"{3 * GIB}\n")
    assert engine_limit_bytes(machine.root) == 6 * GIB
    assert engine_usage_bytes(machine.root) == 2 * GIB


def test_an_unlimited_version_2_leaves_the_word_to_version_1(machine):
    machine.write("sys/fs/cgroup/memory.max", "max\n")
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", f"{3 * GIB}\n")
    machine.write("sys/fs/cgroup/memory/memory.usage_in_bytes", f"{GIB}\n")
    assert engine_limit_bytes(machine.root) == 3 * GIB
    assert engine_usage_bytes(machine.root) == GIB
