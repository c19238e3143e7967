import pynvml
import pytest

from objectives.device.cpu import CpuNode
from objectives.device.discovery import Own, open_device, wait_for_memory
from objectives.device.state import DeviceState
from objectives.errors import OrphanError, UsageError
from tests.fakes import machines
from tests.fakes.fake_nvml import GIB, FakeGpu, FakeNvml

FIRST = "GPU-aaaaaaaa-0000-0000-0000-000000000000"
SECOND = "GPU-bbbbbbbb-0000-0000-0000-000000000000"


@pytest.fixture
def driver(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus = (FakeGpu(uuid=FIRST), FakeGpu(uuid=SECOND, name="NVIDIA GeForce GTX 1080 Ti"))
    with FakeNvml(*gpus).installed() as fake:
        yield fake


@pytest.fixture
def no_driver():
    with FakeNvml().installed() as fake:
        fake.refused["nvmlInitWithFlags"] = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
        yield fake


def test_auto_takes_the_first_gpu(driver):
    assert open_device("auto").uuid == FIRST


def test_auto_passes_over_a_gpu_that_cannot_be_shared_and_says_so(driver):
    driver.gpus[0].mig = True
    device = open_device("auto")
    assert device.uuid == SECOND
    assert device.passed_over[0].startswith("cuda:0 NVIDIA GeForce RTX 3060: it is split by MIG")
    assert device.describe()["passed_over"] == list(device.passed_over)


def test_auto_passes_over_a_gpu_that_fell_off_the_bus_and_says_so(driver):
    driver.gpus[0].refused = dict.fromkeys(machines.MEMORY, pynvml.NVML_ERROR_GPU_IS_LOST)
    device = open_device("auto")
    assert device.uuid == SECOND
    assert "nvmlDeviceGetMemoryInfo: GPU is lost" in device.passed_over[0]


@pytest.mark.parametrize("machine", [machines.gb10, machines.mig_container])
def test_where_memory_is_not_told_auto_goes_on_and_a_name_is_refused(machine, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver = machine()
    with driver.installed():
        device = open_device("auto")
        assert device.kind == "cpu"
        assert "its memory" in device.passed_over[0]
        for spec in ("cuda", "cuda:0", driver.gpus[0].uuid):
            with pytest.raises(UsageError, match="its memory"):
                open_device(spec)
        driver.gpus.append(FakeGpu(uuid=SECOND))
        assert open_device("auto").uuid == open_device("cuda").uuid == SECOND


def too_old(device):
    return "too old" if device.compute_capability == "6.1" else None


@pytest.mark.parametrize("spec", ["auto", "cuda"])
def test_the_first_gpu_that_nobody_objects_to_is_taken(spec, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with machines.two_unlike_cards().installed():
        assert open_device(spec).uuid == machines.GTX_1080_TI
        device = open_device(spec, too_old)
        assert device.uuid == machines.RTX_3060
        assert device.passed_over == ("cuda:0 NVIDIA GeForce GTX 1080 Ti: too old",)
        named = open_device(machines.GTX_1080_TI, too_old)
        assert named.uuid == machines.GTX_1080_TI, "what a person names is taken"
        first = open_device(spec, lambda device: "no")
        assert first.uuid == machines.GTX_1080_TI, "who objects to all says why later"
        assert first.passed_over == ()


def test_auto_takes_the_cpu_where_there_is_no_gpu_and_says_why(no_driver):
    device = open_device("auto")
    assert device.kind == "cpu"
    assert device.passed_over == ("no NVIDIA driver (NVML Shared Library Not Found)",)


def test_auto_takes_the_cpu_where_every_gpu_is_hidden(driver, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    device = open_device("auto")
    assert device.kind == "cpu"
    assert device.passed_over == ("no NVIDIA GPU is visible",)


def test_cpu_is_the_cpu_whatever_gpus_there_are(driver):
    assert isinstance(open_device("cpu"), CpuNode)


def test_a_gpu_by_number_counts_among_the_visible(driver, monkeypatch):
    assert open_device("cuda:1").uuid == SECOND
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert open_device("cuda:0").uuid == SECOND
    assert open_device("cuda:0").index == 1


def test_a_gpu_by_uuid_or_its_beginning(driver, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert open_device(SECOND).uuid == SECOND
    assert open_device("GPU-bbbb").uuid == SECOND


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("cuda:2", "device cuda:2 is not there; visible: cuda:0 NVIDIA GeForce RTX 3060, cuda:1"),
        ("GPU-cccc", "0 devices have this UUID; there are: GPU-aaaa"),
        ("GPU-", "2 devices have this UUID"),
        ("MIG-1234", "only whole devices"),
        ("gpu", "'gpu' found; allowed: auto, cpu, cuda, cuda:N, GPU-UUID"),
        ("cuda:x", "allowed: auto"),
    ],
)
def test_a_device_that_is_not_there_is_a_line_that_says_what_is(driver, spec, line):
    with pytest.raises(UsageError) as refused:
        open_device(spec)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("spec", ["cuda", "cuda:0", FIRST])
def test_a_gpu_is_asked_for_where_there_is_no_driver(no_driver, spec):
    with pytest.raises(UsageError, match="no NVIDIA driver"):
        open_device(spec)


@pytest.mark.parametrize("spec", ["cuda:0", FIRST])
def test_a_gpu_split_by_mig_is_refused_with_the_reason(driver, spec):
    driver.gpus[0].mig = True
    with pytest.raises(UsageError, match="split by MIG"):
        open_device(spec)


def test_where_no_gpu_can_be_shared_every_reason_is_given(driver):
    driver.gpus[0].mig = True
    driver.gpus[1].compute_mode = 2
    with pytest.raises(UsageError, match=r"split by MIG.*Prohibited"):
        open_device("cuda")


class Draining(CpuNode):
    """Gives a GiB back at every look, down to a last one that it keeps."""

    def __init__(self, used_gib, kept_gib):
        super().__init__()
        self.used_gib, self.kept_gib = used_gib, kept_gib

    def read(self):
        used, self.used_gib = self.used_gib, max(self.kept_gib, self.used_gib - 1)
        return state(used)


def state(used_gib, **more):
    return DeviceState(
        total_bytes=10 * GIB, free_bytes=(10 - used_gib) * GIB, used_bytes=used_gib * GIB, **more
    )


NOBODY = Own()


def wait(device, baseline, own=NOBODY, *, tolerance=0, deadline_s=0.0):
    return wait_for_memory(device, baseline, own, tolerance_bytes=tolerance, deadline_s=deadline_s)


def test_memory_that_comes_back_is_waited_for():
    draining = Draining(4, 1)
    assert wait(draining, state(1), deadline_s=60) is None
    assert draining.read().used_bytes == GIB


def test_a_tolerance_counts_as_back():
    assert wait(Draining(4, 4), state(3), tolerance=GIB) is None


@pytest.mark.parametrize("held", [[2], [5, 2], [0.5, 1.5, 7], [2.05]])
def test_as_much_as_a_server_held_is_ours_where_the_driver_lists_none_of_ours(held):
    own = Own(held_bytes=tuple(int(size * GIB) for size in held))
    with pytest.raises(OrphanError, match=r"2\.00 GiB are not back after 0 s; as much as"):
        wait(Draining(5, 3), state(1), own, tolerance=GIB, deadline_s=0.15)


@pytest.mark.parametrize("held", [[], [5], [1, 3]])
def test_any_other_size_is_somebody_elses(held):
    own = Own(held_bytes=tuple(size * GIB for size in held))
    said = wait(Draining(5, 3), state(1), own, tolerance=GIB, deadline_s=0.15)
    assert said.endswith("2.00 GiB are not back after 0 s")


class TestWhoseItIs:
    @pytest.fixture
    def device(self, driver):
        driver.gpus[0].processes = {4000: GIB // 2}
        return open_device("cuda")

    @pytest.fixture
    def after(self, driver, device):
        """What is said after a trial in which the processes on the device became these."""

        def after(processes, own, *, used_gib=6):
            baseline = device.read()
            driver.gpus[0].processes = processes
            driver.gpus[0].used_bytes = used_gib * GIB
            return wait(device, baseline, own, tolerance=64 << 20)

        return after

    def test_a_process_of_ours_that_stays_stops_the_bench(self, after):
        own = Own(pids=frozenset({4711, 4712}), is_listed=True)
        with pytest.raises(OrphanError, match=r"held by process 4711$"):
            after({4000: GIB // 2, 4711: 5 * GIB}, own)

    @pytest.mark.parametrize("pids", [{1}, set()])
    def test_one_of_somebody_else_that_came_is_no_orphan(self, after, pids):
        own = Own(pids=frozenset(pids), is_listed=True, held_bytes=(5 * GIB,))
        assert after({4000: GIB // 2, 4711: 5 * GIB}, own) is None

    def test_nor_where_its_bytes_are_not_told(self, after):
        own = Own(pids=frozenset({1}), is_listed=True, held_bytes=(5 * GIB,))
        assert "5.00 GiB are not back" in after({4000: GIB // 2, 4711: None}, own)

    def test_nor_where_none_of_ours_was_ever_listed(self, after):
        assert "5.00 GiB are not back" in after({4711: 5 * GIB}, NOBODY)

    def test_one_that_grew_is_no_orphan(self, after):
        assert after({4000: 11 * GIB // 2}, NOBODY) is None

    def test_under_the_hosts_numbers_one_that_came_may_be_ours(self, after):
        own = Own(pids=frozenset({7}), is_listed=False, held_bytes=(5 * GIB,))
        with pytest.raises(OrphanError, match="as much as was held by servers"):
            after({4000: GIB // 2, 4711: 5 * GIB}, own)
