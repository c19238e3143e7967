"""A study on a recorded table: any sampler, in seconds."""

import json
import sqlite3
from contextlib import closing

import optuna
import pytest
import yaml

from study.report import main as report_main
from study.run import main
from study.samplers.legacy_fitness import fitness_of
from tests.stores import opened

SPACE = {"vllm_memory_util": [0.40, 0.50, 0.60], "whisper_model_size": ["tiny", "small"]}
CONFIG = {
    "name": "box",
    "vllm": {"model": "some/model"},
    "search_space": SPACE,
    "objectives": {"stt_latency_ms": "minimize", "concurrent_capacity": "maximize"},
}
HEADER = (
    "param:vllm_memory_util,param:whisper_model_size,value:stt_latency_ms,"
    "value:concurrent_capacity,constraint:kv_cache_gib,state,cause,duration_s\n"
)
SEEDS = (0.40, 0.50, 0.60)


def rows():
    for util in SEEDS:
        for size, ms in (("tiny", 50.0), ("small", 300.0)):
            for replicate in range(2):
                if util == 0.40:
                    yield f"{util},{size},,,0.79,PRUNED,kv_cache_no_blocks,30\n"
                else:
                    capacity = 3 if util == 0.50 else 14
                    yield f"{util},{size},{ms + replicate},{capacity},-0.3,COMPLETE,,60\n"


@pytest.fixture
def box(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, table = tmp_path / "box.yaml", tmp_path / "table.csv"
    config.write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    table.write_text(HEADER + "".join(rows()))
    return [str(config), "--replay", str(table), "--json", "--quiet"]


def run(argv, capsys, code=0):
    assert main(argv) == code
    return json.loads(capsys.readouterr().out)


def test_a_replay_is_labelled_as_one_everywhere(box, capsys, tmp_path):
    report = run(box, capsys)
    assert report["weights"] == "replay"
    assert report["study"] == "box-replay-table"
    study = optuna.load_study(
        study_name="box-replay-table",
        storage=opened(f"sqlite:///{tmp_path}/studies/box-replay-table.db"),
    )
    assert study.user_attrs["replay"] == "table.csv"
    assert all(trial.user_attrs["weights"] == "replay" for trial in study.trials)


def test_a_replay_finds_the_front_of_its_table(box, capsys):
    report = run(box, capsys)
    front = [report["trials"][number]["params"] for number in report["front"]]
    assert front == [{"vllm_memory_util": 0.60, "whisper_model_size": "tiny"}]
    assert report["trials"][0]["params"] == {
        "vllm_memory_util": 0.50,
        "whisper_model_size": "small",
    }


def test_what_was_recorded_as_infeasible_is_pruned_with_its_cause(box, capsys):
    report = run(box, capsys)
    pruned = [trial for trial in report["trials"] if trial["state"] == "PRUNED"]
    assert {trial["params"]["vllm_memory_util"] for trial in pruned} <= {0.40}
    assert all(trial["infeasible"]["cause"] == "kv_cache_no_blocks" for trial in pruned)
    assert all(trial["constraints"] == {"kv_cache_gib": 0.79} for trial in pruned)


def test_what_was_recorded_has_a_fitness_for_a_tournament_to_go_by(box, capsys, tmp_path):
    run(box, capsys)
    study = optuna.load_study(
        study_name="box-replay-table",
        storage=opened(f"sqlite:///{tmp_path}/studies/box-replay-table.db"),
    )
    assert study.best_trials
    assert all((fitness_of(trial) or 0) > 0 for trial in study.best_trials)


@pytest.mark.parametrize("sampler", ["auto", "tournament", "tpe", "gp", "random", "grid"])
def test_every_sampler_runs_on_a_replay(box, capsys, sampler):
    report = run([*box, "--sampler", sampler, "--trials", "6"], capsys)
    assert report["front"]


def test_the_same_seed_draws_the_same_rows(box, capsys):
    first = run([*box, "--study-name", "a"], capsys)
    second = run([*box, "--study-name", "b"], capsys)
    assert [t["values"] for t in first["trials"]] == [t["values"] for t in second["trials"]]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("value:stt_latency_ms", "value:stt", "value:stt_latency_ms"),
        ("param:whisper_model_size", "param:size", "param:whisper_model_size"),
        ("PRUNED", "GONE", "state"),
        ("0.6,", "0.61,", "no row"),
    ],
)
def test_a_table_that_does_not_fit_is_one_line(box, capsys, tmp_path, old, new, said):
    table = tmp_path / "table.csv"
    table.write_text(table.read_text().replace(old, new))
    assert main(box) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert said in line


def test_a_table_that_is_not_there_is_one_line(box, capsys, tmp_path):
    (tmp_path / "table.csv").unlink()
    assert main(box) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_lineage_of_a_trial_goes_back_to_the_root(box, capsys, tmp_path):
    run(box, capsys)
    url = f"sqlite:///{tmp_path}/studies/box-replay-table.db"
    assert report_main(["--storage", url, "--lineage", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("box-replay-table/3 ")
    assert lines[-1] == "every record is whole"
    assert lines[-2].strip().startswith("root")


def test_a_record_that_was_changed_is_detected(box, capsys, tmp_path):
    run(box, capsys)
    with closing(sqlite3.connect(tmp_path / "studies/box-replay-table.db")) as database, database:
        database.execute("UPDATE trial_values SET value = 1 WHERE trial_id = 1 AND objective = 0")
    url = f"sqlite:///{tmp_path}/studies/box-replay-table.db"
    assert report_main(["--storage", url, "--lineage", "0"]) == 1
    assert "was changed" in capsys.readouterr().out


def test_the_lineage_of_no_trial_is_one_line(box, capsys, tmp_path):
    run(box, capsys)
    url = f"sqlite:///{tmp_path}/studies/box-replay-table.db"
    assert report_main(["--storage", url, "--lineage", "99"]) == 2
    assert "allowed: 0 to" in capsys.readouterr().err
