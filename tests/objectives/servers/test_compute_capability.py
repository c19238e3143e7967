"""Which compiled kernels run on which GPU, as CUDA promises it."""

import pytest

from objectives.servers.compute_capability import Gpu, dotted, sm, spoken, supports

PYPI_TORCH_2_8 = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")
PYPI_TORCH_2_7 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")


class TestWhichKernelsRunWhere:
    @pytest.mark.parametrize(
        ("architectures", "capability", "runs"),
        [
            (PYPI_TORCH_2_8, (6, 1), False),  # GTX 1080 Ti
            (PYPI_TORCH_2_7, (6, 1), True),  # sm_60 code runs on sm_61
            (PYPI_TORCH_2_8, (8, 6), True),  # RTX 3060
            (PYPI_TORCH_2_8, (8, 9), True),  # RTX 4090: sm_86 code runs there
            (PYPI_TORCH_2_8, (12, 1), True),
            (("sm_86",), (8, 0), False),  # not downwards
            (("sm_90a",), (9, 0), True),
            (("sm_90a",), (9, 1), False),  # "a" code runs nowhere else
            (("sm_100f",), (10, 3), True),  # "f" code runs in its family
            (("compute_80",), (9, 0), True),  # PTX is compiled for what is newer
            (("compute_80",), (7, 5), False),
            ((), (8, 6), True),  # nothing known is no objection
            (("gfx90a",), (8, 6), False),
        ],
    )
    def test_as_cuda_promises(self, architectures, capability, runs):
        assert supports(architectures, capability) is runs

    def test_spoken_as_people_write_them(self):
        assert spoken(("sm_90a", "sm_75", "compute_120", "sm_75")) == "7.5, 9.0, 12.0"


def test_a_capability_is_written_for_people_and_for_compilers():
    assert (dotted((12, 0)), sm((12, 0))) == ("12.0", "sm_120")


class TestWhichDriverRunsWhat:
    @pytest.mark.parametrize(
        ("driver", "cuda", "major", "runs"),
        [
            ("550.163.01", (12, 4), 12, True),
            ("550.163.01", (12, 4), 13, False),
            ("580.65.06", (13, 0), 13, True),
            ("590.10", (13, 1), 12, True),  # older ones run on newer drivers
            ("550.163.01", (13, 0), 13, True),  # a compatibility library
            ("550.163.01", None, 13, False),
            ("580.65.06", None, 13, True),
            ("470.256.02", None, 12, False),
            (None, None, 13, True),  # nothing known is no objection
            ("580.65.06", None, 14, True),
        ],
    )
    def test_by_major_version(self, driver, cuda, major, runs):
        assert (Gpu(driver=driver, cuda=cuda).driver_problem(major) is None) is runs

    def test_the_way_out_is_a_driver_that_serves_every_card_of_the_machine(self):
        box = Gpu(driver="550.163.01", cuda=(12, 4), legacy="GTX 1080 Ti")
        assert box.driver_problem(13).endswith(
            "update the driver to 580, not to 590 or newer, which leave out the GTX 1080 Ti"
        )
