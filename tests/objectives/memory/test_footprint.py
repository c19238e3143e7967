"""What a server's settings leave of the device for its KV cache."""

import pytest

from objectives.memory.estimate import given
from objectives.memory.footprint import Footprint
from objectives.memory.parts import Parts
from objectives.memory.server_model import DeviceMemory, ServerModel
from objectives.models.shape import ModelShape
from objectives.units import GIB
from objectives.vllm.rules import VllmRules
from objectives.vllm.settings import VllmSettings
from tests.objectives.models.published_shapes import LLAMA_3_1_8B

LLAMA = ModelShape.from_config(LLAMA_3_1_8B)
PARTS = Parts(weights=given(15 * GIB), activation=given(GIB))


def footprint(*, version="0.32.0", kind="cuda", held=0, margin=0, whisper=0, **settings):
    return Footprint(
        server=ServerModel(
            shape=LLAMA, settings=VllmSettings(**settings), rules=VllmRules(version, kind)
        ),
        memory=DeviceMemory(
            total_bytes=24 * GIB,
            free_bytes=24 * GIB - held,
            whisper=given(whisper),
            total_margin_bytes=margin,
        ),
        parts=PARTS,
    )


def test_the_cache_gets_what_the_share_leaves():
    found = footprint(utilization=0.75, max_model_len=4096)
    assert found.share_bytes == found.requested_bytes == found.own_bytes == 18 * GIB
    assert found.available_bytes == found.kv_cache_bytes == 2 * GIB


@pytest.mark.parametrize(("version", "charged"), [("0.9.0", 3 * GIB), ("0.9.1", 0)])
def test_what_is_charged_for_others_comes_off_the_cache(version, charged):
    found = footprint(version=version, utilization=0.8, held=2 * GIB, whisper=GIB)
    assert found.charged_bytes == charged
    assert found.available_bytes == found.share_bytes - 16 * GIB - charged


def test_a_number_of_blocks_stands_before_everything():
    found = footprint(utilization=0.1, max_model_len=64, blocks_override=10)
    assert found.capacity.blocks == 10
    assert found.requested_bytes == found.own_bytes == 16 * GIB + found.kv_cache_bytes


def test_parts_that_exceed_the_share_leave_less_than_nothing():
    found = footprint(utilization=0.5, max_model_len=64)
    assert found.available_bytes == -4 * GIB
    assert found.kv_cache_bytes == 0
    assert found.own_bytes == 16 * GIB


def test_an_older_cpu_build_is_sized_by_its_default():
    found = footprint(version="0.11.0", kind="cpu", utilization=0.5)
    assert found.available_bytes == 4 * GIB


def test_the_margin_grows_with_the_devices_and_vanishes_with_a_size_that_is_given():
    plain, vague = footprint(utilization=0.5), footprint(utilization=0.5, margin=GIB)
    assert vague.margin_bytes - plain.margin_bytes == GIB // 2
    assert footprint(utilization=0.5, margin=GIB, kv_cache_memory_bytes=GIB).margin_bytes == 0


def test_every_part_is_stored_in_bytes_with_its_source():
    known = footprint(utilization=0.75, whisper=GIB)
    stored = known.bytes_by_part
    assert stored["weights_bytes"] == 15 * GIB
    assert stored["whisper_bytes"] == GIB
    assert stored["graph_bytes"] == stored["outside_bytes"] == 0
    assert {figure.source for figure in known.figures.values()} == {"given"}
