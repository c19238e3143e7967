"""A refusal is one line: the key, what was found, what is allowed."""

import pytest
from pydantic import ValidationError

from study.config.refusals import first_error, kind_of, nearest
from study.config.schema import Document, VllmSection
from tests.study.config.configurations import OURS


def refused(change):
    """The line for our configuration with some keys replaced, or for a whole other thing."""
    data = {**OURS, **change} if isinstance(change, dict) else change
    with pytest.raises(ValidationError) as caught:
        Document.model_validate(data)
    line = first_error(caught.value)
    assert "\n" not in line
    return line


class TestAValue:
    @pytest.mark.parametrize(
        ("change", "key", "found", "allowed"),
        [
            ({"vllm": {"weights": "bad"}}, "vllm.weights", "'bad'", "'real' or 'dummy'"),
            ({"vllm": {"env": {"A": 1}}}, "vllm.env.A", "1", "a valid string"),
            ({"vllm": {"dummy": {"vocab": 299}}}, "vllm.dummy.vocab", "299", "or equal to 300"),
            ({"load": {"llm": {"rate_rps": -1}}}, "load.llm.rate_rps", "-1", "greater than 0"),
            ({"load": {"measure_s": "soon"}}, "load.measure_s", "'soon'", "a valid number"),
            ({"load": {"drain_s": float("inf")}}, "load.drain_s", "inf", "a finite number"),
            ({"load": {"stt": {"clip_s": [3, 0]}}}, "load.stt.clip_s.1", "0", "greater than 0"),
            (
                {"neighbours": [{"name": "a", "kind": "rent"}]},
                "neighbours.0.kind",
                "'rent'",
                "'running', 'command' or 'hold'",
            ),
            ({"seed": -1}, "seed", "-1", "greater than or equal to 0"),
            ({"seed": 1.5}, "seed", "1.5", "a valid integer"),
            ({"wer": {"tiny": 101}}, "wer.tiny", "101", "less than or equal to 100"),
            ({"name": ""}, "name", "''", "at least 1 character"),
            ({"search_space": 3}, "search_space", "3", "a valid dictionary"),
            (
                {"objectives": {"oom_events": "down"}},
                "objectives.oom_events.direction",
                "'down'",
                "'minimize', 'maximize' or 'neutral'",
            ),
            ({"sampler": 3}, "sampler", "3", "a valid dictionary"),
        ],
    )
    def test_is_refused_with_key_found_and_allowed(self, change, key, found, allowed):
        line = refused(change)
        assert line.startswith(f"{key}: found {found}; ")
        assert allowed in line.partition("; ")[2]

    def test_what_is_allowed_goes_on_in_the_same_sentence(self):
        assert refused({"seed": -1}) == (
            "seed: found -1; input should be greater than or equal to 0"
        )

    def test_our_own_words_stand_without_pydantics_in_front(self):
        line = refused({"objectives": {"gpu_utilization": {"direction": "neutral"}}})
        assert line.endswith("; gpu_utilization is neutral and needs a target")

    def test_only_the_first_of_several_is_named_and_the_others_are_counted(self):
        assert refused({"headroom_gib": -1, "seed": -1, "name": ""}) == (
            "name: found ''; string should have at least 1 character (and 2 more)"
        )

    def test_a_long_one_is_cut_to_sixty_characters(self):
        found = refused({"seed": "x" * 99}).removeprefix("seed: found ").partition("; ")[0]
        assert found == "'" + "x" * 56 + "..."
        assert len(found) == 60

    def test_one_of_sixty_characters_is_shown_whole(self):
        assert f"found {'x' * 58!r}; " in refused({"seed": "x" * 58})

    def test_one_of_several_lines_stays_on_one(self):
        assert refused({"device": "auto", "seed": "a\nb"}).startswith(r"seed: found 'a\nb'; ")

    def test_a_whole_file_of_another_kind_has_no_key(self):
        assert refused("words").startswith("file: found 'words'; ")


