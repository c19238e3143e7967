"""The command, on servers that are real processes without a model."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import optuna
import psutil
import pynvml
import pytest

from objectives.device import discovery
from objectives.device.cpu import CpuNode
from study.run import main
from tests.fakes import machines
from tests.fakes.fake_nvml import FakeGpu, FakeNvml
from tests.fakes.fixed_node import fixed_node
from tests.paths import ROOT
from tests.stores import opened
from tests.study.boxes import CONFIG, environment, write_box

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def box(tmp_path, monkeypatch):
    """A machine whose engines are fakes; gives command lines for a configuration."""
    monkeypatch.chdir(tmp_path)
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    fixed_node(tmp_path / "machine")
    monkeypatch.setattr(discovery, "CpuNode", partial(CpuNode, root=tmp_path / "machine"))

    def box(*options, knobs=None, **changes):
        return [str(write_box(tmp_path, knobs=knobs, **changes)), *options]

    return box


def test_every_point_of_a_small_space_is_measured_once_the_baseline_first(box, capsys):
    assert main(box("--json")) == 0
    report = json.loads(capsys.readouterr().out)
    points = [tuple(trial["params"].values()) for trial in report["trials"]]
    assert len(points) == len(set(points)) == 2
    assert report["trials"][0]["params"] == {"util": 0.15, "size": "tiny"}
    assert report["baseline"] == 0
    assert {trial["state"] for trial in report["trials"]} == {"COMPLETE"}
    assert report["front"]


def lost_after_a_while():
    """A card that answers when it is chosen, and not when it is described."""
    gone = machines.refusing(["nvmlDeviceGetPowerUsage"], pynvml.NVML_ERROR_GPU_IS_LOST)
    return FakeNvml(FakeGpu(refused=gone))


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("machine", "said"),
    [
        (machines.gb10, "CPU and GPU share theirs"),
        (machines.mig_container, "given a MIG slice"),
        (machines.mig_parent, "split by MIG"),
    ],
)
def test_a_device_that_cannot_be_measured_on_is_one_line(box, capsys, machine, said, options):
    argv = box(*options, device="cuda")
    with machine().installed():
        assert main(argv) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("study.run: device cuda: ")
    assert said in line


def test_a_device_that_is_lost_at_the_door_is_one_line(box, capsys):
    argv = box(device="cuda")
    with lost_after_a_while().installed():
        assert main(argv) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line == "study.run: nvmlDeviceGetPowerUsage: GPU is lost"


def test_what_a_run_left_is_what_the_next_one_goes_on_with_until_nothing_is(box, capsys):
    argv = box("--json")
    assert main([*argv, "--trials", "1"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert len(first["trials"]) == 1
    assert main(argv) == 0
    second = json.loads(capsys.readouterr().out)
    assert len(second["trials"]) == 2
    assert second["trials"][:1] == first["trials"]
    assert main(argv) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["trials"] == second["trials"]
    assert "point" in said.err
    assert "trial " not in said.err


def test_nothing_feasible_ends_with_1(box, capsys):
    assert main(box("--json", knobs={"FAKE_VLLM_REFUSE": "kv_cache_no_blocks"})) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["front"] == []
    assert {trial["infeasible"]["cause"] for trial in report["trials"]} == {"kv_cache_no_blocks"}


def test_a_dry_run_predicts_everything_and_launches_nothing(box, capsys, tmp_path):
    assert main(box("--dry-run", "--json")) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert not (tmp_path / "studies").exists()


def test_a_bench_that_does_not_work_stops_instead_of_blaming_candidates(box, capsys):
    assert main(box("--json", knobs={"FAKE_VLLM_CRASH_AT_START": "7"})) == 1
    report = json.loads(capsys.readouterr().out)
    assert {trial["state"] for trial in report["trials"]} <= {"FAIL", "WAITING"}
    assert len(report["trials"]) <= 4


def test_other_conditions_need_another_study(box, capsys):
    assert main(box("--trials", "1")) == 0
    load = {**CONFIG["load"], "measure_s": 0.5}
    capsys.readouterr()
    assert main(box("--trials", "1", load=load)) == 2
    said = capsys.readouterr().err
    assert "another load" in said
    assert said.strip().count("\n") <= 2


@pytest.mark.parametrize(
    "argv",
    [["--trials", "0"], ["--timeout", "-1"], ["--seed", "-2"], ["--nonsense"]],
)
def test_bad_usage_ends_with_2(argv):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sampler", "hill"], "sampler: found 'hill'"),
        (["--storage", "mongodb://x"], "unknown scheme"),
    ],
)
def test_a_bad_option_is_one_line(box, capsys, options, said):
    assert main([*box("--quiet"), *options]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_a_refused_sampler_leaves_nothing_behind(box, capsys, tmp_path):
    assert main(box(sampler={"name": "tpe", "options": {"nonsense": 1}})) == 2
    assert "sampler tpe" in capsys.readouterr().err
    assert not (tmp_path / "studies").exists()


def test_an_unknown_model_folder_leaves_nothing_behind(box, capsys, tmp_path):
    assert main(box(vllm={"model": "./nowhere"})) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "studies").exists()


def test_a_missing_engine_leaves_nothing_behind(box, capsys, tmp_path):
    assert main(box(engines={"vllm": "/no/such/python", "whisper": "auto"})) == 2
    assert "/no/such/python" in capsys.readouterr().err
    assert not (tmp_path / "studies").exists()


def test_a_missing_file_is_one_line(capsys):
    assert main(["missing.yaml"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def ours(pid):
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_with_130_and_the_point_is_measured_again(
    box, tmp_path, capsys, number
):
    argv = box("--json", knobs={"FAKE_VLLM_START_S": "2"})
    log = tmp_path / "progress"
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("w") as out:
        run = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.fixed_node", str(tmp_path / "machine"), *argv],
            stdout=subprocess.DEVNULL,
            stderr=out,
            env=surroundings,
            cwd=tmp_path,
        )
    while "start vllm" not in log.read_text():
        assert run.poll() is None, log.read_text()
        time.sleep(0.05)
    children = ours(run.pid)
    run.send_signal(number)
    assert run.wait(60) == 130
    _gone, alive = psutil.wait_procs(
        [psutil.Process(pid) for pid in children if psutil.pid_exists(pid)], timeout=10
    )
    assert alive == []
    assert main(box("--json", "--trials", "1", knobs={"FAKE_VLLM_START_S": "0.05"})) == 0
    report = json.loads(capsys.readouterr().out)
    assert [trial["state"] for trial in report["trials"]] == ["FAIL", "COMPLETE"]
    assert report["trials"][0]["params"] == report["trials"][1]["params"]


def test_the_study_says_under_which_conditions_it_was_measured(box, tmp_path):
    assert main(box("--trials", "1", "--quiet")) == 0
    study = optuna.load_study(
        study_name="fakes", storage=opened(f"sqlite:///{tmp_path}/studies/fakes.db")
    )
    attrs = study.user_attrs
    assert attrs["schema"] == 1
    assert attrs["device"]["kind"] == "cpu"
    assert attrs["load"]["trace_sha256"]
    assert attrs["engines"]["vllm"]["vllm"] == "0.32.0"
    assert set(attrs["constraints"]) == set(study.trials[0].constraints)
    assert study.metric_names == ["stt_latency_ms", "llm_latency_ms", "concurrent_capacity"]
    artifacts = {path.name for path in (tmp_path / "studies" / "fakes.db.artifacts").iterdir()}
    assert len(artifacts) >= 3
