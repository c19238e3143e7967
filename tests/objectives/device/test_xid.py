import pynvml
import pytest

from objectives.device.cpu import CpuNode
from objectives.device.cuda import all_devices
from objectives.device.xid import XidWatch, device_faults
from objectives.errors import BenchError
from tests.fakes.fake_nvml import FakeGpu, FakeNvml

XID = pynvml.nvmlEventTypeXidCriticalError


@pytest.fixture
def driver():
    with FakeNvml(FakeGpu()).installed() as fake:
        yield fake


@pytest.fixture
def device(driver):
    return all_devices()[0][0]


def test_xids_are_collected_in_order_while_the_watch_stands(driver, device):
    with XidWatch(device) as watch:
        assert watch.supported
        assert watch.seen() == ()
        driver.gpus[0].events.append((XID, 31))
        assert watch.seen() == (31,)
        driver.gpus[0].events.append((XID, 79))
    assert watch.seen() == (31, 79)


def test_what_happened_before_the_watch_is_not_seen(driver, device):
    driver.gpus[0].events.append((XID, 48))
    with XidWatch(device) as watch:
        pass
    assert watch.seen() == ()


def test_other_events_are_no_xids(driver, device):
    with XidWatch(device) as watch:
        driver.gpus[0].events.append((pynvml.nvmlEventTypePState, 2))
    assert watch.seen() == ()


def test_leaving_the_block_gives_the_event_set_back(driver, device):
    with XidWatch(device):
        assert driver.open_event_sets == 1
    assert driver.open_event_sets == 0


@pytest.mark.parametrize(
    "name", ["nvmlEventSetCreate", "nvmlDeviceGetSupportedEventTypes", "nvmlDeviceRegisterEvents"]
)
def test_a_driver_without_events_gives_no_evidence(driver, device, name):
    driver.refused[name] = pynvml.NVML_ERROR_NOT_SUPPORTED
    with XidWatch(device) as watch:
        assert not watch.supported
    assert watch.seen() == ()


def test_a_device_that_offers_other_events_only_gives_no_evidence(driver, device):
    driver.gpus[0].event_types = pynvml.nvmlEventTypePState
    with XidWatch(device) as watch:
        assert not watch.supported


def test_a_cpu_gives_no_evidence():
    with XidWatch(CpuNode()) as watch:
        assert not watch.supported
    assert watch.seen() == ()


def test_a_device_that_is_lost_meanwhile_breaks_the_bench_but_not_the_way_out(driver, device):
    with XidWatch(device) as watch:
        driver.gpus[0].events.append((XID, 79))
        watch.seen()
        driver.refused["nvmlEventSetWait_v2"] = pynvml.NVML_ERROR_GPU_IS_LOST
        with pytest.raises(BenchError, match="nvmlEventSetWait") as lost:
            watch.seen()
        assert lost.value.cause == "device_fault"
        assert watch.xids == (79,), "what it said before is kept"
    assert driver.open_event_sets == 0


def test_faults_of_a_program_do_not_speak_against_the_device():
    assert device_faults((13, 31, 43, 45)) == ()
    assert device_faults((31, 79, 48)) == (79, 48)
