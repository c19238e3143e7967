"""What torch's allocator is told: a default where it helps, and a person's own choice."""

import pynvml
import pytest

from objectives.candidate import ServerSettings
from objectives.device.cpu import CpuNode
from objectives.device.cuda import CudaDevice, all_devices
from objectives.kinds.allocator import EXPANDABLE, NEW_NAME, OLD_NAME, allocator_environment
from tests.fakes import machines
from tests.fakes.fake_machine import FakeMachine
from tests.fakes.fake_nvml import FakeGpu, FakeNvml
from tests.kinds import VLLM, WHISPER
from tests.objectives.kinds.test_kind import gpu_of, launched

GROWS = {OLD_NAME: EXPANDABLE}


def told(device, *, env=None, exported=None, **args):
    options = {name.replace("_", "-"): value for name, value in args.items()}
    settings = ServerSettings(model="m", device="cuda", args=options, env=env or {})
    return allocator_environment(settings, device, exported or {})


@pytest.fixture
def gpu():
    with gpu_of(FakeGpu()) as device:
        yield device


def test_on_a_whole_gpu_segments_grow(gpu):
    assert told(gpu) == GROWS


def test_on_a_cpu_nothing_is_told():
    assert told(CpuNode(), exported={OLD_NAME: "max_split_size_mb:64"}) == {}


@pytest.mark.parametrize(
    "args",
    [
        {"enable_sleep_mode": True},
        {"enable_cumem_allocator": True},
        {"kv_transfer_config": '{"kv_connector": "LMCacheConnectorV1"}'},
        {"kv_offloading_size": 8},
    ],
)
def test_an_option_that_fails_with_them_goes_without(gpu, args):
    assert told(gpu, **args) == {}
    (name,) = args
    spelt = ServerSettings(model="m", device="cuda", args=args)
    assert allocator_environment(spelt, gpu, {}) == {}, "underscores are dashes"
    assert told(gpu, **{name: None}) == GROWS
    assert told(gpu, **{name: False}) == GROWS


def test_on_wsl2_nothing_is_told(tmp_path):
    FakeMachine(tmp_path).write("dev/dxg", "")
    with machines.wsl2().installed():
        device = CudaDevice(pynvml.nvmlDeviceGetHandleByIndex(0), 0, root=tmp_path)
        assert told(device) == {}


@pytest.mark.parametrize(
    "gpu",
    [
        FakeGpu(mig=True),
        FakeGpu(virtualization=pynvml.NVML_GPU_VIRTUALIZATION_MODE_VGPU),
    ],
    ids=["mig", "vgpu"],
)
def test_on_a_part_of_a_gpu_nothing_is_told(gpu):
    with FakeNvml(gpu).installed():
        assert told(all_devices()[0][0]) == {}


def test_a_gpu_that_is_passed_through_whole_is_one():
    passed = FakeGpu(virtualization=pynvml.NVML_GPU_VIRTUALIZATION_MODE_PASSTHROUGH)
    with gpu_of(passed) as device:
        assert told(device) == GROWS


@pytest.mark.parametrize("name", [OLD_NAME, NEW_NAME])
class TestAPersonsChoice:
    def test_in_the_servers_settings_stands_alone(self, gpu, name):
        assert told(gpu, env={name: "x:1"}) == {}
        assert told(gpu, env={name: "x:1"}, exported={OLD_NAME: "y:1", NEW_NAME: "y:1"}) == {}

    def test_that_was_exported_is_handed_on(self, gpu, name):
        assert told(gpu, exported={name: "x:1"}) == {name: "x:1"}
        assert told(gpu, exported={name: ""}) == {name: ""}, "an empty choice is one"

    @pytest.mark.parametrize("kind", [VLLM, WHISPER], ids=lambda kind: kind.name)
    def test_reaches_the_server(self, gpu, name, kind, tmp_path, monkeypatch):
        for each in (OLD_NAME, NEW_NAME):
            monkeypatch.delenv(each, raising=False)
        settings = ServerSettings(model="tiny", device="cuda")
        assert launched(kind, tmp_path, settings, device=gpu).env[OLD_NAME] == EXPANDABLE
        monkeypatch.setenv(name, "x:1")
        env = launched(kind, tmp_path, settings, device=gpu).env
        assert {n: env[n] for n in (OLD_NAME, NEW_NAME) if n in env} == {name: "x:1"}
        own = ServerSettings(model="tiny", device="cuda", env={OLD_NAME: "z:1"})
        env = launched(kind, tmp_path, own, device=gpu).env
        assert (env[OLD_NAME], NEW_NAME in env) == ("z:1", False)
