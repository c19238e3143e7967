"""What may vary, and in which points that ends."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from objectives.space import Binding, Parameter, SearchSpace, plain, point_key

UTILISATION = Parameter(
    name="vllm_memory_util",
    binding=Binding.parse("vllm.args.gpu-memory-utilization"),
    choices=(0.40, 0.45, 0.50, 0.55, 0.60),
    bounds=(0.30, 0.70),
)
SIZE = Parameter(
    name="whisper_model_size",
    binding=Binding.parse("whisper.model"),
    choices=("tiny", "base", "small"),
)
SEEDS_SPACE = SearchSpace((UTILISATION, SIZE))


def test_the_seeds_space_has_fifteen_points():
    assert SEEDS_SPACE.size == 15
    assert SEEDS_SPACE.points()[0] == {"vllm_memory_util": 0.40, "whisper_model_size": "tiny"}


def test_evenly_spaced_numbers_keep_their_order_for_the_sampler():
    assert UTILISATION.distribution == FloatDistribution(0.4, 0.6, step=0.05)
    even = Parameter(name="n", binding=Binding.parse("vllm.args.max-num-seqs"), choices=(4, 8, 12))
    assert even.distribution == IntDistribution(4, 12, step=4)


def test_uneven_numbers_and_words_are_categories():
    uneven = Parameter(
        name="n", binding=Binding.parse("vllm.args.max-num-seqs"), choices=(4, 8, 16)
    )
    assert uneven.distribution == CategoricalDistribution((4, 8, 16))


def test_a_suggested_number_is_spelt_as_in_the_list():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(40):
        assert SEEDS_SPACE.suggest(study.ask())["vllm_memory_util"] in UTILISATION.choices


def test_underscores_and_dashes_name_the_same_option():
    assert Binding.parse("vllm.args.max_num_seqs") == Binding.parse("vllm.args.max-num-seqs")


@pytest.mark.parametrize("text", ["vllm", "vllm.args", "ollama.model", "vllm.model.x", ""])
def test_a_binding_to_nothing_says_what_is_allowed(text):
    with pytest.raises(ValueError, match="SERVER is vllm or whisper"):
        Binding.parse(text)


def test_the_distance_outside_the_bounds_is_graded():
    assert SEEDS_SPACE.excess({"vllm_memory_util": 0.75}) == pytest.approx(0.05)
    assert SEEDS_SPACE.excess({"vllm_memory_util": 0.25}) == pytest.approx(0.05)
    assert SEEDS_SPACE.excess({"vllm_memory_util": 0.50}) == pytest.approx(-0.20)


def test_a_conditional_parameter_exists_only_where_its_parent_says():
    beam = Parameter(
        name="beam",
        binding=Binding.parse("whisper.args.beam-size"),
        choices=(1, 5),
        when={"whisper_model_size": ("tiny",)},
    )
    space = SearchSpace((SIZE, beam))
    assert space.size == 4
    assert not space.is_active("beam", {"whisper_model_size": "small"})
    assert space.points()[-1] == {"whisper_model_size": "small"}


def test_a_condition_on_a_later_parameter_is_refused():
    early = Parameter(
        name="beam",
        binding=Binding.parse("whisper.args.beam-size"),
        choices=(1, 5),
        when={"whisper_model_size": ("tiny",)},
    )
    with pytest.raises(ValueError, match="declared before"):
        SearchSpace((early, SIZE))


def test_two_parameters_cannot_be_bound_to_one_place():
    twin = Parameter(name="twin", binding=SIZE.binding, choices=("tiny", "base"))
    with pytest.raises(ValueError, match="bound to"):
        SearchSpace((SIZE, twin))


def test_a_continuous_range_has_no_end_of_points():
    free = Parameter(
        name="u", binding=Binding.parse("vllm.args.gpu-memory-utilization"), low=0.3, high=0.7
    )
    assert SearchSpace((free,)).points() is None


def test_a_stepped_range_is_finite():
    fine = Parameter(
        name="u",
        binding=Binding.parse("vllm.args.gpu-memory-utilization"),
        low=0.3,
        high=0.7,
        step=0.01,
    )
    points = SearchSpace((fine,)).points()
    assert len(points) == 41
    assert points[25] == {"u": 0.55}


def test_replicates_share_a_key_whatever_the_order():
    assert point_key({"b": 1, "a": 0.5}) == point_key({"a": 0.5, "b": 1}) == "a=0.5 b=1"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (0.1 + 0.2, 0.3),
        (2, 2.0),
        (0.29999999999999999 * 10, 3),
        (1234567.1 + 0.1 + 0.2, 1234567.4),
        (1 / 30, round(1 / 30, 12)),
        (0.0, -0.0),
        (10**15, 1e15),
    ],
)
def test_a_number_is_the_same_however_it_is_spelt_and_came_about(left, right):
    assert point_key({"u": left}) == point_key({"u": right})
    assert point_key({"u": plain(left)}) == point_key({"u": left})


@pytest.mark.parametrize(
    ("left", "right"),
    [(0.3, 0.300001), (2, 3), (True, 1), (2**40, 2**40 + 1), (1e-9, 2e-9), ("0.30", 0.3)],
)
def test_other_values_are_other_points(left, right):
    assert point_key({"u": left}) != point_key({"u": right})


@pytest.mark.parametrize(
    "wrong",
    [
        {"choices": (1, 2), "low": 1, "high": 2},
        {},
        {"low": 3, "high": 2},
        {"low": 0, "high": 2, "log": True},
        {"low": 1, "high": 2, "log": True, "step": 1},
        {"choices": (1, 1)},
    ],
)
def test_a_parameter_that_contradicts_itself_is_refused(wrong):
    with pytest.raises(ValueError, match="x: "):
        Parameter(name="x", binding=Binding.parse("vllm.env.X"), **wrong)
