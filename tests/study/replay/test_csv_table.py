from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from objectives.errors import UsageError
from objectives.space import point_key
from study.replay.csv_table import read_table, table_frame
from tests.corpus import corpus_folder
from tests.study.fifteen import OBJECTIVES, SPACE, make_study, measure

CORPUS = corpus_folder()

HEADER = "param:util,param:size,value:latency_ms,constraint:kv,state,cause,duration_s"
GOOD = "0.5,tiny,44.5,-1,COMPLETE,,31"


def written(folder: Path, *lines: str) -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_reads_what_it_says(tmp_path):
    path = written(tmp_path, HEADER, GOOD, "0.4,tiny,,1.5,PRUNED,kv_cache_no_blocks,20.5")
    table = read_table(path)
    assert (table.parameters, table.objectives, table.constraints) == (
        ("util", "size"),
        ("latency_ms",),
        ("kv",),
    )
    good, bad = table.rows
    assert good.params == {"util": 0.5, "size": "tiny"}
    assert (good.values, good.constraints) == ({"latency_ms": 44.5}, {"kv": -1.0})
    assert (bad.values, bad.cause, bad.duration_s) == (None, "kv_cache_no_blocks", 20.5)


def test_whole_numbers_stay_whole_and_flags_stay_flags(tmp_path):
    path = written(
        tmp_path,
        "param:seqs,param:eager,param:len,value:v,state",
        "2,True,,1,COMPLETE",
        "4,False,1024,2,COMPLETE",
    )
    first, second = read_table(path).rows
    assert first.params == {"seqs": 2, "eager": True}
    assert second.params == {"seqs": 4, "eager": False, "len": 1024}
    assert isinstance(second.params["len"], int)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "found no rows"),
        ([HEADER], "found no rows"),
        (["param:util,value:v", "1,2"], "found no column state"),
        (["value:v,state", "1,COMPLETE"], "found no param: column"),
        (["param:util,state", "1,COMPLETE"], "found no value: column"),
        (
            ["param:util,value:v,status", "1,2,COMPLETE"],
            "column 3: found 'status', allowed: param:",
        ),
        (["param:,value:v,state", "1,2,COMPLETE"], "column 1: found 'param:'"),
        (["param:a,param:a,value:v,state", "1,1,2,COMPLETE"], "column param:a is there twice"),
        ([HEADER, "0.5,tiny"], "line 2: found 2 cells, allowed: 7"),
        (
            [HEADER, GOOD, "0.5,tiny,44,-1,FAIL,,1"],
            "line 3: state: found 'FAIL', allowed: COMPLETE",
        ),
        ([HEADER, "0.5,tiny,44,1,PRUNED,kv,1"], "line 2: found a value, allowed: none"),
        (
            [HEADER, "0.5,tiny,,-1,COMPLETE,,1"],
            "line 2: value:latency_ms: found '', allowed: a number",
        ),
        (
            [HEADER, "0.5,tiny,nan,-1,COMPLETE,,1"],
            "value:latency_ms: found 'nan', allowed: a number",
        ),
        ([HEADER, "0.5,tiny,inf,-1,COMPLETE,,1"], "found 'inf', allowed: a number"),
        ([HEADER, "0.5,tiny,44,low,COMPLETE,,1"], "line 2: constraint:kv: found 'low'"),
        (
            [HEADER, "0.5,tiny,44,2,COMPLETE,,1"],
            "line 2: found COMPLETE with a violated constraint",
        ),
        ([HEADER, "0.5,tiny,44,-1,COMPLETE,,soon"], "line 2: duration_s: found 'soon'"),
    ],
)
def test_what_no_table_can_say_is_refused_in_one_line(tmp_path, lines, said):
    path = written(tmp_path, *lines)
    with pytest.raises(UsageError) as refusal:
        read_table(path)
    assert said in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.csv: cannot be read"):
        read_table(tmp_path / "nowhere.csv")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"\xff\xfe\x00param")
    with pytest.raises(UsageError, match="cannot be read"):
        read_table(path)


class TestAStudyAsATable:
    def test_comes_back_as_it_was(self, tmp_path):
        study = make_study()
        measure(study, 15)
        path = tmp_path / "out.csv"
        table_frame(study).to_csv(path, index=False)
        table = read_table(path)
        assert table.objectives == OBJECTIVES
        assert {point_key(p) for p in table.points} == {point_key(p) for p in SPACE.points() or []}
        trials = study.trials
        for trial, row in zip(trials, table.rows, strict=True):
            assert row.params == trial.params
            assert row.constraints == trial.constraints
            assert row.values == (
                dict(zip(OBJECTIVES, trial.values, strict=True)) if trial.values else None
            )

    def test_leaves_out_what_says_nothing_of_its_point(self):
        study = make_study()
        measure(study, 2)
        study.tell(study.ask(SPACE.distributions()), state=TrialState.FAIL)
        study.ask(SPACE.distributions())
        study.tell(study.ask(), state=TrialState.PRUNED)
        assert list(table_frame(study)["state"].isin(["COMPLETE", "PRUNED"])) == [True, True]

    def test_keeps_the_declared_order_of_constraints_and_the_cause(self):
        study = make_study()
        study.set_user_attr("constraints", ["z", "a"])
        trial = study.ask(SPACE.distributions())
        trial.set_constraint("a", 1.5)
        trial.set_constraint("z", -1.0)
        trial.set_user_attr("infeasible", {"cause": "kv_cache_no_blocks", "predicted": False})
        study.tell(trial, state=TrialState.PRUNED)
        frame = table_frame(study)
        assert list(frame.columns)[-5:] == [
            "constraint:z",
            "constraint:a",
            "state",
            "cause",
            "duration_s",
        ]
        assert frame["cause"].tolist() == ["kv_cache_no_blocks"]
        assert frame["value:stt_latency_ms"].isna().all()

    def test_a_replayed_trial_keeps_the_duration_of_its_row(self):
        study = make_study()
        trial = study.ask(SPACE.distributions())
        trial.set_user_attr("recorded_duration_s", 61.5)
        study.tell(trial, [1.0, 2.0, 3.0])
        assert table_frame(study)["duration_s"].tolist() == [61.5]

    def test_an_empty_study_is_a_header(self):
        frame = table_frame(optuna.create_study(directions=["minimize"]))
        assert list(frame.columns) == ["value:objective_0", "state", "cause", "duration_s"]
        assert frame.empty


@pytest.mark.skipif(
    CORPUS is None, reason="no corpus: set GAS_CORPUS, or put it into ../shared/corpus"
)
@pytest.mark.parametrize("name", ["shared_gpu_1.csv", "shared_gpu_2.csv"])
def test_the_recorded_tables_are_read(name):
    table = read_table(CORPUS / "tables" / name)
    assert len(table.points) == 540
    assert len(table.rows) == 1620
    assert table.space().size == 540
    feasible = [point for point in table.points if table.medians(point) is not None]
    assert 200 < len(feasible) < 350
