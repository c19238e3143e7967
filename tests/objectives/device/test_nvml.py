import pynvml
import pytest

from objectives.device import nvml
from objectives.errors import BenchError
from tests.fakes.fake_nvml import FakeGpu, FakeNvml


def test_a_machine_without_the_library_is_told_from_one_without_devices(monkeypatch):
    def no_such_file(name):
        raise OSError(name)

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", no_such_file)
    with pytest.raises(nvml.NoNvmlError, match="Not Found"):
        nvml.start()


def test_a_library_without_its_driver_says_so():
    with FakeNvml().installed() as driver:
        driver.refused["nvmlInitWithFlags"] = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
        with pytest.raises(nvml.NoNvmlError, match="Driver Not Loaded"):
            nvml.start()


@pytest.mark.parametrize(
    "code",
    [
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_UNKNOWN,
    ],
)
def test_what_a_driver_does_not_tell_is_none(code):
    with FakeNvml(FakeGpu()).installed() as driver:
        nvml.start()
        driver.refused["nvmlDeviceGetCount_v2"] = code
        assert nvml.query(pynvml.nvmlDeviceGetCount) is None


def test_a_function_that_an_old_driver_lacks_is_none():
    with FakeNvml(FakeGpu()).installed() as driver:
        driver.missing.add("nvmlDeviceGetCount_v2")
        nvml.start()
        assert nvml.query(pynvml.nvmlDeviceGetCount) is None


def test_a_lost_device_breaks_the_bench():
    with FakeNvml(FakeGpu()).installed() as driver:
        nvml.start()
        driver.refused["nvmlDeviceGetCount_v2"] = pynvml.NVML_ERROR_GPU_IS_LOST
        with pytest.raises(BenchError, match="nvmlDeviceGetCount: GPU is lost"):
            nvml.query(pynvml.nvmlDeviceGetCount)


def test_the_fake_rests_on_a_private_name_of_pynvml_that_is_still_there():
    assert isinstance(pynvml._nvmlGetFunctionPointer_cache, dict)
