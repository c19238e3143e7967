from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from study.samplers.draws import (
    nearby,
    neighbour,
    position_of,
    random_point,
    value_at,
)
from tests.study.fifteen import CONDITIONAL, SPACE, UTILISATIONS

DISTRIBUTIONS = [
    FloatDistribution(0.3, 0.7),
    FloatDistribution(0.4, 0.6, step=0.05),
    FloatDistribution(1e-6, 1.0, log=True),
    IntDistribution(1, 16),
    IntDistribution(2, 64, step=2),
    IntDistribution(1, 4096, log=True),
    CategoricalDistribution(["tiny", "base", "small"]),
]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
class TestEveryDistribution:
    @given(position=st.floats(0, 1, exclude_max=True))
    def test_a_position_is_a_value_of_it(self, distribution, position):
        value = value_at(distribution, position)
        if isinstance(distribution, CategoricalDistribution):
            assert value in distribution.choices
            return
        assert distribution.low <= value <= distribution.high
        assert isinstance(value, int) == isinstance(distribution, IntDistribution)
        if distribution.step:
            steps = (value - distribution.low) / distribution.step
            assert steps == pytest.approx(round(steps))

    @given(seed=st.integers(0, 1000))
    def test_a_step_leads_to_another_value_of_it(self, distribution, seed):
        rng = np.random.default_rng(seed)
        value = value_at(distribution, rng.random())
        moved = nearby(distribution, value, rng)
        assert moved != value
        if not isinstance(distribution, CategoricalDistribution):
            assert distribution.low <= moved <= distribution.high


def test_every_step_of_a_range_has_the_same_share():
    distribution = FloatDistribution(0.4, 0.6, step=0.05)
    found = Counter(round(value_at(distribution, (n + 0.5) / 100), 9) for n in range(100))
    assert found == dict.fromkeys(UTILISATIONS, 20)


def test_a_position_and_its_value_agree():
    assert position_of(FloatDistribution(0.3, 0.7), 0.5) == pytest.approx(0.5)
    assert position_of(IntDistribution(1, 16, log=True), 4) == pytest.approx(0.5)
    assert position_of(IntDistribution(3, 3), 3) == 0.0


def test_a_single_value_cannot_move():
    rng = np.random.default_rng(0)
    assert nearby(IntDistribution(3, 3), 3, rng) == 3
    assert nearby(CategoricalDistribution(["a"]), "a", rng) == "a"


def test_a_conditional_parameter_is_there_only_under_its_condition():
    rng = np.random.default_rng(0)
    points = [random_point(CONDITIONAL, rng) for _ in range(50)]
    points += [neighbour(CONDITIONAL, point, rng) for point in points]
    assert all(("threads" in point) == (point["device"] == "cpu") for point in points)


def test_a_neighbour_differs_mostly_in_one_parameter():
    rng = np.random.default_rng(0)
    point = {"vllm_memory_util": 0.5, "whisper_model_size": "base"}
    moved = [neighbour(SPACE, point, rng) for _ in range(200)]
    changes = Counter(sum(m[name] != point[name] for name in point) for m in moved)
    assert changes[0] == 0
    assert changes[1] > changes[2] > 0
    assert all(SPACE[name].allows(value) for m in moved for name, value in m.items())


def test_a_list_of_numbers_is_walked_in_steps():
    rng = np.random.default_rng(0)
    numbers = [
        neighbour(CONDITIONAL, {"device": "cpu", "vllm_memory_util": 0.5, "threads": 2}, rng)
    ]
    numbers += [neighbour(CONDITIONAL, numbers[0], rng) for _ in range(30)]
    assert {point.get("threads", 2) for point in numbers} <= {2, 4, 8}
