"""Every key, its type and its short forms; what editors are told is what the program takes."""

import jsonschema
import pytest
from pydantic import BaseModel, ValidationError

from study.config.schema import (
    OBJECTIVES,
    SAMPLERS,
    BudgetSection,
    Document,
    DummyModel,
    LlmLoadSection,
    LoadSection,
    NeighbourSection,
    ParameterSection,
    Section,
    model_in,
)
from tests.study.config.configurations import OURS


def sections(model):
    """A model and all that are in it."""
    yield model
    for known in model.model_fields.values():
        if inner := model_in(known.annotation):
            yield from sections(inner)


SECTIONS = set(sections(Document))
EDITORS = jsonschema.Draft202012Validator(Document.model_json_schema())


def document(**change):
    return Document.model_validate({**OURS, **change})


def objectives(**wanted):
    return document(objectives=wanted).objectives


def only_error(**change):
    """Where the one mistake is, and what is said of it."""
    with pytest.raises(ValidationError) as caught:
        document(**change)
    (error,) = caught.value.errors()
    return error["loc"], error["msg"]


def is_for_editors(**change):
    """Whether the JSON Schema takes it."""
    return EDITORS.is_valid({**OURS, **change})


class TestEverySection:
    @pytest.mark.parametrize(
        "change",
        [
            {"extra": 1},
            {"engines": {"extra": 1}},
            {"vllm": {"extra": 1}},
            {"vllm": {"dummy": {"extra": 1}}},
            {"whisper": {"extra": 1}},
            {"neighbours": [{"name": "a", "kind": "hold", "extra": 1}]},
            {"load": {"extra": 1}},
            {"load": {"llm": {"extra": 1}}},
            {"load": {"stt": {"extra": 1}}},
            {"search_space": {"util": {"extra": 1}}},
            {"objectives": {"wer": {"direction": "minimize", "extra": 1}}},
            {"slo": {"wer": {"extra": 1}}},
            {"budget": {"extra": 1}},
            {"sampler": {"extra": 1}},
        ],
    )
    def test_takes_no_unknown_key_and_neither_do_editors(self, change):
        loc, said = only_error(**change)
        assert loc[-1] == "extra"
        assert said == "Extra inputs are not permitted"
        assert not is_for_editors(**change)

    def test_is_one_of_ours(self):
        assert {DummyModel, LlmLoadSection, NeighbourSection, ParameterSection} <= SECTIONS
        assert all(issubclass(model, Section) for model in SECTIONS)

    def test_says_what_it_is_and_what_each_of_its_keys_means(self):
        for model in SECTIONS:
            assert model.__doc__
            for name, known in model.model_fields.items():
                assert known.description, f"{model.__name__}.{name}"

    def test_does_not_change_after_reading(self):
        read = document()
        with pytest.raises(ValidationError, match="frozen"):
            read.seed = 1
        with pytest.raises(ValidationError, match="frozen"):
            read.load.measure_s = 1.0

    @pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
    @pytest.mark.parametrize(
        "change",
        [
            lambda number: {"headroom_gib": number},
            lambda number: {"load": {"measure_s": number}},
            lambda number: {"slo": {"wer": {"max": number}}},
            lambda number: {"search_space": {"util": {"low": number}}},
        ],
    )
    def test_takes_finite_numbers_only(self, change, number):
        with pytest.raises(ValidationError):
            document(**change(number))


class TestDefaults:
    def test_only_the_space_is_required(self):
        assert Document.model_validate({"search_space": {}}).name == "gpu-allocation"
        with pytest.raises(ValidationError) as caught:
            Document.model_validate({})
        assert [error["loc"] for error in caught.value.errors()] == [("search_space",)]

    def test_the_objectives_are_the_first_users_three(self):
        wanted = {name: each.direction for name, each in document().objectives.items()}
        assert wanted == {
            "stt_latency_ms": "minimize",
            "llm_latency_ms": "minimize",
            "concurrent_capacity": "maximize",
        }

    def test_everything_starts_after_the_neighbours_and_vllm_last(self):
        assert document().start_order == ("neighbours", "whisper", "vllm")

    def test_what_is_said_of_a_section_leaves_its_other_defaults(self):
        assert document(load={"measure_s": 7}).load == LoadSection(measure_s=7.0)
        assert document(budget={"trials": 3}).budget == BudgetSection(trials=3)


