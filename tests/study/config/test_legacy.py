"""A block of the first users' `dream.yaml` says the same in our words."""

import copy

import pytest
import yaml

from objectives.errors import UsageError
from study.config.files import read_config
from study.config.legacy import BASELINE, BINDINGS, BOUNDS, TARGETS, from_legacy, is_legacy
from study.config.schema import OBJECTIVES, Document
from study.config.study_config import checked
from tests.study.config.configurations import LEGACY, OURS, refusal

BUNDLED = {
    **OURS,
    "name": "bundled",
    "device": "cuda",
    "load": {"measure_s": 30},
    "baseline": {"vllm_memory_util": 0.4, "whisper_model_size": "tiny"},
    "objectives": {"stt_latency_ms": "minimize"},
    "budget": {"repeats": 6, "trial_timeout_s": 100},
}


def translated(block):
    """What the block becomes over `BUNDLED`."""
    data, _ = from_legacy(block, source="dream.yaml", bundled=lambda gpu: copy.deepcopy(BUNDLED))
    return data


def refused(block):
    """The line that the block is refused with, less the file's name."""
    with pytest.raises(UsageError) as caught:
        translated(block)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("dream.yaml: ")
    return line.removeprefix("dream.yaml: ")


class TestAWholeBlock:
    def test_the_legacy_block_runs_as_it_stands(self, write):
        config = read_config(write(LEGACY))
        assert config.name == "spica_gpu_allocation"
        assert config.space.size == 15
        assert config.baseline == {"vllm_memory_util": 0.5, "whisper_model_size": "small"}
        assert config.directions == {
            "stt_latency_ms": "minimize",
            "llm_latency_ms": "minimize",
            "gpu_utilization": "minimize",
            "oom_events": "minimize",
            "concurrent_capacity": "maximize",
        }
        assert config.document.objectives["gpu_utilization"].target == 70

    def test_the_legacy_budget_keeps_its_meaning(self, write):
        budget = read_config(write(LEGACY)).document.budget
        assert (budget.candidates, budget.generations, budget.trials) == (10, 4, 40)
        assert budget.trial_timeout_s == 360  # no candidate outlasts an epoch
        assert budget.timeout_s == 4 * 360  # four epochs

    def test_the_legacy_evaluator_is_replaced_and_that_is_said_once(self, write):
        notes = read_config(write(LEGACY)).notes
        assert len([note for note in notes if "evaluator" in note]) == 1

    def test_a_legacy_block_that_forbids_the_gpu_runs_on_the_cpu(self, write):
        text = LEGACY.replace("allow_gpu: true", "allow_gpu: false")
        assert read_config(write(text)).document.device == "cpu"

    def test_a_legacy_block_may_say_what_ours_says(self, write):
        text = LEGACY + "  load: {measure_s: 7}\n"
        assert read_config(write(text)).document.load.measure_s == 7

    def test_an_experiment_that_is_switched_off_is_not_run(self, write):
        assert "switched off" in refusal(write(LEGACY.replace("enabled: true", "enabled: false")))

    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            ("max_candidates", "max_candidate", "budget.max_candidate: unknown key; did you mean"),
            ("wallclock_sec: 360", "wallclock_sec: -1", "budget.wallclock_sec: found -1"),
            (
                '"up"',
                '"sideways"',
                "concurrent_capacity: found 'sideways', allowed: down, up, neutral",
            ),
            ("template", "templat", "templat: unknown key; did you mean 'template'"),
            ('llm_latency_ms: "down"', 'llm_latency_ms: "neutral"', "neutral needs a target"),
        ],
    )
    def test_a_mistake_in_a_legacy_block_is_one_line(self, write, old, new, said):
        assert said in refusal(write(LEGACY.replace(old, new)))

    def test_it_is_only_read(self):
        (block,) = yaml.safe_load(LEGACY)
        before = copy.deepcopy(block)
        translated(block)
        assert block == before


