"""The device is asked what it gives in one piece: by a process on a driver that is not there, while
NVML, which is not there either, says what is free and who is under load."""

import pynvml
import pytest

from objectives.device import allocation as module
from objectives.device.allocation import NOISE_BYTES, LargestAllocation, largest_allocation
from objectives.device.cpu import CpuNode
from objectives.device.cuda import all_devices
from objectives.units import GIB, MIB
from tests.fakes.fake_machine import FakeMachine
from tests.fakes.fake_nvml import FakeGpu, FakeNvml
from tests.objectives.workers.fake_driver import GPU, FakeDevice

TOTAL = 12 * GIB


@pytest.fixture
def driver():
    with FakeNvml(FakeGpu(uuid=GPU, busy_percent=0)).installed() as fake:
        yield fake


@pytest.fixture
def ask(driver, tmp_path, monkeypatch):
    """Ask a device whose free memory lies in these pieces, MiB; NVML counts them before a context
    costs anything."""

    def ask(*pieces, leave_mib=0, **more):
        driver.gpus[0].used_bytes = TOTAL - sum(pieces) * MIB
        asked.append(FakeDevice(tmp_path, pieces=pieces, **more))
        for name, value in asked[-1].env.items():
            monkeypatch.setenv(name, value)
        (device,), _ = all_devices()
        device.root = tmp_path
        return largest_allocation(device, leave_bytes=leave_mib * MIB)

    asked = []
    ask.was_started = lambda: asked[-1].ended is not None
    return ask


def test_a_device_in_one_piece_gives_all_but_a_context_and_what_must_stay_free(ask):
    assert ask(9000, context=300, leave_mib=256) == LargestAllocation(
        granted_bytes=8444 * MIB,
        asked_bytes=8444 * MIB,
        free_bytes=8700 * MIB,
        context_bytes=300 * MIB,
    )


def test_a_device_in_pieces_gives_its_largest(ask):
    found = ask(2000, 3000, 1000, context=300)
    assert found.granted_bytes == 3000 * MIB
    assert found.refused_bytes == 3002 * MIB
    assert found.free_bytes == found.asked_bytes == 5700 * MIB
    assert found.is_fragmented


def test_a_piece_or_two_that_page_tables_take_is_no_fragmentation(ask):
    found = ask(4000, 100)
    assert found.granted_bytes == 4000 * MIB
    assert found.is_fragmented is False


@pytest.mark.parametrize(
    ("asked", "granted", "refused", "verdict"),
    [
        (None, None, None, None),
        (4 * GIB, 4 * GIB, None, False),
        (4 * GIB, 4 * GIB - NOISE_BYTES, 4 * GIB - NOISE_BYTES + 2 * MIB, False),
        (4 * GIB, 1 * GIB, 1 * GIB + 2 * MIB, True),
        (4 * GIB, 0, 4 * GIB, None),
        (4 * GIB, 0, 2 * GIB, True),
    ],
    ids=["not asked", "whole", "noise", "in pieces", "cut short", "cut short, and surely"],
)
def test_a_verdict_needs_a_search_that_knows(asked, granted, refused, verdict):
    found = LargestAllocation(asked_bytes=asked, granted_bytes=granted, refused_bytes=refused)
    assert found.is_fragmented is verdict


