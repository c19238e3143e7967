"""One complete setting of every server, and how it becomes a command line."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.candidate import Candidate, ServerSettings
from objectives.space import Binding, Parameter, SearchSpace

UTILISATION = Parameter(
    name="vllm_memory_util",
    binding=Binding.parse("vllm.args.gpu-memory-utilization"),
    choices=(0.40, 0.45, 0.50, 0.55, 0.60),
)
SIZE = Parameter(
    name="whisper_model_size",
    binding=Binding.parse("whisper.model"),
    choices=("tiny", "base", "small"),
)
SPACE = SearchSpace((UTILISATION, SIZE))
VLLM = ServerSettings(model="m", device="cuda:0", args={"max-model-len": 2048})
WHISPER = ServerSettings(model="small", device="cuda:0")
DRAWN = math.nextafter(0.55, 1)
"""0.55 as a sampler's arithmetic may leave it."""


def settings(**args):
    return ServerSettings(
        model="m", device="cpu", args={name.replace("_", "-"): args[name] for name in args}
    )


def lay(params, *, space=SPACE, vllm=VLLM, whisper=WHISPER):
    return Candidate.lay(space, params, {"vllm": vllm, "whisper": whisper})


class TestOptions:
    def test_a_setting_of_its_own_is_a_command_line_without_options(self):
        assert ServerSettings(model="m", device="cpu").options() == ()

    def test_they_stand_in_the_order_of_the_settings(self):
        said = settings(b=1, a=2, c=3)
        assert said.options() == ("--b", "1", "--a", "2", "--c", "3")

    @pytest.mark.parametrize("negated", [False, True])
    def test_a_true_option_is_a_bare_flag_and_none_is_left_out(self, negated):
        said = settings(enforce_eager=True, x=None, seed=3)
        assert said.options(negated=negated) == ("--enforce-eager", "--seed", "3")

    def test_a_false_option_is_left_out(self):
        assert settings(enforce_eager=False, seed=3).options() == ("--seed", "3")

    def test_a_false_option_is_negated_where_the_server_knows_how(self):
        said = settings(enforce_eager=False, seed=3)
        assert said.options(negated=True) == ("--no-enforce-eager", "--seed", "3")

    @pytest.mark.parametrize("negated", [False, True])
    @pytest.mark.parametrize(
        ("value", "word"),
        [
            (0, "0"),
            (1, "1"),
            (2_147_483_648, "2147483648"),
            ("", ""),
            ("fp8", "fp8"),
            ("two words", "two words"),
            (0.0, "0"),
            (0.55, "0.55"),
            (0.1 + 0.2, "0.3"),
            (1.0, "1"),
            (1e-05, "1e-05"),
            (1 / 3, "0.333333333333"),
        ],
    )
    def test_a_value_is_one_word_and_a_number_is_spelt_shortly(self, value, word, negated):
        assert settings(x=value).options(negated=negated) == ("--x", word)


class TestWithValue:
    BEFORE = ServerSettings(model="m", device="cuda:0", args={"seed": 1}, env={"A": "x"})

    @pytest.mark.parametrize(
        ("place", "value", "changed"),
        [
            ("vllm.args.seed", 2, {"args": {"seed": 2}}),
            ("vllm.args.dtype", "half", {"args": {"seed": 1, "dtype": "half"}}),
            ("vllm.args.enforce-eager", False, {"args": {"seed": 1, "enforce-eager": False}}),
            ("vllm.env.A", "y", {"env": {"A": "y"}}),
            ("vllm.env.B", "y", {"env": {"A": "x", "B": "y"}}),
            ("vllm.env.B", 4, {"env": {"A": "x", "B": "4"}}),
            ("vllm.env.B", 0.1 + 0.2, {"env": {"A": "x", "B": "0.3"}}),
            ("vllm.model", "other", {"model": "other"}),
            ("vllm.device", "cpu", {"device": "cpu"}),
        ],
    )
    def test_a_value_changes_its_own_place_and_no_other(self, place, value, changed):
        after = self.BEFORE.with_value(Binding.parse(place), value)
        names = ("model", "device", "args", "env")
        before = {name: getattr(self.BEFORE, name) for name in names}
        assert {name: getattr(after, name) for name in names} == {**before, **changed}

    def test_the_settings_before_stay_what_they_were(self):
        for place in ("args.seed", "env.A", "model", "device"):
            self.BEFORE.with_value(Binding.parse(f"vllm.{place}"), "new")
        assert self.BEFORE.args == {"seed": 1}
        assert self.BEFORE.env == {"A": "x"}
        assert (self.BEFORE.model, self.BEFORE.device) == ("m", "cuda:0")

    def test_an_option_that_was_set_keeps_its_place_in_the_line(self):
        said = settings(a=1, b=2).with_value(Binding.parse("vllm.args.a"), 9)
        assert said.options() == ("--a", "9", "--b", "2")


