"""What real starts taught."""

import json

import pytest

from objectives.memory.calibration import Calibration
from objectives.memory.estimate import given
from objectives.memory.predict import predict_vllm
from objectives.memory.server_model import DeviceMemory, ServerModel
from objectives.models.shape import ModelShape
from objectives.units import GIB
from objectives.vllm.rules import VllmRules
from objectives.vllm.settings import VllmSettings
from objectives.vllm.startup_log import StartupFacts
from tests.objectives.models.published_shapes import QWEN2_5_7B_AWQ, QWEN2_5_HALF_B

AWQ = ModelShape.from_config(QWEN2_5_7B_AWQ)
SMALL = ModelShape.from_config(QWEN2_5_HALF_B)
TOTAL = round(11.63 * GIB)
PLACE = {"name": "awq", "device": "GPU-1", "rules": VllmRules("0.11.0")}
SEEN = StartupFacts(available_kv_bytes=round(0.37 * GIB), kv_cache_tokens=6_976)


def server(utilization, place=PLACE, **args):
    options = {"gpu-memory-utilization": utilization, "max-model-len": 2048, **args}
    settings = VllmSettings.from_args(options, place["rules"], device_total_bytes=TOTAL)
    return ServerModel(shape=AWQ, settings=settings, **place)


def learned(told=SEEN, *, utilization=0.5, known=None, **args):
    known = known or Calibration()
    return known.learn(server(utilization, **args), told, total_bytes=TOTAL)


def predict(calibration, utilization, *, place=PLACE, **args):
    memory = DeviceMemory(total_bytes=TOTAL, free_bytes=TOTAL)
    return predict_vllm(server(utilization, place, **args), memory, calibration)


def test_one_start_makes_the_seeds_failures_certain():
    before, after = predict(Calibration(), 0.45), predict(learned(), 0.45)
    assert not before.certain
    assert (after.cause, after.certain) == ("kv_cache_no_blocks", True)


def test_a_prediction_of_the_same_settings_is_what_was_logged():
    prediction = predict(learned(), 0.5)
    assert prediction.fits
    assert prediction.footprint.capacity.tokens == 6_976
    assert prediction.footprint.parts.activation.source == "calibrated"
    assert prediction.footprint.margin_bytes < 0.1 * GIB


def test_another_utilisation_follows_from_the_same_start():
    assert predict(learned(), 0.6).footprint.capacity.tokens == pytest.approx(28_752, rel=0.001)


@pytest.mark.parametrize(
    ("key", "other"),
    [("rules", VllmRules("0.11.1")), ("name", "other"), ("device", "GPU-2")],
)
def test_nothing_is_carried_to_another_version_model_or_device(key, other):
    elsewhere = {**PLACE, key: other}
    prediction = predict(learned(), 0.5, place=elsewhere)
    assert prediction.footprint.parts.activation.source == "estimated"


def test_nothing_is_carried_to_another_number_of_devices():
    prediction = predict(learned(), 0.5, **{"tensor-parallel-size": 2})
    assert prediction.footprint.parts.activation.source == "estimated"


def test_a_changed_limit_is_estimated_as_a_difference_with_a_wider_margin():
    same, fewer = predict(learned(), 0.5), predict(learned(), 0.5, **{"max-num-seqs": 512})
    more = fewer.footprint.available_bytes - same.footprint.available_bytes
    assert more < 0  # twice the requests, twice the sampler's peak
    assert fewer.footprint.margin_bytes > same.footprint.margin_bytes + abs(more) // 3


def test_another_length_or_cache_type_changes_nothing_that_was_learned():
    one, other = predict(learned(), 0.5), predict(learned(), 0.5, **{"kv-cache-dtype": "fp8"})
    assert other.footprint.available_bytes == one.footprint.available_bytes
    assert other.footprint.capacity.tokens == pytest.approx(
        2 * one.footprint.capacity.tokens, abs=16
    )


def test_starts_of_the_same_settings_are_averaged_and_their_spread_is_a_margin():
    known = learned()
    for available in (0.40, 0.67):
        known = learned(StartupFacts(available_kv_bytes=round(available * GIB)), known=known)
    prediction = predict(known, 0.5)
    assert prediction.footprint.available_bytes / GIB == pytest.approx(0.40, abs=0.01)
    assert prediction.footprint.margin_bytes / GIB == pytest.approx(0.30, abs=0.02)