class TestWhereItWouldDisturb:
    def refused(self, ask, *pieces, **more):
        found = ask(*(pieces or (9000,)), **more)
        assert not ask.was_started()
        assert found == LargestAllocation(why_not=found.why_not)
        return found.why_not

    @pytest.mark.parametrize(
        ("free_mib", "leave_mib", "is_asked"),
        [(1024, 0, True), (1023, 0, False), (1279, 256, False), (1280, 256, True)],
    )
    def test_with_too_little_free_nobody_is_crowded(self, ask, free_mib, leave_mib, is_asked):
        if is_asked:
            assert ask(free_mib, leave_mib=leave_mib).granted_bytes is not None
        else:
            said = self.refused(ask, free_mib, leave_mib=leave_mib)
            assert said.startswith(f"not asked: only {free_mib / 1024:.2f} GiB are free")

    def test_wsl_grants_what_is_not_there(self, ask, tmp_path):
        FakeMachine(tmp_path).write("dev/dxg", "")
        assert "WSL2" in self.refused(ask)

    @pytest.mark.parametrize("mode", [1, 2, 3])
    def test_no_other_compute_mode_lets_it_in(self, ask, driver, mode):
        driver.gpus[0].compute_mode = mode
        assert "compute mode " in self.refused(ask)

    def test_a_split_device_is_left_alone(self, ask, driver):
        driver.gpus[0].mig = True
        assert "split by MIG" in self.refused(ask)

    def test_another_tenant_under_load_is_left_alone(self, ask, driver, monkeypatch):
        monkeypatch.setattr(module, "_QUIET_S", 0.0)
        driver.gpus[0].busy_percent = 37
        said = self.refused(ask)
        assert said == "not asked: another tenant is under load, the device is 37% busy"

    def test_a_load_that_ends_soon_is_waited_for(self, ask, driver, monkeypatch):
        driver.gpus[0].busy_percent = 37
        monkeypatch.setattr(
            module.time, "sleep", lambda _: setattr(driver.gpus[0], "busy_percent", 5)
        )
        assert ask(9000).granted_bytes == 9000 * MIB

    def test_where_nobody_tells_the_load_it_is_not_asked(self, ask, driver):
        driver.refused["nvmlDeviceGetUtilizationRates"] = pynvml.NVML_ERROR_NOT_SUPPORTED
        assert "does not tell whether another tenant is under load" in self.refused(ask)


class TestNoFigureIsMadeUp:
    def test_on_a_cpu_nothing_is_told(self):
        found = largest_allocation(CpuNode(), leave_bytes=0)
        assert found.why_not.startswith("not told on a CPU: the kernel grants address space")
        assert found == LargestAllocation(why_not=found.why_not)
        assert found.is_fragmented is None

    def test_of_another_device_it_is_no_figure(self, ask):
        other = GPU.replace("1", "2")
        found = ask(9000, number=other)
        assert found == LargestAllocation(why_not=f"the probe was shown {other}, not {GPU}")

    def test_memory_that_moved_meanwhile_is_no_figure(self, ask):
        found = ask(9000, moves=1)
        assert found == LargestAllocation(why_not="others moved 0.50 GiB while it was asked for")

    def test_the_drivers_own_word_is_the_reason(self, ask):
        found = ask(800, 800, context=900)
        assert found.why_not == (
            "largest_allocation: cuDevicePrimaryCtxRetain: CUDA_ERROR_OUT_OF_MEMORY (2)"
        )

    def test_a_driver_that_hangs_is_not_waited_for(self, ask, monkeypatch):
        monkeypatch.setattr(module, "_ANSWER_S", 0.3)
        found = ask(9000, hangs=1)
        assert found == LargestAllocation(why_not="the driver did not answer in time")

    def test_a_driver_that_hangs_and_says_nothing_is_the_same(self, ask, monkeypatch):
        monkeypatch.setattr(module.workers, "LARGEST_ALLOCATION", "/dev/null")
        assert ask(9000).why_not == "the driver did not answer in time"

    def test_a_context_that_cannot_be_told_from_what_others_gave_back_is_not_told(
        self, ask, driver
    ):
        def answer(*args):
            return {**told(*args), "free_bytes": 9100 * MIB, "free_after": 9100 * MIB}

        told = module._ask
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_ask", answer)
            assert ask(9000).context_bytes is None


class TestMemoryIsBack:
    @pytest.fixture
    def taken(self, driver, monkeypatch):
        """Somebody takes memory as the probe answers."""

        def taken(size_mib):
            def answer(*args):
                driver.gpus[0].used_bytes += size_mib * MIB
                return told(*args)

            told = module._ask
            monkeypatch.setattr(module, "_ask", answer)
            monkeypatch.setattr(module, "_BACK_S", 0.0)

        return taken

    def test_a_little_less_is_noise(self, ask, taken):
        taken(128)
        assert ask(9000).granted_bytes == 9000 * MIB

    def test_what_others_took_is_no_figure_and_no_end_of_the_trial(self, ask, taken):
        taken(129)
        found = ask(9000)
        assert found.granted_bytes is None
        assert found.why_not.startswith("others took memory while it was asked for: NVIDIA GeForce")