class TestIsItLegacy:
    @pytest.mark.parametrize(
        "key",
        [{"enabled": True}, {"template": None}, {"evaluator": {}}, {"metrics": {}}],
    )
    def test_one_key_that_only_the_legacy_format_has_is_enough(self, key):
        assert is_legacy({**OURS, **key})

    @pytest.mark.parametrize(
        "key", ["wallclock_sec", "max_candidates", "max_generations", "allow_gpu"]
    )
    def test_so_is_one_of_its_budget(self, key):
        assert is_legacy({**OURS, "budget": {key: 1}})

    @pytest.mark.parametrize(
        "block",
        [{}, OURS, {**OURS, "budget": {"trials": 3, "candidates": 2}}, {"budget": ["allow_gpu"]}],
    )
    def test_without_any_it_is_ours(self, block):
        assert not is_legacy(block)

    def test_the_two_formats_share_no_key_that_would_tell_them_apart(self):
        assert not any(is_legacy({key: None}) for key in Document.model_fields)
        budget = Document.model_fields["budget"].default
        assert not any(is_legacy({"budget": {key: 1}}) for key in type(budget).model_fields)


class TestTheBudget:
    @pytest.mark.parametrize(
        ("legacy", "ours"),
        [
            ({"wallclock_sec": 360}, {"trial_timeout_s": 360, "timeout_s": 360}),
            ({"max_candidates": 10}, {"candidates": 10}),
            ({"max_generations": 4}, {"generations": 4}),
            (
                {"max_candidates": 10, "max_generations": 4},
                {"candidates": 10, "generations": 4, "trials": 40},
            ),
            (
                {"wallclock_sec": 90.5, "max_generations": 2},
                {"trial_timeout_s": 90.5, "timeout_s": 181.0, "generations": 2},
            ),
            ({"allow_gpu": True}, {}),
            (dict.fromkeys(("wallclock_sec", "max_candidates", "max_generations")), {}),
            ({}, {}),
            (None, {}),
        ],
    )
    def test_every_limit_in_our_words_over_the_bundled_ones(self, legacy, ours):
        assert translated({"budget": legacy})["budget"] == {**BUNDLED["budget"], **ours}

    @pytest.mark.parametrize("key", ["wallclock_sec", "max_candidates", "max_generations"])
    @pytest.mark.parametrize("value", [0, -1, True, "ten", [10]])
    def test_a_limit_is_a_number_above_0(self, key, value):
        assert refused({"budget": {key: value}}) == (
            f"budget.{key}: found {value!r}, allowed: a number above 0"
        )

    @pytest.mark.parametrize(
        ("budget", "gpu", "device"),
        [
            ({"allow_gpu": False}, False, "cpu"),
            ({"allow_gpu": True}, True, "cuda"),
            ({}, True, "cuda"),
        ],
    )
    def test_whether_a_gpu_may_be_used_chooses_the_bundled_study_and_the_device(
        self, budget, gpu, device
    ):
        asked = []

        def bundled(gpu):
            asked.append(gpu)
            return copy.deepcopy(BUNDLED)

        data, _ = from_legacy({"budget": budget}, source="dream.yaml", bundled=bundled)
        assert asked == [gpu]
        assert data["device"] == device

    def test_a_device_that_the_block_names_itself_counts(self):
        block = {"budget": {"allow_gpu": False}, "device": "cuda:1"}
        assert translated(block)["device"] == "cuda:1"


class TestTheObjectives:
    def test_down_up_and_neutral_in_our_words(self):
        ways = {"stt_latency_ms": "down", "concurrent_capacity": "up", "gpu_utilization": "neutral"}
        assert translated({"metrics": {"target_direction": ways}})["objectives"] == {
            "stt_latency_ms": {"direction": "minimize"},
            "concurrent_capacity": {"direction": "maximize"},
            "gpu_utilization": {"direction": "neutral", "target": 70.0},
        }

    @pytest.mark.parametrize("way", ["down", "up"])
    def test_a_target_is_that_of_a_neutral_objective_only(self, way):
        data = translated({"metrics": {"target_direction": {"gpu_utilization": way}}})
        assert "target" not in data["objectives"]["gpu_utilization"]

    @pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in TARGETS])
    def test_a_neutral_objective_without_a_known_target_is_refused(self, name):
        assert refused({"metrics": {"target_direction": {name: "neutral"}}}) == (
            f"metrics.target_direction.{name}: neutral needs a target, "
            "known only for gpu_utilization"
        )

    @pytest.mark.parametrize("way", ["minimize", "Down", True, None, 1])
    def test_another_direction_is_refused(self, way):
        assert refused({"metrics": {"target_direction": {"oom_events": way}}}) == (
            f"metrics.target_direction.oom_events: found {way!r}, allowed: down, up, neutral"
        )

    @pytest.mark.parametrize("metrics", [None, {}, {"target_direction": None}])
    def test_without_directions_they_are_the_bundled_ones(self, metrics):
        assert translated({"metrics": metrics})["objectives"] == BUNDLED["objectives"]