class TestShortForms:
    @pytest.mark.parametrize(
        ("short", "long"),
        [
            ({"search_space": {"u": [1, 2]}}, {"search_space": {"u": {"choices": [1, 2]}}}),
            ({"search_space": {"u": []}}, {"search_space": {"u": {"choices": []}}}),
            (
                {"search_space": {"u": {"when": {"place": "cpu"}}}},
                {"search_space": {"u": {"when": {"place": ["cpu"]}}}},
            ),
            (
                {"search_space": {"u": {"when": {"eager": False}}}},
                {"search_space": {"u": {"when": {"eager": [False]}}}},
            ),
            (
                {"objectives": {"wer": "minimize"}},
                {"objectives": {"wer": {"direction": "minimize"}}},
            ),
            ({"sampler": "tpe"}, {"sampler": {"name": "tpe"}}),
        ],
    )
    def test_mean_the_same_as_the_long_ones_and_editors_take_both(self, short, long):
        assert document(**short) == document(**long)
        assert is_for_editors(**short)
        assert is_for_editors(**long)

    def test_several_conditions_stand_beside_each_other(self):
        when = {"place": "same", "eager": [True, False]}
        (section,) = document(search_space={"u": {"when": when}}).search_space.values()
        assert section.when == {"place": ("same",), "eager": (True, False)}

    @pytest.mark.parametrize(
        "change",
        [
            {"search_space": {"u": 3}},
            {"search_space": {"u": {"when": "cpu"}}},
            {"objectives": {"wer": ["minimize"]}},
            {"objectives": {"wer": "down"}},
            {"sampler": ["tpe"]},
        ],
    )
    def test_there_are_no_others(self, change):
        with pytest.raises(ValidationError):
            document(**change)
        assert not is_for_editors(**change)


class TestValues:
    def test_keep_the_type_that_the_file_gives_them(self):
        given = [True, 1, 1.0, 2.5, "1", "yes"]
        (section,) = document(search_space={"u": given}).search_space.values()
        assert [(type(value), value) for value in section.choices] == [
            (type(value), value) for value in given
        ]

    def test_of_a_range_stay_whole_where_they_are_whole(self):
        (section,) = document(search_space={"u": {"low": 1, "high": 2.0}}).search_space.values()
        assert (type(section.low), type(section.high)) == (int, float)

    def test_of_an_option_may_be_null_which_leaves_it_out(self):
        args = {"dtype": None, "enforce-eager": True, "max-num-seqs": 8}
        read = document(vllm={"model": "m", "args": args}, whisper={"args": args})
        assert read.vllm.args == read.whisper.args == args

    @pytest.mark.parametrize(("tokens", "read"), [(7, 7), ([7, 9], (7, 9)), ([9, 9], (9, 9))])
    def test_of_a_load_are_a_count_or_two(self, tokens, read):
        assert document(load={"llm": {"prompt_tokens": tokens}}).load.llm.prompt_tokens == read

    @pytest.mark.parametrize("tokens", [0, -1, 1.5, [1], [1, 2, 3], [0, 1], "1-2"])
    def test_of_a_load_are_nothing_else(self, tokens):
        with pytest.raises(ValidationError):
            document(load={"llm": {"prompt_tokens": tokens}})

    @pytest.mark.parametrize(
        ("change", "allowed"),
        [
            ({"seed": -1}, {"seed": 0}),
            ({"headroom_gib": -0.1}, {"headroom_gib": 0}),
            ({"wer": {"tiny": 100.1}}, {"wer": {"tiny": 100}}),
            ({"wer": {"tiny": -0.1}}, {"wer": {"tiny": 0}}),
            ({"budget": {"trials": 0}}, {"budget": {"trials": 1}}),
            ({"budget": {"repeats": -1}}, {"budget": {"repeats": 0}}),
            ({"budget": {"tolerance": 0}}, {"budget": {"tolerance": 0.001}}),
            ({"budget": {"timeout_s": 0}}, {"budget": {"timeout_s": 0.5}}),
            ({"vllm": {"dummy": {"vocab": 299}}}, {"vllm": {"dummy": {"vocab": 300}}}),
            ({"vllm": {"dummy": {"layers": 0}}}, {"vllm": {"dummy": {"layers": 1}}}),
            ({"load": {"stt": {"clip_s": [0]}}}, {"load": {"stt": {"clip_s": [0.5]}}}),
            ({"load": {"quantile": "p99"}}, {"load": {"quantile": "p50"}}),
            ({"whisper": {"device": "cuda"}}, {"whisper": {"device": "cpu"}}),
            ({"start_order": ["ollama"]}, {"start_order": ["vllm"]}),
            ({"name": ""}, {"name": "x"}),
        ],
    )
    def test_at_the_edge_are_allowed_and_beyond_it_refused_by_editors_too(self, change, allowed):
        document(**allowed)
        assert is_for_editors(**allowed)
        with pytest.raises(ValidationError):
            document(**change)
        assert not is_for_editors(**change)


