from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from objectives.errors import UsageError
from objectives.space import SearchSpace
from study.replay.table import Row, Table
from tests.study.fifteen import ENDLESS, SPACE, parameter

OBJECTIVES = ("stt_latency_ms",)


def row(util, size, value, *, kv=-1.0, took_s=60.0):
    return Row(
        params={"vllm_memory_util": util, "whisper_model_size": size},
        values=None if value is None else {"stt_latency_ms": value},
        constraints={"kv_cache_gib": kv},
        cause=None if value is not None else "kv_cache_no_blocks",
        duration_s=took_s,
    )


def table(*rows: Row) -> Table:
    names = ("vllm_memory_util", "whisper_model_size")
    return Table(Path("t.csv"), names, OBJECTIVES, ("kv_cache_gib",), rows)


THREE = table(
    row(0.5, "tiny", 44.0, took_s=50),
    row(0.5, "tiny", 85.0, took_s=70),
    row(0.5, "tiny", 53.0, took_s=60),
    row(0.4, "tiny", None, kv=1.5),
    row(0.45, "tiny", None, kv=0.01),
)
POINT = {"vllm_memory_util": 0.5, "whisper_model_size": "tiny"}


class TestDrawing:
    def test_gives_a_row_of_the_asked_point(self):
        assert THREE.draw(POINT, seed=0, number=0).params == POINT

    def test_is_the_same_for_the_same_seed_and_trial(self):
        assert THREE.draw(POINT, seed=1, number=5) == THREE.draw(POINT, seed=1, number=5)

    def test_gives_every_row_its_turn(self):
        drawn = Counter(
            THREE.draw(POINT, seed=0, number=n).values["stt_latency_ms"] for n in range(300)
        )
        assert set(drawn) == {44.0, 85.0, 53.0}
        assert min(drawn.values()) > 60

    def test_does_not_mind_how_a_number_is_spelt(self):
        spelt = {"whisper_model_size": "tiny", "vllm_memory_util": 0.1 + 0.4}
        assert THREE.at(spelt) == THREE.at(POINT)
        assert THREE.at({**POINT, "vllm_memory_util": 0.5000000000000001})

    def test_a_point_without_a_row_is_named(self):
        with pytest.raises(UsageError, match=r"t\.csv: no row for vllm_memory_util=0\.6, whisper"):
            THREE.draw({"vllm_memory_util": 0.6, "whisper_model_size": "tiny"}, seed=0, number=0)


class TestTruth:
    def test_is_the_median_of_the_replicates(self):
        assert THREE.medians(POINT) == {"stt_latency_ms": 53.0}

    def test_there_is_none_where_the_point_is_infeasible(self):
        assert THREE.medians({**POINT, "vllm_memory_util": 0.4}) is None


class TestPrediction:
    def test_knows_what_will_not_work(self):
        predict = THREE.predictor()
        good, bad = predict(POINT), predict({**POINT, "vllm_memory_util": 0.4})
        assert (good.feasible, good.certain) == (True, True)
        assert bad.is_infeasible
        assert bad.excess == {"kv_cache_gib": 1.5}

    def test_is_unsure_within_its_margin(self):
        predict = THREE.predictor(margin=0.1)
        near = predict({**POINT, "vllm_memory_util": 0.45})
        assert (near.feasible, near.certain) == (False, False)
        assert predict({**POINT, "vllm_memory_util": 0.4}).is_infeasible

    def test_says_nothing_of_a_point_that_it_does_not_know(self):
        assert THREE.predictor()({**POINT, "vllm_memory_util": 0.6}).feasible is None

    def test_there_is_none_without_constraints(self):
        bare = Row(params={"a": 1}, values={"v": 1.0}, constraints={}, cause=None, duration_s=None)
        assert Table(Path("t.csv"), ("a",), ("v",), (), (bare,)).predictor() is None


class TestTheTableAsASpace:
    def test_has_each_columns_values_in_order(self):
        space = THREE.space()
        assert space["vllm_memory_util"].choices == (0.4, 0.45, 0.5)
        assert str(space["vllm_memory_util"].binding) == "vllm.args.gpu-memory-utilization"

    def test_has_words_in_the_order_of_its_rows(self):
        sizes = ("small", "tiny", "medium", "base")
        space = table(*(row(0.5, size, 44.0) for size in sizes)).space()
        assert space["whisper_model_size"].choices == sizes

    def test_a_study_that_asks_for_more_is_refused(self):
        with pytest.raises(UsageError, match=r"no row for vllm_memory_util=0\.4, whisper"):
            THREE.check(SPACE, OBJECTIVES)

    def test_a_study_with_another_parameter_is_refused(self):
        other = SearchSpace((parameter("beam", "whisper.args.beam-size", choices=(1, 5)),))
        with pytest.raises(UsageError, match="no column param:beam; found: param:vllm_memory_util"):
            THREE.check(other, OBJECTIVES)

    def test_a_study_with_another_objective_is_refused(self):
        with pytest.raises(UsageError, match="no column value:wer; found: value:stt_latency_ms"):
            THREE.check(THREE.space(), ("wer",))

    def test_a_study_without_an_end_is_refused(self):
        names = ENDLESS.names
        bare = Row(
            params=dict.fromkeys(names, 1),
            values={"v": 1.0},
            constraints={},
            cause=None,
            duration_s=None,
        )
        with pytest.raises(UsageError, match="has no end"):
            Table(Path("t.csv"), names, ("v",), (), (bare,)).check(ENDLESS, ("v",))