class TestLay:
    @given(st.sampled_from(UTILISATION.choices), st.sampled_from(SIZE.choices))
    def test_every_point_is_a_candidate_with_its_values_in_place(self, value, size):
        candidate = lay({"vllm_memory_util": value, "whisper_model_size": size})
        assert candidate["vllm"].options() == (
            "--max-model-len",
            "2048",
            "--gpu-memory-utilization",
            f"{value:.12g}",
        )
        assert (candidate["vllm"].model, candidate["whisper"].model) == ("m", size)

    def test_each_value_goes_to_the_server_that_it_is_bound_to(self):
        space = SearchSpace(
            tuple(
                Parameter(name=place, binding=Binding.parse(place), choices=("old", "new"))
                for place in ("vllm.device", "whisper.device", "vllm.env.X", "whisper.args.x")
            )
        )
        point = {"vllm.device": "cuda:1", "whisper.device": "cpu"}
        candidate = lay({**point, "vllm.env.X": "new", "whisper.args.x": "new"}, space=space)
        assert (candidate["vllm"].device, candidate["whisper"].device) == ("cuda:1", "cpu")
        assert (candidate["vllm"].env, candidate["whisper"].env) == ({"X": "new"}, {})
        assert candidate["vllm"].args == VLLM.args
        assert candidate["whisper"].args == {"x": "new"}

    def test_a_point_stands_above_the_fixed_settings(self):
        fixed = ServerSettings(model="m", device="cpu", args={"gpu-memory-utilization": 0.9})
        candidate = lay({"vllm_memory_util": 0.5}, vllm=fixed)
        assert candidate["vllm"].options() == ("--gpu-memory-utilization", "0.5")

    def test_a_server_beside_the_usual_two_is_laid_over_like_them(self):
        bound = Binding(server="embedder", kind="args", key="dim")
        space = SearchSpace((Parameter(name="dim", binding=bound, choices=(256, 512)),))
        fixed = {"vllm": VLLM, "embedder": ServerSettings(model="e", device="cpu")}
        candidate = Candidate.lay(space, {"dim": 512}, fixed)
        assert candidate["embedder"].options() == ("--dim", "512")
        assert candidate["vllm"] is VLLM
        assert set(candidate.servers) == {"vllm", "embedder"}
        assert set(fixed) == {"vllm", "embedder"}

    def test_the_fixed_settings_are_not_changed_by_a_candidate(self):
        lay({"vllm_memory_util": 0.6, "whisper_model_size": "tiny"})
        assert VLLM.args == {"max-model-len": 2048}
        assert WHISPER.model == "small"

    def test_what_the_point_does_not_name_stays_as_it_was_fixed(self):
        candidate = lay({"vllm_memory_util": 0.6})
        assert candidate["whisper"] is WHISPER
        assert candidate.params == {"vllm_memory_util": 0.6}

    def test_a_number_of_the_sampler_is_spelt_as_in_the_list_everywhere(self):
        candidate = lay({"whisper_model_size": "tiny", "vllm_memory_util": DRAWN})
        assert candidate["vllm"].args["gpu-memory-utilization"] == 0.55
        assert list(candidate.params.items()) == [
            ("vllm_memory_util", 0.55),
            ("whisper_model_size", "tiny"),
        ]
