"""A prediction in sentences."""

import pytest

from objectives.memory.estimate import given
from objectives.memory.explain import REMEDIES, evidence, remedy
from objectives.memory.footprint import Footprint
from objectives.memory.parts import Parts
from objectives.memory.server_model import DeviceMemory, ServerModel
from objectives.models.shape import ModelShape
from objectives.units import GIB
from objectives.vllm.rules import VllmRules
from objectives.vllm.settings import VllmSettings
from tests.objectives.models.published_shapes import QWEN2_5_7B_AWQ


def footprint(utilization=0.5):
    """Half of 16 GiB, less 6 GiB, leaves 2 GiB for the cache, at 56 KiB a token."""
    return Footprint(
        server=ServerModel(
            shape=ModelShape.from_config(QWEN2_5_7B_AWQ),
            settings=VllmSettings(utilization=utilization, max_model_len=2048),
            rules=VllmRules("0.11.0"),
        ),
        memory=DeviceMemory(total_bytes=16 * GIB, free_bytes=5 * GIB, whisper=given(GIB)),
        parts=Parts(weights=given(5 * GIB), activation=given(GIB), context=given(GIB // 2)),
    )


def test_what_fits_says_how_much():
    said = evidence(None, footprint())
    assert said == "2.00 GiB of KV cache holds 37,440 tokens: 18.28 requests of 2,048 tokens"
    assert remedy(None, "cuda") == ""


@pytest.mark.parametrize(
    ("cause", "numbers"),
    [
        (
            "gpu_memory_insufficient_at_start",
            ("8.00 GiB (0.5 of 16.00 GiB)", "4.00 GiB will be free", "2.00 GiB short"),
        ),
        ("kv_cache_no_blocks", ("weights 5.00 GiB + activation 1.00 GiB", "not one block")),
        ("kv_cache_too_small", ("2,048 tokens needs 0.11 GiB", "37,440 tokens")),
        ("device_memory", ("vLLM's 8.00 GiB", "0.50 GiB", "2.00 GiB more than the 4.00 GiB")),
    ],
)
def test_every_cause_is_told_with_its_numbers_and_a_remedy(cause, numbers):
    said = evidence(cause, footprint(), 2 * GIB)
    assert all(number in said for number in numbers), said
    assert remedy(cause, "cuda") == REMEDIES[cause]


def test_a_cpu_is_not_told_of_a_sampler():
    assert "max-num-seqs" not in remedy("kv_cache_no_blocks", "cpu")


def test_less_than_nothing_is_said_as_it_is():
    assert "leave -2.00 GiB" in evidence("kv_cache_no_blocks", footprint(0.25))