class TestTheStepsOfAUnion:
    @pytest.mark.parametrize(
        ("change", "key"),
        [
            ({"load": {"llm": {"prompt_tokens": "many"}}}, "load.llm.prompt_tokens"),
            ({"load": {"llm": {"prompt_tokens": 0}}}, "load.llm.prompt_tokens"),
            ({"load": {"llm": {"output_tokens": [1]}}}, "load.llm.output_tokens"),
            ({"load": {"llm": {"output_tokens": [0, 1]}}}, "load.llm.output_tokens"),
            ({"search_space": {"util": {"low": "a", "high": 1}}}, "search_space.util.low"),
            ({"search_space": {"util": {"low": 1, "high": []}}}, "search_space.util.high"),
            ({"search_space": {"util": {"step": {}}}}, "search_space.util.step"),
        ],
    )
    def test_are_no_part_of_the_key(self, change, key):
        assert refused(change).startswith(f"{key}: found ")


class TestAMissingKey:
    @pytest.mark.parametrize(
        ("data", "said"),
        [
            ({}, "search_space: missing"),
            (
                {**OURS, "neighbours": [{"kind": "hold", "gib": 1}]},
                "neighbours.0.name: missing",
            ),
            (
                {**OURS, "neighbours": [{"name": "a", "kind": "hold"}, {}]},
                "neighbours.1.name: missing (and 1 more)",
            ),
            (
                {**OURS, "objectives": {"oom_events": {"target": 1}}},
                "objectives.oom_events.direction: missing",
            ),
        ],
    )
    def test_is_named_with_its_place(self, data, said):
        with pytest.raises(ValidationError) as caught:
            Document.model_validate(data)
        assert first_error(caught.value) == said


class TestAnUnknownKey:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"vllm": {"modle": "x"}}, "vllm.modle: unknown key; did you mean 'model'?"),
            ({"seeed": 1}, "seeed: unknown key; did you mean 'seed'?"),
            ({"load": {"measure": 1}}, "load.measure: unknown key; did you mean 'measure_s'?"),
            (
                {"load": {"llm": {"rate": 1}}},
                "load.llm.rate: unknown key; did you mean 'rate_rps'?",
            ),
            ({"load": {"stt": {"clip": 1}}}, "load.stt.clip: unknown key; did you mean 'clip_s'?"),
            (
                {"vllm": {"dummy": {"layer": 1}}},
                "vllm.dummy.layer: unknown key; did you mean 'layers'?",
            ),
            ({"sampler": {"nam": "tpe"}}, "sampler.nam: unknown key; did you mean 'name'?"),
            ({"budget": {"trial": 1}}, "budget.trial: unknown key; did you mean 'trials'?"),
            ({"engines": {"vlm": "x"}}, "engines.vlm: unknown key; did you mean 'vllm'?"),
        ],
    )
    def test_is_refused_at_every_depth_with_the_nearest_known_one(self, change, said):
        assert refused(change) == said

    @pytest.mark.parametrize(
        ("change", "key"),
        [
            ({"search_space": {"util": {"bnd": "whisper.model"}}}, "search_space.util.bnd"),
            ({"neighbours": [{"name": "a", "kind": "hold", "gb": 1}]}, "neighbours.0.gb"),
            ({"slo": {"oom_events": {"most": 1}}}, "slo.oom_events.most"),
        ],
    )
    def test_below_a_name_of_ones_own_is_refused_with_its_place(self, change, key):
        assert refused(change).startswith(f"{key}: unknown key")

    def test_like_no_other_is_refused_with_the_keys_of_its_place_only(self):
        assert refused({"vllm": {"qqq": 1}}) == (
            f"vllm.qqq: unknown key; allowed: {', '.join(VllmSection.model_fields)}"
        )
        assert refused({"qqq": 1}) == (
            f"qqq: unknown key; allowed: {', '.join(Document.model_fields)}"
        )


class TestTheNearestWord:
    @pytest.mark.parametrize(
        ("word", "known", "said"),
        [
            ("modle", ["weights", "model"], "; did you mean 'model'?"),
            ("trial", ["trials", "trial_timeout_s"], "; did you mean 'trials'?"),
            ("xyz", ["model", "weights"], "; allowed: model, weights"),
            ("xyz", [], ""),
            ("model", ("model",), "; did you mean 'model'?"),
        ],
    )
    def test_is_meant_or_all_are_named(self, word, known, said):
        assert nearest(word, known) == said


@pytest.mark.parametrize(
    ("value", "kind"), [(None, "nothing"), ([], "a list"), ({}, "a dict"), ("", "a str")]
)
def test_a_value_is_called_by_its_kind(value, kind):
    assert kind_of(value) == kind
