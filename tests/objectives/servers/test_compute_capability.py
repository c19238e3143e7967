"""Which compiled kernels run on which GPU, as CUDA promises it."""

import pytest

from objectives.servers.compute_capability import dotted, sm, spoken, supports

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