class TestObjectives:
    def test_one_that_there_is_not_is_refused_with_those_that_there_are(self):
        loc, said = only_error(objectives={"speed": "minimize"})
        assert loc == ("objectives",)
        assert said == f"Value error, speed is no objective; allowed: {', '.join(OBJECTIVES)}"

    def test_a_neutral_one_needs_a_target(self):
        _, said = only_error(objectives={"gpu_utilization": "neutral"})
        assert said == "Value error, gpu_utilization is neutral and needs a target"

    @pytest.mark.parametrize("target", [70, 0, -1.5])
    def test_any_number_is_a_target(self, target):
        wanted = objectives(free_memory_mb={"direction": "neutral", "target": target})
        assert wanted["free_memory_mb"].target == target

    @pytest.mark.parametrize("name", OBJECTIVES)
    @pytest.mark.parametrize("direction", ["minimize", "maximize"])
    def test_every_other_one_needs_none(self, name, direction):
        assert objectives(**{name: direction})[name].target is None

    def test_at_least_one_is_needed(self):
        assert only_error(objectives={})[1] == "Value error, at least one objective is needed"

    def test_they_keep_the_order_of_the_file(self):
        wanted = dict.fromkeys(reversed(OBJECTIVES), "minimize")
        assert tuple(objectives(**wanted)) == tuple(reversed(OBJECTIVES))


class TestForEditors:
    def test_the_schema_names_every_key_for_editors(self):
        schema = Document.model_json_schema()
        assert set(schema["properties"]) == set(Document.model_fields)

    def test_the_samplers_are_named(self):
        about = Document.model_json_schema()["$defs"]["SamplerSection"]["properties"]["name"]
        assert about["description"] == f"{', '.join(SAMPLERS)}."

    def test_what_was_read_is_allowed_when_it_is_written_again(self):
        read = document(
            search_space={"u": [True, 1, "x"], "v": {"bind": "whisper.model", "when": {"u": "x"}}},
            sampler="tpe",
            objectives={"gpu_utilization": {"direction": "neutral", "target": 70}},
            load={"llm": {"prompt_tokens": [1, 2]}},
        )
        written = read.model_dump(mode="json")
        assert Document.model_validate(written) == read
        assert is_for_editors(**written)


class TestTheModelThatAnAnnotationHolds:
    @pytest.mark.parametrize(
        ("annotation", "model"),
        [
            (LoadSection, LoadSection),
            (tuple[NeighbourSection, ...], NeighbourSection),
            (dict[str, ParameterSection], ParameterSection),
            (ParameterSection | None, ParameterSection),
            (dict[str, tuple[ParameterSection | None, ...]], ParameterSection),
            (str, None),
            (dict[str, int], None),
            (str | None, None),
            ("LoadSection", None),
        ],
    )
    def test_is_found_however_it_is_wrapped(self, annotation, model):
        assert model_in(annotation) is model

    def test_is_found_for_every_section_of_the_document(self):
        found = {name: model_in(known.annotation) for name, known in Document.model_fields.items()}
        assert {name for name, model in found.items() if model} == {
            *("engines", "vllm", "whisper", "neighbours", "load", "search_space", "objectives"),
            *("slo", "budget", "sampler"),
        }
        assert all(issubclass(model, BaseModel) for model in found.values() if model)
