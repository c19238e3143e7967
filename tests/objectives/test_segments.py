from multiprocessing import shared_memory
from pathlib import Path

from objectives.segments import segments, sweep


def test_a_segment_that_nobody_maps_is_swept():
    left = Path("/dev/shm/psm_nobody_maps_this")
    left.write_bytes(b"x")
    assert left.name in segments()
    assert sweep({left.name}) == [left.name]
    assert not left.exists()


def test_a_segment_that_a_living_process_maps_stays():
    segment = shared_memory.SharedMemory(create=True, size=64)
    try:
        assert sweep({segment.name}) == []
        assert segment.name in segments()
    finally:
        segment.close()
        segment.unlink()


def test_nothing_new_is_nothing_swept():
    assert sweep(set()) == []


def test_a_segment_that_somebody_else_swept_first_is_no_fault():
    assert sweep({"psm_gone_already"}) == []
