"""A configuration is checked once, at the door."""

import json
import subprocess
import sys

import pytest
import yaml

from objectives.errors import UsageError
from study.config import files
from study.config.__main__ import main
from study.config.files import bundled, read_config
from study.config.reference import reference
from study.config.schema import Document

LEGACY = """
- name: spica_gpu_allocation
  enabled: true
  template: null
  search_space:
    vllm_memory_util: [0.40, 0.45, 0.50, 0.55, 0.60]
    whisper_model_size: ["tiny", "base", "small"]
  evaluator:
    path: /home/somebody/spica_gpu_allocation.py
    class: SpicaGPUAllocation
    init_kwargs: {}
  budget:
    wallclock_sec: 360
    max_candidates: 10
    max_generations: 4
    allow_gpu: true
  metrics:
    target_direction:
      stt_latency_ms: "down"
      llm_latency_ms: "down"
      gpu_utilization: "neutral"
      oom_events: "down"
      concurrent_capacity: "up"
"""

OURS = {
    "name": "mine",
    "vllm": {"model": "some/model"},
    "search_space": {"vllm_memory_util": [0.4, 0.5], "whisper_model_size": ["tiny", "small"]},
}


@pytest.fixture(autouse=True)
def machine_without_a_gpu(monkeypatch):
    monkeypatch.setattr(files, "_machine_kind", lambda: "cpu")


@pytest.fixture
def write(tmp_path):
    def write(content, name="box.yaml"):
        path = tmp_path / name
        path.write_text(
            content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
        )
        return path

    return write


def refusal(path, **options):
    with pytest.raises(UsageError) as caught:
        read_config(path, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line.removeprefix(str(path)).removeprefix(": ")


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_the_bundled_studies_are_the_seeds_fifteen_points(kind):
    config = bundled(kind)
    assert config.space.size == 15
    assert config.baseline == {"vllm_memory_util": 0.5, "whisper_model_size": "small"}
    assert config.space["vllm_memory_util"].bounds == (0.30, 0.70)


def test_without_a_file_the_study_for_this_machine_is_read():
    assert read_config(None).name == bundled("cpu").name


def test_the_legacy_block_runs_as_it_stands(write):
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


def test_the_legacy_budget_keeps_its_meaning(write):
    budget = read_config(write(LEGACY)).document.budget
    assert (budget.candidates, budget.generations, budget.trials) == (10, 4, 40)
    assert budget.trial_timeout_s == 360  # no candidate outlasts an epoch
    assert budget.timeout_s == 4 * 360  # four epochs


def test_the_legacy_evaluator_is_replaced_and_that_is_said_once(write):
    notes = read_config(write(LEGACY)).notes
    assert len([note for note in notes if "evaluator" in note]) == 1


def test_a_legacy_block_that_forbids_the_gpu_runs_on_the_cpu(write):
    text = LEGACY.replace("allow_gpu: true", "allow_gpu: false")
    assert read_config(write(text)).document.device == "cpu"


def test_a_legacy_block_may_say_what_ours_says(write):
    text = LEGACY + "  load: {measure_s: 7}\n"
    assert read_config(write(text)).document.load.measure_s == 7


def test_a_file_with_several_experiments_needs_a_name(write):
    two = [*yaml.safe_load(LEGACY), {"name": "other", "search_space": {}}]
    path = write({"experiments": two})
    assert "--experiment: spica_gpu_allocation, other" in refusal(path)
    assert read_config(path, experiment="spica_gpu_allocation").space.size == 15
    assert "no 'third'" in refusal(path, experiment="third")


def test_an_experiment_that_is_switched_off_is_not_run(write):
    assert "switched off" in refusal(write(LEGACY.replace("enabled: true", "enabled: false")))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_candidates", "max_candidate", "budget.max_candidate: unknown key; did you mean"),
        ("wallclock_sec: 360", "wallclock_sec: -1", "budget.wallclock_sec: found -1"),
        ('"up"', '"sideways"', "concurrent_capacity: found 'sideways', allowed: down, up, neutral"),
        ("template", "templat", "templat: unknown key; did you mean 'template'"),
        ('llm_latency_ms: "down"', 'llm_latency_ms: "neutral"', "neutral needs a target"),
    ],
)
def test_a_mistake_in_a_legacy_block_is_one_line(write, old, new, said):
    assert said in refusal(write(LEGACY.replace(old, new)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vllm": {"modle": "x"}}, "vllm.modle: unknown key; did you mean 'model'?"),
        ({"vllm": {}}, "vllm.model: missing"),
        ({"vllm": {"model": "m", "weights": "bad"}}, "vllm.weights: found 'bad'"),
        ({"load": {"llm": {"rate_rps": -1}}}, "load.llm.rate_rps: found -1"),
        ({"load": {"measure_s": "soon"}}, "load.measure_s: found 'soon'"),
        ({"search_space": {}}, "search_space: found nothing"),
        ({"search_space": {"foo": [1, 2]}}, "search_space.foo: no `bind`"),
        ({"search_space": {"foo": {"bind": "gpu", "choices": [1]}}}, "search_space.foo: 'gpu'"),
        ({"search_space": {"vllm_memory_util": {"low": 0.6, "high": 0.4}}}, "high must not be"),
        ({"baseline": {"vllm_memory_util": 0.9}}, "baseline.vllm_memory_util: found 0.9, allowed"),
        ({"baseline": {"whisper": "tiny"}}, "baseline.whisper: unknown"),
        ({"baseline": {"vllm_memory_util": 0.4}}, "baseline.whisper_model_size: missing"),
        ({"sampler": "hill"}, "sampler: found 'hill', allowed: auto"),
        ({"slo": {"stt_latency_ms": {}}}, "slo.stt_latency_ms: give either max or min"),
        ({"slo": {"speed": {"max": 1}}}, "slo.speed: unknown"),
        ({"objectives": {"speed": "minimize"}}, "speed is no objective"),
        ({"objectives": {"gpu_utilization": "neutral"}}, "needs a target"),
        ({"objectives": {"wer": "minimize"}}, "wer: missing"),
        ({"start_order": ["vllm"]}, "start_order: found ['vllm']"),
        ({"neighbours": [{"name": "a", "kind": "hold"}]}, "neighbours.0.gib: missing"),
        ({"neighbours": [{"name": "a", "kind": "rent"}]}, "neighbours.0.kind: found 'rent'"),
        ({"seed": -1}, "seed: found -1"),
    ],
)
def test_a_mistake_is_one_line_with_key_found_and_allowed(write, change, said):
    assert said in refusal(write({**OURS, **change}))


