import json
import os

import pynvml
import pytest

from objectives.device.cuda import CudaDevice, all_devices, visible_devices
from objectives.errors import BenchError, UsageError
from tests.fakes import machines
from tests.fakes.fake_machine import FakeMachine
from tests.fakes.fake_nvml import GIB, FakeGpu, FakeNvml

FIRST = "GPU-aaaaaaaa-0000-0000-0000-000000000000"
SECOND = "GPU-bbbbbbbb-0000-0000-0000-000000000000"


@pytest.fixture
def driver():
    with FakeNvml(FakeGpu(uuid=FIRST), FakeGpu(uuid=SECOND, name="Other")).installed() as fake:
        yield fake


@pytest.fixture
def device(driver):
    return all_devices()[0][0]


def test_a_device_is_known_by_name_uuid_and_place_on_the_bus(device):
    assert (device.kind, device.index) == ("cuda", 0)
    assert device.uuid == FIRST
    assert device.name == "NVIDIA GeForce RTX 3060"
    assert device.total_bytes == 12 * GIB


def test_used_is_what_is_not_free_whatever_the_driver_calls_used(device):
    state = device.read()
    assert (state.total_bytes, state.free_bytes, state.used_bytes) == (12 * GIB, 11 * GIB, GIB)
    assert state.reserved_bytes == 200 << 20


def test_an_old_driver_without_the_second_memory_call_is_asked_by_the_first(driver, device):
    driver.missing.add("nvmlDeviceGetMemoryInfo_v2")
    pynvml._nvmlGetFunctionPointer_cache.clear()
    state = device.read()
    assert state.used_bytes == GIB
    assert state.reserved_bytes is None


