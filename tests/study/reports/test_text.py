"""The report as plain text, 80 columns wide."""

import shlex
import subprocess

import optuna
import pytest

from objectives.device import LargestAllocation
from study.reports.text import columns, continued, text_report
from study.results.findings import read_study
from tests.study import studies

SHORT = LargestAllocation(
    granted_bytes=9 << 30, asked_bytes=9 << 30, free_bytes=9 << 30, before="vllm"
)


def report(study, url="sqlite:///studies/shared-gpu.db"):
    return text_report(read_study(study, url))


@pytest.fixture(scope="module")
def whole():
    study = studies.whole_study()
    studies.complete(study, 0.60, "tiny", noise=1.04, doubts=["60 samples; it takes 200"])
    return report(study)


def test_no_line_is_wider_than_80_columns(whole):
    assert max(map(len, whole.splitlines())) <= 80


def test_it_begins_with_the_study_and_the_verdict(whole):
    lines = whole.splitlines()
    assert lines[0] == "Study shared-gpu"
    assert lines[4].startswith("11 of 15 settings tried work")


def test_the_front_has_intervals_and_its_doubts_are_below(whole):
    assert "52.3 (49.7-54.9)" in whole
    assert "12*" in whole
    assert "* 60 samples; it takes 200 (trial 17)" in whole


def test_the_infeasible_are_grouped_by_cause_with_a_telling_line(whole):
    assert "kv_cache_no_blocks: 4 trials, 3 of them predicted without a launch" in whole
    assert "> trial 14: ValueError: No available memory for the cache blocks." in whole


def test_a_cause_that_only_an_older_study_knows_is_shown_as_it_stands():
    study = studies.empty_study()
    studies.refused(study, 0.40, "small", cause="gone", evidence="it went")
    text = text_report(read_study(study, ""))
    assert "gone: 1 trials" in text
    assert "it went" in text


def test_a_start_that_was_refused_for_memory_says_whether_that_lay_in_pieces():
    study = studies.empty_study()
    studies.complete(study, 0.50, "tiny", found=SHORT)
    studies.refused(study, 0.60, "small", cause="cuda_oom_load", found=SHORT)
    text = " ".join(report(study).split())
    assert "Largest single allocation: 9.00 GiB of 9.00 GiB free, right before vllm" in text
    remedy = text.index("remedy: ")
    assert text.index("Memory was short, not fragmented: one allocation right") > remedy


def test_a_broken_bench_does_not_speak_against_the_setting(whole):
    assert "15: bench: ollama left during the trial" in whole


def test_predicted_and_logged_kv_cache_stand_side_by_side(whole):
    row = next(line.split() for line in whole.splitlines() if line.split()[:2] == ["4", "0.40"])
    assert row == ["4", "0.40", "0.34", "+18.5"]


def test_the_picks_are_command_lines_that_a_shell_reads(whole):
    block = whole.split("Trial 4, to run:\n")[1].split("\n\n")[0]
    words = shlex.split(block.replace("\\\n", ""))  # a shell joins what a backslash parted
    assert words[2:5] == ["python", "-m", "vllm.entrypoints.openai.api_server"]
    assert words[words.index("--gpu-memory-utilization") + 1] == "0.45"


@pytest.mark.parametrize(
    ("options", "caveat"),
    [
        ({"weights": "dummy"}, "Dummy weights: speed and memory are real, words are not."),
        ({"replay": "t.csv"}, "Replay of a recorded table (t.csv): nothing was measured now."),
    ],
)
def test_what_the_figures_are_not_is_said_at_the_top(options, caveat):
    assert caveat in report(studies.whole_study(**options)).split("Front\n")[0]


def test_a_study_with_many_parameters_and_objectives_still_fits():
    objectives = dict(studies.OBJECTIVES)
    objectives |= {
        name: {"direction": "minimize", "target": None} for name in ("wer", "oom_events")
    }
    objectives["gpu_utilization"] = {"direction": "minimize", "target": 70.0}
    text = report(studies.whole_study(objectives=objectives))
    assert max(map(len, text.splitlines())) <= 80
    assert "trial 4: vllm_memory_util=0.45 whisper_model_size=tiny" in text


def test_an_empty_study_says_what_to_do():
    assert "python -m study.run" in report(studies.empty_study())


def test_nothing_feasible_leaves_out_what_there_is_not():
    study = studies.empty_study()
    studies.predicted_infeasible(study, 0.40, "small")
    text = report(study)
    assert "Picks" not in text
    assert "python -m study.fit" in text


def test_a_header_breaks_where_its_words_do():
    assert columns(["vllm_memory_util"], [["0.5"]]) == [
        "  vllm_",
        "memory_",
        "   util",
        "-------",
        "    0.5",
    ]


def test_a_continued_command_is_the_same_command():
    command = "A='b c' run --first " + " ".join(f"--option-{n} 'value {n}'" for n in range(12))
    lines = continued(command)
    assert max(map(len, lines)) <= 80
    read = ["sh", "-c", "set -- " + "\n".join(lines) + '; printf "%s\\n" "$@"']
    words = subprocess.run(read, capture_output=True, text=True, check=True).stdout.splitlines()
    assert words == shlex.split(command)
    assert not any(line.endswith("--option-3 \\") for line in lines)


def test_a_long_front_is_cut_and_says_so():
    study = optuna.create_study(
        directions=["minimize", "minimize"], sampler=optuna.samplers.BruteForceSampler()
    )
    study.optimize(
        lambda trial: (trial.suggest_int("x", 0, 29), 29 - trial.params["x"]), n_trials=30
    )
    assert "14 more are on the front; --format html, csv or json has them all." in report(study)
