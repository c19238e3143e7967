"""What a Whisper model takes beside vLLM."""

import pytest

from objectives.memory.calibration import Calibration
from objectives.memory.whisper import WhisperModel, whisper_dtype
from objectives.models.config import UnsupportedShapeError
from objectives.models.whisper import WHISPER_NAMES, whisper_dims
from objectives.units import GIB, MIB


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("tiny", 37_184_640), ("base", 71_825_920), ("small", 240_582_912), ("large", 1_541_570_560)],
)
def test_parameters_are_those_of_the_real_model(name, parameters):
    assert whisper_dims(name).parameters == parameters


def test_an_unknown_name_is_refused_with_those_that_are_known():
    with pytest.raises(UnsupportedShapeError, match="tiny, base, small"):
        whisper_dims("huge")


@pytest.mark.parametrize(("name", "resident_mib"), [("tiny", 522), ("base", 675), ("small", 1397)])
def test_on_a_cpu_it_is_as_large_as_it_was_measured(name, resident_mib):
    found = WhisperModel(name=name).expect("cpu")
    assert found.value_bytes / MIB == pytest.approx(resident_mib, rel=0.15)
    assert abs(found.value_bytes / MIB - resident_mib) < found.margin_bytes / MIB


@pytest.mark.parametrize(("name", "seeds_gib"), [("tiny", 0.5), ("small", 1.5)])
def test_on_a_gpu_it_is_as_large_as_the_seeds_say(name, seeds_gib):
    found = WhisperModel(name=name).expect("cuda")
    assert abs(found.value_bytes / GIB - seeds_gib) < found.margin_bytes / GIB


def test_larger_models_beams_and_types_take_more():
    sizes = [WhisperModel(name=name).expect("cuda").value_bytes for name in list(WHISPER_NAMES)[:5]]
    assert sizes == sorted(sizes)
    wide = WhisperModel(name="small", dtype="float32").expect("cuda").value_bytes
    narrow = WhisperModel(name="small", fp16_weights=True).expect("cuda").value_bytes
    beams = WhisperModel(name="small", beam_size=5).expect("cuda").value_bytes
    assert narrow < sizes[2] < min(wide, beams)


def test_a_measured_peak_stands_before_the_estimate_where_it_was_measured():
    key = WhisperModel(name="tiny", beam_size=5).key
    known = Calibration().learn_whisper(model=key, device="GPU-1", peak_bytes=700 * MIB)

    def found(device, beams):
        return WhisperModel(name="tiny", beam_size=beams).expect("cuda", known, device)

    assert (found("GPU-1", 5).value_bytes, found("GPU-1", 5).source) == (700 * MIB, "calibrated")
    assert found("GPU-1", 1).source == "estimated"
    assert found("GPU-2", 5).source == "estimated"


def test_an_unofficial_model_is_known_once_it_was_measured():
    own = WhisperModel(name="own.pt")
    known = Calibration().learn_whisper(model=own.key, device="GPU-1", peak_bytes=GIB)
    assert own.expect("cuda", known, "GPU-1").value_bytes == GIB
    with pytest.raises(UnsupportedShapeError):
        own.expect("cuda", known, "GPU-2")


def test_the_key_tells_what_the_memory_depends_on():
    assert WhisperModel(name="tiny").key == "tiny, default, 1 beam"
    narrow = WhisperModel(name="tiny", dtype="float16", fp16_weights=True, beam_size=5)
    assert narrow.key == "tiny, float16, 5 beams, 16-bit weights"


@pytest.mark.parametrize(
    ("asked", "kind", "capability", "computes"),
    [
        (None, "cuda", (8, 6), "float16"),
        (None, "cuda", (7, 0), "float16"),
        (None, "cuda", (6, 1), "float32"),  # 1/64 of the rate in float16
        (None, "cuda", None, "float16"),
        (None, "cpu", None, "float32"),
        ("float16", "cpu", None, "float32"),
        ("float16", "cuda", (6, 1), "float16"),  # what a person asks for a GPU stands
        ("float32", "cuda", (8, 6), "float32"),
        ("bfloat16", "cpu", None, "bfloat16"),
    ],
)
def test_its_type_goes_by_the_device_where_none_is_given(asked, kind, capability, computes):
    assert whisper_dtype(asked, kind, capability) == computes


def test_the_estimate_is_of_the_type_that_the_device_gets():
    def held(kind, **given):
        return WhisperModel(name="small", **given).expect(kind).value_bytes

    assert held("cuda", capability=(6, 1)) == held("cuda", dtype="float32")
    assert held("cuda", capability=(8, 6)) == held("cuda", dtype="float16")
    assert held("cuda", capability=(6, 1)) > held("cuda", capability=(8, 6))
    assert held("cpu", dtype="float16", fp16_weights=True) == held("cpu")