def test_yaml_that_is_none_is_one_line_with_its_place(write):
    assert refusal(write("a: [")).startswith("line ")
    assert "given twice" in refusal(write("name: a\nname: b\n"))
    assert "found a list" in refusal(write("- 1\n"))
    assert "found nothing" in refusal(write(""))


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    assert "cannot be read" in refusal(tmp_path / "missing.yaml")


def test_anything_that_a_server_takes_can_be_searched(write):
    space = {
        "util": {
            "bind": "vllm.args.gpu-memory-utilization",
            "low": 0.3,
            "high": 0.7,
            "step": 0.01,
        },
        "seqs": {"bind": "vllm.args.max-num-seqs", "low": 2, "high": 64, "log": True},
        "kv": {"bind": "vllm.args.kv-cache-dtype", "choices": ["auto", "fp8"]},
        "eager": {"bind": "vllm.args.enforce-eager", "choices": [True, False]},
        "place": {"bind": "whisper.device", "choices": ["same", "cpu"]},
        "beam": {"bind": "whisper.args.beam-size", "choices": [1, 5], "when": {"place": "same"}},
        "attention": {"bind": "vllm.env.VLLM_ATTENTION_BACKEND", "choices": ["A", "B"]},
    }
    config = read_config(write({**OURS, "search_space": space}))
    assert config.space["seqs"].integer
    assert not config.space.is_active("beam", {"place": "cpu"})
    assert config.baseline is None


def test_a_hard_objective_adds_a_constraint_to_every_trial(write):
    slo = {"stt_latency_ms": {"max": 500, "hard": True}, "llm_latency_ms": {"max": 1000}}
    config = read_config(write({**OURS, "slo": slo}))
    assert config.constraint_names[-1] == "slo_stt_latency_ms"
    assert len(config.limits) == 1


def test_a_missing_baseline_is_what_runs_today(write):
    space = {**OURS["search_space"], "seqs": {"bind": "vllm.args.max_num_seqs", "choices": [4, 8]}}
    vllm = {"model": "m", "args": {"max-num-seqs": 8}}
    config = read_config(write({**OURS, "search_space": space, "vllm": vllm}))
    assert config.baseline == {"vllm_memory_util": 0.5, "whisper_model_size": "small", "seqs": 8}


def test_the_storage_is_a_file_named_after_the_study_by_default(write):
    assert read_config(write(OURS)).storage_url == "sqlite:///studies/mine.db"


def test_an_option_of_the_command_line_is_checked_like_a_key(write):
    config = read_config(write(OURS))
    assert config.with_changes(name="other").name == "other"
    with pytest.raises(UsageError, match="sampler: found 'hill'"):
        config.with_changes(sampler={"name": "hill"})


def test_the_schema_names_every_key_for_editors():
    schema = Document.model_json_schema()
    assert set(schema["properties"]) == set(Document.model_fields)


def test_the_reference_holds_every_key_with_its_meaning():
    text = reference()
    assert "| `load.llm.rate_rps` | `2.0` | Arrivals a second. |" in text
    assert all(f"`{key}`" in text for key in Document.model_fields)


def test_the_command_checks_a_file(write, capsys):
    assert main([str(write(OURS))]) == 0
    assert "mine: 4 points" in capsys.readouterr().out
    assert main([str(write({**OURS, "seeed": 1}))]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_command_prints_the_schema(capsys):
    assert main(["--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Document"


def test_reading_a_configuration_imports_no_engine(write):
    code = (
        "import sys; from pathlib import Path; from study.config import read_config;"
        f"read_config(Path({str(write(OURS))!r}));"
        "bad = {'torch', 'vllm', 'whisper', 'transformers'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
