"""What engines know of devices: which they run on, and torch's own total of each."""

import json

import pytest

from objectives.device.cuda import all_devices
from objectives.device.discovery import open_device
from objectives.device.lock import FOLDER_VARIABLE, hold_device
from objectives.servers import probe
from study.engines import __main__ as command
from study.engines.__main__ import main
from study.engines.devices import asked_of, keep_total, objection_of, with_known_total
from study.engines.find import ENGINE_VARIABLE
from tests.fakes import machines
from tests.fakes.engine import write_engine
from tests.fakes.fake_nvml import GIB
from tests.study.engines.stand_ins import FakeDevice

pytestmark = pytest.mark.usefixtures("home")

TORCH = int(11.63 * GIB)


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with machines.two_unlike_cards().installed() as driver:
        yield driver


def cuda_engine(folder, **more):
    """A vLLM whose torch has kernels from 7.5 on."""
    return write_engine(folder / "engine", cuda=True, **more)


class TestTheTotal:
    def test_that_torch_saw_is_the_devices_from_then_on(self, machine):
        device = all_devices()[0][1]
        keep_total(device, {"total_bytes": TORCH})
        again = with_known_total(all_devices()[0][1])
        assert again.read().server_total_bytes == TORCH
        assert again.read().total_bytes == 12 * GIB, "the driver's own is still known"

    def test_is_the_drivers_less_its_reserve_where_nobody_asked(self, machine):
        state = with_known_total(all_devices()[0][1]).read()
        assert state.server_total_bytes == 12 * GIB - (200 << 20)

    def test_is_of_that_card_and_that_driver_only(self, machine):
        keep_total(all_devices()[0][1], {"total_bytes": TORCH})
        assert with_known_total(all_devices()[0][0]).read().cuda_total_bytes is None
        machine.driver = "590.44.01"
        assert with_known_total(all_devices()[0][1]).read().cuda_total_bytes is None

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"driver": "580.65.06"}'])
    def test_that_cannot_be_read_is_not_known(self, machine, home, text):
        keep_total(all_devices()[0][1], {"total_bytes": TORCH})
        (file,) = (home / "devices").iterdir()
        file.write_text(text)
        assert with_known_total(all_devices()[0][1]).read().cuda_total_bytes is None

    @pytest.mark.parametrize("seen", [{}, {"total_bytes": None}, {"total_bytes": "many"}])
    def test_that_torch_did_not_tell_is_not_kept(self, machine, home, seen):
        keep_total(all_devices()[0][1], seen)
        assert not (home / "devices").exists()

    def test_of_a_cpu_is_its_own(self, home):
        keep_total(FakeDevice(), {"total_bytes": TORCH})
        assert not (home / "devices").exists()

    def test_is_kept_by_a_check(self, machine, tmp_path, capsys):
        python = cuda_engine(tmp_path)
        seen = f'"device": "DEVICE", "uuid": "{machines.RTX_3060}", "total_bytes": {TORCH}'
        python.write_text(python.read_text().replace('"device": "DEVICE"', seen))
        argv = ["check", "--engine", str(python), "--device", machines.RTX_3060, "--json"]
        assert main(argv) == 0
        assert json.loads(capsys.readouterr().out)["ok"]
        assert with_known_total(all_devices()[0][1]).read().cuda_total_bytes == TORCH


class TestAStudyAsks:
    @pytest.fixture
    def engine(self, tmp_path, monkeypatch):
        monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "locks"))

        def made(uuid, **more):
            python = cuda_engine(tmp_path, **more)
            seen = f'"device": "DEVICE", "uuid": "{uuid}", "total_bytes": {TORCH}'
            python.write_text(python.read_text().replace('"device": "DEVICE"', seen))
            return probe(python)

        return made

    def test_once_for_each_card_and_driver(self, machine, engine):
        said = []
        first = asked_of(engine(machines.RTX_3060), all_devices()[0][1], log=said.append)
        assert first.read().server_total_bytes == TORCH
        assert len(said) == 1
        again = asked_of(engine(machines.RTX_3060), all_devices()[0][1], log=said.append)
        assert again.read().server_total_bytes == TORCH
        assert len(said) == 1

    def test_and_says_what_is_strange_before_a_trial_meets_it(self, machine, engine, home):
        said = []
        asked_of(engine(machines.GTX_1080_TI), all_devices()[0][1], log=said.append)
        assert said[1].startswith("check: torch sees")
        assert f"{machines.GTX_1080_TI} where NVIDIA GeForce RTX 3060" in said[1]
        assert not (home / "devices").exists(), "the total of another card is not this one's"

    def test_not_while_another_study_measures_there(self, machine, engine):
        said = []
        device = all_devices()[0][1]
        with hold_device(device, study="dream"):
            asked = asked_of(engine(machines.RTX_3060), device, log=said.append)
        assert asked.read().cuda_total_bytes is None
        (line,) = said
        assert "study dream" in line

    def test_no_cpu(self):
        device = FakeDevice()
        assert asked_of(None, device, log=pytest.fail) is device


class TestTheCardThatIsTaken:
    def test_is_the_first_that_the_engine_runs_on(self, machine, tmp_path, monkeypatch):
        monkeypatch.setenv(ENGINE_VARIABLE, str(cuda_engine(tmp_path)))
        device = open_device("auto", objection_of())
        assert device.uuid == machines.RTX_3060
        (reason,) = device.passed_over
        assert reason.startswith("cuda:0 NVIDIA GeForce GTX 1080 Ti: ")
        assert "compute capability 6.1" in reason

    def test_is_the_first_that_an_engine_could_be_built_for_where_none_is_there(self, machine):
        device = open_device("auto", objection_of())
        assert device.uuid == machines.RTX_3060
        assert "6.1" in device.passed_over[0]

    def test_is_the_first_of_all_where_the_named_engine_is_not_there(self, machine):
        assert open_device("auto", objection_of("/nowhere")).uuid == machines.GTX_1080_TI

    def test_is_checked_by_the_command_too(self, machine, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv(ENGINE_VARIABLE, str(cuda_engine(tmp_path)))
        assert command.main(["show", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["device"]["uuid"] == machines.RTX_3060
