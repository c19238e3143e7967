from __future__ import annotations

import numpy as np
import pytest

from objectives.space import SearchSpace
from study.samplers.encoding import Encoding
from tests.study.fifteen import CONDITIONAL, SPACE, parameter

WIDE = SearchSpace(
    (
        parameter("seqs", "vllm.args.max-num-seqs", choices=(2, 4, 8, 32)),
        parameter("dtype", "vllm.args.kv-cache-dtype", choices=("auto", "fp8", "fp8_e5m2")),
        parameter("eager", "vllm.args.enforce-eager", choices=(True, False)),
        parameter("size", "whisper.model", choices=("small", "tiny", "large-v3", "turbo")),
        parameter("beam", "whisper.args.beam-size", low=1, high=16, integer=True, log=True),
    )
)
POINT = {"seqs": 8, "dtype": "fp8", "eager": True, "size": "tiny", "beam": 4}


def apart(space, left, right):
    encoding = Encoding(space)
    return np.sqrt(encoding.squares(encoding.rows([left]), encoding.rows([right])))[0, 0]


def test_numbers_are_ordered_by_rank_whatever_their_size():
    assert apart(WIDE, POINT, {**POINT, "seqs": 32})[0] == pytest.approx(1 / 3)
    assert apart(WIDE, {**POINT, "seqs": 2}, {**POINT, "seqs": 32})[0] == pytest.approx(1)


def test_words_are_equally_far_from_each_other():
    for one, other in (("auto", "fp8"), ("auto", "fp8_e5m2"), ("fp8", "fp8_e5m2")):
        assert apart(WIDE, {**POINT, "dtype": one}, {**POINT, "dtype": other})[1] == pytest.approx(
            1
        )


def test_flags_are_words():
    assert apart(WIDE, POINT, {**POINT, "eager": False})[2] == pytest.approx(1)


def test_whisper_checkpoints_are_ordered_by_size_not_by_the_list():
    def from_tiny(size):
        return apart(WIDE, POINT, {**POINT, "size": size})[3]

    assert from_tiny("small") < from_tiny("turbo") < from_tiny("large-v3")


def test_a_logarithmic_range_is_measured_on_its_scale():
    assert apart(WIDE, POINT, {**POINT, "beam": 16})[4] == pytest.approx(0.5)


def test_a_point_is_no_distance_from_itself():
    assert apart(WIDE, POINT, POINT).tolist() == [0.0] * 5


def test_a_parameter_that_does_not_exist_lies_in_the_middle():
    there = {"device": "cpu", "vllm_memory_util": 0.5, "threads": 4}
    absent = {"device": "cuda:0", "vllm_memory_util": 0.5}
    assert apart(CONDITIONAL, there, absent).tolist() == pytest.approx([1.0, 0.0, 0.0])


def test_a_number_may_be_spelt_in_many_ways():
    row = Encoding(SPACE).row({"vllm_memory_util": 0.1 + 0.35, "whisper_model_size": "tiny"})
    assert row == pytest.approx([0.25, 0.0])


def test_no_points_are_no_rows():
    assert Encoding(WIDE).rows([]).shape == (0, Encoding(WIDE).width)