def test_a_device_that_tells_no_memory_at_all_breaks_the_bench(driver, device):
    driver.refused["nvmlDeviceGetMemoryInfo"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    driver.refused["nvmlDeviceGetMemoryInfo_v2"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    with pytest.raises(BenchError, match="does not tell the device's memory"):
        device.read()


def test_a_device_that_fell_off_the_bus_breaks_the_bench(driver, device):
    driver.refused["nvmlDeviceGetMemoryInfo_v2"] = pynvml.NVML_ERROR_GPU_IS_LOST
    with pytest.raises(BenchError, match="nvmlDeviceGetMemoryInfo") as lost:
        device.read()
    assert lost.value.cause == "device_fault"


def test_compute_graphics_and_mps_processes_are_one_list(driver, device):
    driver.gpus[0].processes = {10: 3 * GIB}
    driver.gpus[0].graphics = {11: GIB // 2}
    driver.gpus[0].mps_clients = {12: GIB}
    assert device.read().by_pid == {10: 3 * GIB, 11: GIB // 2, 12: GIB}


def test_a_process_in_two_lists_is_counted_once(driver, device):
    driver.gpus[0].processes = {10: 3 * GIB, 11: None}
    driver.gpus[0].graphics = {10: 3 * GIB, 11: GIB}
    assert device.read().by_pid == {10: 3 * GIB, 11: GIB}


def test_process_memory_that_the_driver_keeps_to_itself_is_none_not_zero(driver, device):
    driver.gpus[0].processes = {10: None, 11: 0}
    assert device.read().by_pid == {10: None, 11: None}


def test_a_driver_without_process_lists_gives_an_empty_one(driver, device):
    for kind in ("Compute", "Graphics", "MPSCompute"):
        name = f"nvmlDeviceGet{kind}RunningProcesses_v3"
        driver.refused[name] = pynvml.NVML_ERROR_NOT_SUPPORTED
    assert device.read().by_pid == {}
    assert device.describe()["pids"] == "none listed"


def test_activity_is_in_shares_watts_joules_and_degrees(driver, device):
    driver.gpus[0].slowed_bits = (
        pynvml.nvmlClocksEventReasonGpuIdle
        | pynvml.nvmlClocksEventReasonSwPowerCap
        | pynvml.nvmlClocksEventReasonHwThermalSlowdown
    )
    activity = device.activity()
    assert activity.utilisation == pytest.approx(0.37)
    assert activity.power_w == pytest.approx(120.5)
    assert activity.energy_j == pytest.approx(5000)
    assert activity.temperature_c == 61
    assert activity.slowed_by == ("power_cap", "hardware_thermal")


def test_activity_that_is_not_supported_is_none(driver, device):
    for name in ("UtilizationRates", "PowerUsage", "TotalEnergyConsumption", "Temperature"):
        driver.refused[f"nvmlDeviceGet{name}"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    activity = device.activity()
    assert activity.utilisation is activity.power_w is activity.energy_j is None
    assert activity.temperature_c is None


def test_an_older_driver_is_asked_for_slowdowns_by_their_older_name(driver, device):
    driver.missing.add("nvmlDeviceGetCurrentClocksEventReasons")
    driver.gpus[0].slowed_bits = pynvml.nvmlClocksThrottleReasonHwSlowdown
    assert device.activity().slowed_by == ("hardware_slowdown",)


def test_a_description_can_be_stored_as_json_and_read_by_people(driver, device):
    driver.gpus[0].processes = {os.getpid(): GIB}
    facts = json.loads(json.dumps(device.describe()))
    assert facts["driver"] == "580.65.06"
    assert facts["cuda_driver"] == "13.0"
    assert facts["compute_capability"] == "8.6"
    assert facts["power_limit_w"] == 170
    assert facts["mig"] is None  # this card knows no MIG
    assert facts["ecc"] is None  # nor ECC
    assert facts["persistence"] is True
    assert facts["compute_mode"] == "default"
    assert facts["clocks_mhz"]["sm"] == 1777
    assert facts["pids"] == "of this namespace"


def test_process_ids_of_another_namespace_are_told_from_ours(driver, device):
    driver.gpus[0].processes = {2**22 + 1: GIB}  # beyond the largest process id there can be
    assert device.describe()["pids"] == "of another namespace"


def test_a_server_is_given_a_number_that_every_vllm_can_read(device):
    assert device.environment() == {
        "CUDA_VISIBLE_DEVICES": "0",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


@pytest.mark.parametrize("version", machines.DRIVERS)
def test_a_server_sees_this_device_and_no_other_where_cuda_counts_otherwise(version):
    with machines.two_unlike_cards(version).installed() as driver:
        for device in all_devices()[0]:
            (seen,) = machines.cuda_shows(driver, device.environment())
            assert seen.uuid == device.uuid
        wrong = machines.cuda_shows(driver, {"CUDA_VISIBLE_DEVICES": "0"})
        assert wrong[0].uuid != all_devices()[0][0].uuid, "else this machine proves nothing"


@pytest.mark.parametrize(("version", "cuda"), [("550.163.01", "12.4"), ("590.44.01", "13.1")])
def test_every_driver_is_described_with_the_cuda_that_it_runs(version, cuda):
    with machines.on_driver(version).installed():
        facts = all_devices()[0][0].describe()
    assert (facts["driver"], facts["cuda_driver"]) == (version, cuda)


def test_an_old_driver_that_keeps_its_reserve_to_itself_is_taken():
    with machines.first_memory_call_only().installed():
        device = all_devices()[0][0]
        assert device.refusal() is None
        assert device.read().reserved_bytes is None


class TestOnWsl2:
    @pytest.fixture
    def device(self, tmp_path):
        FakeMachine(tmp_path).write("dev/dxg", "")
        with machines.wsl2().installed():
            yield CudaDevice(pynvml.nvmlDeviceGetHandleByIndex(0), 0, root=tmp_path)

    def test_it_is_taken_with_a_doubt_about_what_stays_on_the_device(self, device):
        assert device.refusal() is None
        assert device.describe()["wsl"] is True
        (doubt,) = device.doubts()
        assert "Windows decides what stays on the device" in doubt

    def test_processes_whose_memory_windows_keeps_to_itself_are_of_unknown_size(self, device):
        assert device.read().by_pid == {22: None}


def test_elsewhere_nothing_speaks_against_every_figure(device):
    assert device.doubts() == ()


def test_a_device_split_by_mig_is_refused_with_the_way_out(driver, device):
    driver.gpus[0].mig = True
    assert "nvidia-smi -mig 0" in device.refusal()
    assert device.describe()["mig"] is True


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (machines.gb10, "CPU and GPU share theirs (GB10, Jetson)"),
        (machines.mig_container, "a container that was given a MIG slice"),
        (machines.mig_parent, "split by MIG"),
    ],
)
def test_a_device_that_cannot_be_shared_by_fractions_is_refused_in_one_line(machine, words):
    with machine().installed():
        reason = all_devices()[0][0].refusal()
    assert words in reason
    assert "\n" not in reason


def test_memory_that_is_not_told_for_another_reason_is_refused_too(driver, device):
    driver.gpus[0].refused = machines.refusing(machines.MEMORY, pynvml.NVML_ERROR_UNKNOWN)
    assert device.refusal().startswith("the driver does not tell its memory")


def test_a_device_that_could_be_split_but_is_not_is_taken(driver, device):
    driver.gpus[0].mig = False
    assert device.refusal() is None


def test_compute_modes_that_keep_a_second_server_out_are_refused(driver, device):
    driver.gpus[0].compute_mode = 2
    assert "Prohibited" in device.refusal()
    driver.gpus[0].compute_mode = 3
    assert "only one process" in device.refusal()


def test_under_mps_one_process_at_a_time_is_many(driver, device, tmp_path, monkeypatch):
    driver.gpus[0].compute_mode = 3
    (tmp_path / "control").touch()
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert device.refusal() is None
    assert device.describe()["mps"] is True


@pytest.mark.parametrize(
    ("variable", "uuids"),
    [
        (None, [FIRST, SECOND]),
        ("1", [SECOND]),
        ("1,0", [SECOND, FIRST]),
        ("GPU-bbbb", [SECOND]),
        ("", []),
        ("-1", []),
        ("0,7,1", [FIRST]),  # CUDA stops at the first name that it does not know
    ],
)
def test_the_visible_devices_are_those_that_cuda_would_show(driver, monkeypatch, variable, uuids):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert [device.uuid for device in visible_devices()[0]] == uuids


class TestANumberInTheEnvironment:
    @pytest.fixture
    def chosen(self, monkeypatch):
        def chosen(machine, **environment):
            for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
                monkeypatch.delenv(name, raising=False)
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            with machine.installed():
                return visible_devices()[0][0]

        return chosen

    def test_is_said_aloud_where_the_cards_differ(self, chosen):
        device = chosen(machines.two_unlike_cards(), CUDA_VISIBLE_DEVICES="1")
        assert device.uuid == machines.RTX_3060
        (note,) = device.notes
        assert note.startswith("CUDA_VISIBLE_DEVICES=1 was read in the order of the PCI bus: ")
        assert "NVIDIA GeForce RTX 3060 (number 1 by PCI bus, GPU-3060" in note
        assert f"device: {machines.RTX_3060}" in note

    @pytest.mark.parametrize(
        "environment",
        [
            {},
            {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
            {"CUDA_VISIBLE_DEVICES": "GPU-3060"},
        ],
    )
    def test_needs_no_word_where_it_can_mean_one_card_only(self, chosen, environment):
        assert chosen(machines.two_unlike_cards(), **environment).notes == ()

    def test_needs_no_word_where_all_cards_are_alike(self, chosen):
        twins = FakeNvml(FakeGpu(uuid=FIRST), FakeGpu(uuid=SECOND))
        assert chosen(twins, CUDA_VISIBLE_DEVICES="1").notes == ()

    def test_counts_for_cuda_as_it_counts_for_us_where_the_order_is_set(self, chosen):
        machine = machines.two_unlike_cards()
        order = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        assert chosen(machine, **order).uuid == machines.cuda_shows(machine, order)[0].uuid


def test_a_mig_slice_in_the_environment_is_refused(driver, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1234")
    with pytest.raises(UsageError, match="MIG slice"):
        visible_devices()


def test_a_device_that_does_not_answer_is_passed_over_with_the_reason(driver):
    driver.refused["nvmlDeviceGetUUID"] = pynvml.NVML_ERROR_GPU_IS_LOST
    found, broken = all_devices()
    assert found == []
    assert broken[0].startswith("cuda:0: nvmlDeviceGetUUID")
