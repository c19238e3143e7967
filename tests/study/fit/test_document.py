"""The answers of `study.fit` as JSON."""

import json

from objectives.memory.advice import break_even, cheapest_gains
from objectives.memory.footprint import given
from objectives.memory.predict import predict_vllm
from objectives.models.shape import ModelShape
from objectives.vllm.rules import GIB, VllmRules
from objectives.vllm.settings import VllmSettings
from study.fit.document import (
    Answer,
    Scene,
    answers_to_json,
    candidates_to_list,
    prediction_to_dict,
)
from tests.objectives.models.published_shapes import QWEN2_5_7B_AWQ

AWQ = ModelShape.from_config(QWEN2_5_7B_AWQ)
TOTAL = round(11.63 * GIB)
RULES = VllmRules.of("0.11.0")


def answer(utilization, **args):
    options = {"gpu-memory-utilization": utilization, "max-model-len": 2048, **args}
    settings = VllmSettings.from_args(options, version="0.11.0", device_total_bytes=TOTAL)
    prediction = predict_vllm(
        AWQ,
        settings,
        device_kind="cuda",
        total_bytes=TOTAL,
        free_bytes=TOTAL,
        version="0.11.0",
        weights_bytes=given(round(5.2 * GIB)),
        overhead_bytes=round(0.242 * GIB),
        free_after_context=True,
    )
    return Answer(
        utilization=utilization,
        settings=settings,
        prediction=prediction,
        break_even=break_even(prediction, settings, rules=RULES, total_bytes=TOTAL),
        gains=cheapest_gains(AWQ, settings, prediction, rules=RULES),
    )


def scene(**changed):
    facts = {
        "model": "Qwen2.5-7B-Instruct-AWQ",
        "shape": AWQ,
        "device_name": "",
        "device_kind": "cuda",
        "total_bytes": TOTAL,
        "free_bytes": TOTAL,
        "free_known": False,
        "version": "0.11.0",
        "whisper": None,
    }
    return Scene(**(facts | changed))


class Row:
    """A candidate as `study.setup.make_bench` predicts it."""

    def __init__(self, params, prediction, doubts=()):
        self.params = params
        self.prediction = type("CandidatePrediction", (), {})()
        self.prediction.starts = {} if prediction is None else {"vllm": prediction}
        self.prediction.doubts = doubts
        self.prediction.refusal = prediction if prediction and prediction.certain else None
        self.fits = prediction is None or prediction.fits


def test_every_figure_says_where_it_came_from():
    document = prediction_to_dict(answer(0.5).prediction)
    assert document["figures"]["weights"]["source"] == "given"
    assert set(document["margin_gib"]) == set(document["excess_gib"])


def test_one_answer_stands_alone_and_several_in_a_list():
    one = answers_to_json(scene(), [answer(0.5)])
    many = answers_to_json(scene(), [answer(0.4), answer(0.5)])
    assert one["kv_cache_tokens"] == many["candidates"][1]["kv_cache_tokens"] == 6976
    assert many["fits"]


def test_the_whole_is_json_without_numbers_that_json_does_not_know():
    text = json.dumps(answers_to_json(scene(), [answer(0.4), answer(0.5)]), allow_nan=False)
    assert json.loads(text)["candidates"][0]["cause"] == "kv_cache_no_blocks"


def test_a_size_given_outright_has_no_break_even():
    document = answers_to_json(scene(), [answer(0.5, **{"kv-cache-memory-bytes": GIB})])
    assert document["break_even"] is None


def test_a_candidate_of_which_nothing_is_known_says_why():
    rows = [Row({"u": 0.5}, answer(0.5).prediction), Row({"u": 1}, None, ("no shape",))]
    document = candidates_to_list(rows)
    assert document["fits"] is True
    assert document["candidates"][0]["kv_cache_tokens"] == 6976
    assert document["candidates"][1] == {"params": {"u": 1}, "fits": True, "doubts": ["no shape"]}
