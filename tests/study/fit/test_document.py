"""The answers of `study.fit` as JSON."""

import json

from objectives.memory.estimate import given
from objectives.memory.predict import predict_vllm
from objectives.memory.server_model import DeviceMemory, ServerModel
from objectives.models.shape import ModelShape
from objectives.units import GIB
from objectives.vllm.rules import VllmRules
from objectives.vllm.settings import VllmSettings
from study.fit.document import (
    Scene,
    answers_to_json,
    candidates_to_list,
    prediction_to_dict,
)
from tests.objectives.models.published_shapes import QWEN2_5_7B_AWQ

AWQ = ModelShape.from_config(QWEN2_5_7B_AWQ)
TOTAL = round(11.63 * GIB)
RULES = VllmRules("0.11.0")


def answer(utilization, *, shape=AWQ, free=TOTAL, **args):
    options = {"gpu-memory-utilization": utilization, "max-model-len": 2048, **args}
    server = ServerModel(
        shape=shape,
        settings=VllmSettings.from_args(options, RULES, device_total_bytes=TOTAL),
        rules=RULES,
        weights_bytes=given(round(5.2 * GIB)),
        overhead=given(round(0.242 * GIB)),
    )
    memory = DeviceMemory(total_bytes=TOTAL, free_bytes=free, free_after_context=True)
    return predict_vllm(server, memory)


def scene(**changed):
    return Scene(model="Qwen2.5-7B-Instruct-AWQ", **changed)


class Row:
    """A candidate as `study.setup.make_bench` predicts it."""

    def __init__(self, params, prediction, doubts=()):
        self.params = params
        self.prediction = type("CandidatePrediction", (), {})()
        self.prediction.starts = {} if prediction is None else {"vllm": prediction}
        self.prediction.doubts = doubts
        self.prediction.refusal = prediction if prediction and prediction.certain else None
        self.prediction.fits = prediction is None or prediction.fits


def test_every_figure_says_where_it_came_from():
    document = prediction_to_dict(answer(0.5))
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
    rows = [Row({"u": 0.5}, answer(0.5)), Row({"u": 1}, None, ("no shape",))]
    document = candidates_to_list(rows)
    assert document["fits"] is True
    assert document["candidates"][0]["kv_cache_tokens"] == 6976
    assert document["candidates"][1] == {"params": {"u": 1}, "fits": True, "doubts": ["no shape"]}
