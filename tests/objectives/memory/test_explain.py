"""A prediction in sentences."""

import pytest

from objectives.memory.explain import Story, evidence, gib
from objectives.memory.footprint import NOTHING, Footprint, given
from objectives.vllm.rules import GIB


def story(**changed):
    footprint = Footprint(
        weights=given(5 * GIB),
        activation=given(GIB),
        non_torch=NOTHING,
        graphs=NOTHING,
        outside=given(GIB // 2),
        requested_bytes=6 * GIB,
        available_bytes=changed.pop("available", 2 * GIB),
        kv_cache_bytes=2 * GIB,
        kv_cache_tokens=6_976,
        max_concurrency=3.40625,
        margin_bytes=0,
    )
    facts = {
        "footprint": footprint,
        "utilization": 0.5,
        "share_bytes": 6 * GIB,
        "free_bytes": 4 * GIB,
        "needed_bytes": 3 * GIB,
        "max_model_len": 2048,
        "sized_outright": False,
        "missing_bytes": 2 * GIB,
    }
    return Story(**(facts | changed))


def test_what_fits_says_how_much():
    said = evidence(None, story())
    assert said == "2.00 GiB of KV cache holds 6,976 tokens: 3.41 requests of 2,048 tokens"


@pytest.mark.parametrize(
    ("cause", "numbers"),
    [
        ("gpu_memory_insufficient_at_start", ("6.00 GiB (0.5 of 12.00 GiB)", "2.00 GiB short")),
        ("kv_cache_no_blocks", ("weights 5.00 GiB + activation 1.00 GiB", "not one block")),
        ("kv_cache_too_small", ("2,048 tokens needs 3.00 GiB", "6,976 tokens")),
        ("device_memory", ("vLLM's 8.00 GiB", "0.50 GiB", "2.00 GiB more than the 4.00 GiB")),
    ],
)
def test_every_cause_is_told_with_its_numbers(cause, numbers):
    said = evidence(cause, story())
    assert all(number in said for number in numbers), said


def test_less_than_nothing_is_said_as_it_is():
    assert "leave -0.79 GiB" in evidence("kv_cache_no_blocks", story(available=int(-0.79 * GIB)))
    assert gib(GIB / 2) == "0.50 GiB"