class TestWhatTheBlockDoesNotSay:
    def test_comes_from_the_bundled_study_but_for_the_baseline(self):
        without = {key: value for key, value in BUNDLED.items() if key != "baseline"}
        assert translated({"enabled": True}) == without

    def test_what_it_says_replaces_a_whole_key(self):
        data = translated({"name": "dream", "load": {"warmup_s": 1}})
        assert (data["name"], data["load"]) == ("dream", {"warmup_s": 1})
        assert data["vllm"] == BUNDLED["vllm"]

    def test_its_own_baseline_is_kept(self):
        point = {"vllm_memory_util": 0.5, "whisper_model_size": "tiny"}
        assert translated({"baseline": point})["baseline"] == point

    def test_its_own_keys_are_not_handed_on(self):
        block = {"enabled": True, "template": "t", "evaluator": {"class": "X"}, "metrics": {}}
        assert set(translated(block)) <= set(Document.model_fields)

    def test_the_two_parameters_are_bound_and_bounded_by_their_names(self):
        space = checked(translated(yaml.safe_load(LEGACY)[0]), source=None).space
        assert {parameter.name: str(parameter.binding) for parameter in space} == BINDINGS
        assert BINDINGS == {
            "vllm_memory_util": "vllm.args.gpu-memory-utilization",
            "whisper_model_size": "whisper.model",
        }
        assert space["vllm_memory_util"].bounds == BOUNDS["vllm_memory_util"] == (0.30, 0.70)

    def test_the_baseline_is_what_ran_when_the_first_users_began(self):
        (block,) = yaml.safe_load(LEGACY)
        assert checked(translated(block), source=None).baseline == BASELINE
        assert BASELINE == {"vllm_memory_util": 0.50, "whisper_model_size": "small"}


class TestWhatAPersonHasToRead:
    @pytest.mark.parametrize(("evaluator", "notes"), [({"class": "X"}, 2), (None, 1), ({}, 1)])
    def test_of_an_evaluator_only_where_there_is_one(self, evaluator, notes):
        block = {"evaluator": evaluator}
        _, said = from_legacy(block, source="dream.yaml", bundled=lambda gpu: dict(BUNDLED))
        assert len(said) == notes
        assert said[0].startswith("the block is of the legacy format")
        assert all("evaluator is replaced by ours" in note for note in said[1:])


class TestARefusal:
    @pytest.mark.parametrize(
        ("block", "said"),
        [
            ({"enabled": False}, "enabled: found false; the experiment is switched off"),
            ({"metric": {}}, "metric: unknown key; did you mean 'metrics'?"),
            ({"serch_space": {}}, "serch_space: unknown key; did you mean 'search_space'?"),
            (
                {"budget": {"alow_gpu": 1}},
                "budget.alow_gpu: unknown key; did you mean 'allow_gpu'?",
            ),
            (
                {"budget": {"x": 1}},
                "budget.x: unknown key; allowed: wallclock_sec, max_candidates, max_generations, "
                "allow_gpu",
            ),
            ({"budget": [360]}, "budget: found a list, allowed: a mapping"),
            ({"budget": "short"}, "budget: found a str, allowed: a mapping"),
            ({"metrics": [1]}, "metrics: found a list, allowed: a mapping"),
            (
                {"metrics": {"target_direction": ["down"]}},
                "target_direction: found a list, allowed: a mapping",
            ),
        ],
    )
    def test_is_one_line_with_key_found_and_allowed(self, block, said):
        assert refused(block).endswith(said)

    def test_of_a_word_like_no_other_names_all_keys_of_both_formats(self):
        line = refused({"qqq": 1})
        assert line.startswith("qqq: unknown key; allowed: artifacts, baseline, budget, ")
        named = set(line.partition("allowed: ")[2].split(", "))
        assert named == {*Document.model_fields, "enabled", "template", "evaluator", "metrics"}

    def test_comes_before_the_bundled_study_is_looked_for(self):
        def bundled(gpu):
            raise AssertionError("looked for")

        for block in ({"enabled": False}, {"qqq": 1}, {"budget": {"qqq": 1}}):
            with pytest.raises(UsageError):
                from_legacy(block, source="dream.yaml", bundled=bundled)
