"""What is known of a candidate before its launch, from a reading of the device."""

from dataclasses import replace

import pytest

from objectives.candidate import Candidate, ServerSettings
from objectives.device.state import DeviceState
from objectives.memory.calibration import Calibration
from objectives.models.shape import ModelShape
from objectives.servers.neighbours import Command, Hold
from objectives.trial.prediction import PredictionInputs, predict_candidate
from objectives.units import GIB
from objectives.vllm.startup_log import StartupFacts

CARD = DeviceState(
    total_bytes=int(11.63 * GIB), free_bytes=int(10.4 * GIB), used_bytes=int(1.23 * GIB)
)
QWEN = ModelShape.from_config(
    {
        "model_type": "qwen2",
        "num_hidden_layers": 28,
        "hidden_size": 3584,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 152064,
        "max_position_embeddings": 32768,
        "torch_dtype": "float16",
        "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128},
    }
)
INPUTS = PredictionInputs(
    shape=QWEN,
    model="qwen",
    device_kind="cuda",
    device_uuid="GPU-1",
    vllm_version="0.11.0",
    weights_bytes=int(5.2 * GIB),
    neighbours=(),
    whisper_first=True,
    headroom_bytes=0,
)


def candidate(utilisation, size="small", **whisper):
    return Candidate(
        params={},
        vllm=ServerSettings(
            model="qwen",
            device="cuda",
            args={
                "gpu-memory-utilization": utilisation,
                "max-model-len": 2048,
                "max-num-seqs": 16,
            },
        ),
        whisper=ServerSettings(model=size, device="cuda", args={"dtype": "float16"}, **whisper),
    )


def predict(utilisation, *, inputs=INPUTS, state=CARD, known=None, **whisper):
    return predict_candidate(
        candidate(utilisation, **whisper), inputs, state, known or Calibration()
    )


def test_the_seeds_winner_is_refused_before_it_is_launched():
    prediction = predict(0.40, size="tiny")
    assert prediction.is_refused
    assert prediction.cause == "kv_cache_no_blocks"
    assert prediction.excess["kv_cache_gib"] > 0


@pytest.mark.parametrize("size", ["tiny", "base", "small"])
@pytest.mark.parametrize("utilisation", [0.55, 0.60])
def test_what_the_seeds_could_have_run_fits_with_every_whisper(utilisation, size):
    assert predict(utilisation, size=size).fits


def test_inside_the_margin_the_launch_decides():
    prediction = predict(0.48)
    assert not prediction.is_refused


def test_a_neighbour_that_we_hold_is_taken_off_what_is_free():
    full = replace(INPUTS, neighbours=(Hold(name="ollama", bytes_=6 * GIB),))
    prediction = predict(0.60, inputs=full)
    assert prediction.is_refused
    assert prediction.excess["start_memory_gib"] > 0
    assert predict(0.60).excess["start_memory_gib"] < 0


def test_a_neighbour_of_unknown_size_gets_the_benefit_of_the_doubt():
    unknown = replace(INPUTS, neighbours=(Command(name="x", argv=("x",)),))
    tight = replace(CARD, free_bytes=int(8.0 * GIB))
    assert not predict(0.60, inputs=unknown, state=tight).is_refused


def test_free_memory_decides_not_the_list_of_tenants():
    crowded = replace(CARD, free_bytes=int(4.0 * GIB))
    assert predict(0.60).fits
    assert predict(0.60, state=crowded).is_refused


def test_whisper_on_the_cpu_takes_nothing_of_the_gpu():
    here, elsewhere = candidate(0.60), candidate(0.60)
    elsewhere = replace(elsewhere, whisper=replace(elsewhere.whisper, device="cpu"))
    on_gpu = predict_candidate(here, INPUTS, CARD, Calibration())
    on_cpu = predict_candidate(elsewhere, INPUTS, CARD, Calibration())
    assert on_cpu.whisper is None
    assert on_cpu.excess["device_memory_gib"] < on_gpu.excess["device_memory_gib"]


def test_whisper_after_vllm_is_not_in_the_way_of_its_start():
    after = replace(INPUTS, whisper_first=False)
    assert (
        predict(0.60, inputs=after).excess["start_memory_gib"]
        < predict(0.60).excess["start_memory_gib"]
    )
    assert predict(0.60, inputs=after).excess["device_memory_gib"] == pytest.approx(
        predict(0.60).excess["device_memory_gib"]
    )


def test_an_unknown_shape_is_launched_and_said():
    blind = replace(INPUTS, shape=None, shape_missing="no config.json here")
    prediction = predict(0.40, inputs=blind)
    assert prediction.fits
    assert not prediction.is_refused
    assert "no config.json here" in prediction.doubts[0]


def test_a_real_start_stands_before_every_estimate():
    started = StartupFacts(
        available_kv_bytes=int(0.3726 * GIB), kv_cache_tokens=6976, device_kind="cuda"
    )
    known = predict(0.50).learn(Calibration(), started)
    again = predict(0.50, known=known)
    assert again.vllm.footprint.capacity.tokens == pytest.approx(6976, rel=0.03)
    assert predict(0.45, known=known).is_refused
    assert predict(0.55, known=known).fits


def test_a_cache_that_came_out_otherwise_is_a_surprise():
    started = StartupFacts(
        available_kv_bytes=int(0.3726 * GIB), kv_cache_tokens=6976, device_kind="cuda"
    )
    known = predict(0.50).learn(Calibration(), started)
    again = predict(0.50, known=known)
    assert again.surprise(started) is None
    shrunk = replace(started, available_kv_bytes=int(0.1 * GIB))
    assert "memory moved" in again.surprise(shrunk)
    assert predict(0.50).surprise(shrunk) is None


def test_a_total_that_moved_before_the_server_read_it_is_said():
    grown = StartupFacts(requested_bytes=int(0.5 * 12.5 * GIB))
    assert "12.50 GiB" in predict(0.50).moved(grown)
    assert predict(0.50).moved(StartupFacts(requested_bytes=CARD.total_bytes // 2)) is None


def test_whispers_real_peak_stands_before_its_estimate():
    prediction = predict(0.50)
    known = prediction.learn_whisper(Calibration(), 3 * GIB)
    assert predict(0.50, known=known).whisper.value_bytes == 3 * GIB
    assert predict(0.50, known=known, size="tiny").whisper.value_bytes < GIB


def test_what_neighbours_hold_is_charged_once_by_the_versions_that_charge_for_it():
    """Taken off when the start is learned from, and off again when the next one is predicted."""
    older = replace(INPUTS, vllm_version="0.9.0")
    first = predict(0.85, inputs=older)
    assert first.vllm.footprint.charged_bytes > GIB
    logged = first.vllm.footprint.available_bytes - GIB // 4
    known = first.learn(Calibration(), StartupFacts(available_kv_bytes=logged))
    again = predict(0.85, inputs=older, known=known)
    assert again.vllm.footprint.available_bytes == pytest.approx(logged, abs=GIB // 50)
