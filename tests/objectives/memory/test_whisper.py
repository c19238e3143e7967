"""What a Whisper model takes beside vLLM."""

import pytest

from objectives.memory.calibration import Calibration
from objectives.memory.whisper import whisper_bytes, whisper_key
from objectives.models.config import UnsupportedShapeError
from objectives.models.whisper import WHISPER_NAMES, whisper_dims
from objectives.vllm.rules import GIB

MIB = 1 << 20


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("tiny", 37_184_640), ("base", 71_825_920), ("small", 240_582_912), ("large", 1_541_570_560)],
)
def test_parameters_are_those_of_the_real_model(name, parameters):
    assert whisper_dims(name).parameters == parameters


def test_english_models_are_as_large_and_a_checkpoints_own_dimensions_will_do():
    dims = {
        "n_mels": 80,
        "n_audio_ctx": 1500,
        "n_audio_state": 384,
        "n_audio_head": 6,
        "n_audio_layer": 4,
        "n_vocab": 51865,
        "n_text_ctx": 448,
        "n_text_state": 384,
        "n_text_head": 6,
        "n_text_layer": 4,
    }
    assert whisper_dims("tiny.en") == whisper_dims("tiny") == whisper_dims(dims)


def test_an_unknown_name_is_refused_with_those_that_are_known():
    with pytest.raises(UnsupportedShapeError, match="tiny, base, small"):
        whisper_dims("huge")


@pytest.mark.parametrize(("name", "resident_mib"), [("tiny", 522), ("base", 675), ("small", 1397)])
def test_on_a_cpu_it_is_as_large_as_it_was_measured(name, resident_mib):
    found = whisper_bytes(name, device_kind="cpu")
    assert found.value_bytes / MIB == pytest.approx(resident_mib, rel=0.15)
    assert abs(found.value_bytes / MIB - resident_mib) < found.margin_bytes / MIB


@pytest.mark.parametrize(("name", "seeds_gib"), [("tiny", 0.5), ("small", 1.5)])
def test_on_a_gpu_it_is_as_large_as_the_seeds_say(name, seeds_gib):
    found = whisper_bytes(name, device_kind="cuda")
    assert abs(found.value_bytes / GIB - seeds_gib) < found.margin_bytes / GIB


def test_larger_models_beams_and_types_take_more():
    sizes = [
        whisper_bytes(name, device_kind="cuda").value_bytes for name in list(WHISPER_NAMES)[:5]
    ]
    assert sizes == sorted(sizes)
    wide = whisper_bytes("small", device_kind="cuda", dtype="float32").value_bytes
    narrow = whisper_bytes("small", device_kind="cuda", fp16_weights=True).value_bytes
    beams = whisper_bytes("small", device_kind="cuda", beam_size=5).value_bytes
    assert narrow < sizes[2] < min(wide, beams)


def test_a_measured_peak_stands_before_the_estimate_where_it_was_measured():
    key = whisper_key("tiny", beam_size=5)
    known = Calibration().learn_whisper(model=key, device="GPU-1", peak_bytes=700 * MIB)

    def found(device, beams):
        return whisper_bytes(
            "tiny", device_kind="cuda", beam_size=beams, calibration=known, device=device
        )

    assert (found("GPU-1", 5).value_bytes, found("GPU-1", 5).source) == (700 * MIB, "calibrated")
    assert found("GPU-1", 1).source == "estimated"
    assert found("GPU-2", 5).source == "estimated"


def test_an_unofficial_model_is_known_once_it_was_measured():
    known = Calibration().learn_whisper(model=whisper_key("own.pt"), device="GPU-1", peak_bytes=GIB)
    found = whisper_bytes("own.pt", device_kind="cuda", calibration=known, device="GPU-1")
    assert found.value_bytes == GIB