def test_the_start_nearest_to_the_question_answers_it():
    known = learned(
        StartupFacts(available_kv_bytes=round(1.5 * GIB)), utilization=0.6, **{"max-num-seqs": 16}
    )
    known = learned(StartupFacts(available_kv_bytes=round(0.2 * GIB)), utilization=0.6, known=known)
    few, many = predict(known, 0.6, **{"max-num-seqs": 16}), predict(known, 0.6)
    assert few.footprint.available_bytes / GIB == pytest.approx(1.5, abs=0.01)
    assert many.footprint.available_bytes / GIB == pytest.approx(0.2, abs=0.01)


def test_old_starts_are_forgotten_so_that_a_study_does_not_grow_for_ever():
    known = Calibration()
    for _ in range(20):
        known = learned(known=known)
    assert len(known.starts) == 8


def test_a_silent_log_teaches_nothing():
    known = Calibration()
    assert learned(StartupFacts(), known=known) is known


def test_learning_leaves_the_old_calibration_as_it_was():
    known = Calibration()
    learned(known=known)
    assert known == Calibration()


def test_a_calibration_survives_json():
    known = learned().learn_whisper(model="tiny", device="GPU-1", peak_bytes=GIB)
    assert Calibration.from_dict(json.loads(json.dumps(known.to_dict()))) == known


def test_what_another_release_wrote_is_left_out_and_not_fatal():
    document = learned().to_dict()
    document["starts"].append({"key": {"version": "9"}, "unknown": 1})
    document["whispers"].append({"model": "tiny"})
    assert Calibration.from_dict(document).starts == learned().starts
    assert Calibration.from_dict({}) == Calibration()


def test_whispers_peak_is_the_highest_of_its_trials_on_that_device():
    known = Calibration()
    for peak in (3, 5, 4):
        known = known.learn_whisper(model="tiny", device="GPU-1", peak_bytes=peak * GIB)
    assert known.whisper(model="tiny", device="GPU-1").value_bytes == 5 * GIB
    assert known.whisper(model="tiny", device="GPU-2") is None
    assert known.whisper(model="base", device="GPU-1") is None


NODE = 15_296_716 * 1024
STARTS = [  # utilisation, changed options, tokens: a real CPU build's, one architecture
    (0.20, {}, 74_880),
    (0.25, {}, 135_168),
    (0.20, {"max-model-len": 8192}, 74_240),
    (0.20, {"kv-cache-dtype": "fp8"}, 149_120),
    (0.20, {"max-num-seqs": 16}, 71_552),
]


def on_cpu(utilization, **args):
    options = {
        "gpu-memory-utilization": utilization,
        "max-model-len": 2048,
        "enforce-eager": True,
        **args,
    }
    rules = VllmRules("0.32.0", "cpu")
    settings = VllmSettings.from_args(options, rules, device_total_bytes=NODE)
    return ServerModel(shape=SMALL, settings=settings, rules=rules, name="small", device="node0")


def test_one_real_start_of_the_cpu_build_predicts_the_others_within_the_heaps_noise():
    told = StartupFacts(kv_cache_tokens=74_752, cpu_consumed_bytes=round(2.06 * GIB))
    known = Calibration().learn(on_cpu(0.2), told, total_bytes=NODE)
    for utilization, args, tokens in STARTS:
        memory = DeviceMemory(total_bytes=NODE, free_bytes=NODE)
        prediction = predict_vllm(on_cpu(utilization, **args), memory, known)
        per_token = SMALL.kv_bytes_per_token(args.get("kv-cache-dtype", "auto"))
        off = abs(prediction.footprint.capacity.tokens - tokens) * per_token
        assert off <= 48 << 20  # what the heap keeps differs by 41 MiB from start to start
        assert off <= prediction.footprint.margin_bytes


def test_a_figure_that_somebody_gives_stands_before_what_was_learned():
    figures = {"weights_bytes": given(4 * GIB), "overhead": given(GIB)}
    prediction = predict(learned(), 0.5, place={**PLACE, **figures})
    assert prediction.footprint.available_bytes / GIB == pytest.approx(0.815, abs=0.001)
