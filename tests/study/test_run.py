"""The command, on servers that are real processes without a model."""

import json
import os
import signal
import subprocess
import sys
import time

import optuna
import psutil
import pytest
import yaml

from objectives.device.discovery import open_device
from study.run import main
from tests.fakes.engine import write_engine
from tests.paths import ROOT
from tests.serving_bench import BYTES_PER_TOKEN, MODEL, NON_KV_BYTES

optuna.logging.set_verbosity(optuna.logging.WARNING)

CONFIG = {
    "name": "fakes",
    "device": "cpu",
    "whisper": {"args": {"dtype": "float32"}},
    "search_space": {
        "util": {
            "bind": "vllm.args.gpu-memory-utilization",
            "choices": [0.10, 0.15, 0.20],
            "bounds": [0.05, 0.5],
        },
        "size": {"bind": "whisper.model", "choices": ["tiny", "small"]},
    },
    "baseline": {"util": 0.15, "size": "small"},
    "load": {
        "llm": {"rate_rps": 20, "prompt_tokens": 16, "output_tokens": 4},
        "stt": {"rate_rps": 10, "clip_s": [1]},
        "warmup_s": 0.1,
        "measure_s": 0.8,
        "drain_s": 2,
        "quantile": "p50",
    },
    "headroom_gib": 0,
}


@pytest.fixture
def box(tmp_path, monkeypatch):
    """A machine whose engines are fakes; gives command lines for a configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPU_ALLOCATION_STUDY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GPU_ALLOCATION_STUDY_LOCKS", str(tmp_path / "locks"))
    device = open_device("cpu")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(MODEL))

    def box(*options, knobs=None, **changes):
        told = {
            "FAKE_VLLM_DEVICE_TOTAL_BYTES": str(device.total_bytes),
            "FAKE_VLLM_NON_KV_BYTES": str(NON_KV_BYTES),
            "FAKE_VLLM_BYTES_PER_TOKEN": str(BYTES_PER_TOKEN),
            "FAKE_VLLM_STYLE": "cpu-0.32",
            **(knobs or {}),
        }
        engine = write_engine(tmp_path / "engine", knobs=told)
        content = {
            **CONFIG,
            "engines": {"vllm": str(engine), "whisper": str(engine)},
            "vllm": {
                "model": str(model),
                "args": {"max-model-len": 1024, "max-num-seqs": 64},
                "start_timeout_s": 30,
            },
            **changes,
        }
        path = tmp_path / "box.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return [str(path), *options]

    return box


def test_every_point_of_a_small_space_is_measured_once_the_baseline_first(box, capsys):
    assert main(box("--json")) == 0
    report = json.loads(capsys.readouterr().out)
    points = [tuple(trial["params"].values()) for trial in report["trials"]]
    assert len(points) == len(set(points)) == 6
    assert report["trials"][0]["params"] == {"util": 0.15, "size": "small"}
    assert report["baseline"] == 0
    assert {trial["state"] for trial in report["trials"]} == {"COMPLETE"}
    assert report["front"]


def test_a_space_that_is_used_up_says_so_and_ends_with_0(box, capsys):
    argv = box()
    assert main(argv) == 0
    capsys.readouterr()
    assert main(argv) == 0
    said = capsys.readouterr()
    assert "point" in said.err
    assert "trial " not in said.err


def test_what_a_run_left_is_what_the_next_one_goes_on_with(box, capsys):
    argv = box("--json")
    assert main([*argv, "--trials", "2"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert len(first["trials"]) == 2
    assert main(argv) == 0
    second = json.loads(capsys.readouterr().out)
    assert len(second["trials"]) == 6
    assert second["trials"][:2] == first["trials"]


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
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("w") as out:
        run = subprocess.Popen(
            [sys.executable, "-m", "study.run", *argv],
            stdout=subprocess.DEVNULL,
            stderr=out,
            env=environment,
            cwd=tmp_path,
        )
    while "start vllm" not in log.read_text():
        assert run.poll() is None, log.read_text()
        time.sleep(0.05)
    children = ours(run.pid)
    run.send_signal(number)
    assert run.wait(60) == 130
    assert not any(psutil.pid_exists(pid) for pid in children)
    assert main(box("--json", "--trials", "1", knobs={"FAKE_VLLM_START_S": "0.05"})) == 0
    report = json.loads(capsys.readouterr().out)
    assert [trial["state"] for trial in report["trials"]] == ["FAIL", "COMPLETE"]
    assert report["trials"][0]["params"] == report["trials"][1]["params"]


def test_the_study_says_under_which_conditions_it_was_measured(box, tmp_path):
    assert main(box("--trials", "1", "--quiet")) == 0
    study = optuna.load_study(study_name="fakes", storage=f"sqlite:///{tmp_path}/studies/fakes.db")
    attrs = study.user_attrs
    assert attrs["schema"] == 1
    assert attrs["device"]["kind"] == "cpu"
    assert attrs["load"]["trace_sha256"]
    assert attrs["engines"]["vllm"]["vllm"] == "0.32.0"
    assert set(attrs["constraints"]) == set(study.trials[0].constraints)
    assert study.metric_names == ["stt_latency_ms", "llm_latency_ms", "concurrent_capacity"]
    artifacts = {path.name for path in (tmp_path / "studies" / "fakes.db.artifacts").iterdir()}
    assert len(artifacts) >= 3
