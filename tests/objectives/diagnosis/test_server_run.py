"""What one run has come to: which finding decides, and what progress takes back."""

from __future__ import annotations

import dataclasses

import pytest

from objectives.diagnosis.progress import Stage
from objectives.diagnosis.rules import Rank
from objectives.diagnosis.server_run import KEPT, Finding, Run, Spot


def spot(line=1):
    return Spot(line=line, evidence=f"line {line}")


def finding(cause="host_oom", rank=Rank.STRONG, line=1, **more):
    return Finding(cause=cause, rank=rank, spot=spot(line), **more)


def causes(run):
    return [one.cause for one in run.findings]


class TestTheFindingThatDecides:
    def test_is_the_one_that_weighs_most_wherever_it_stands(self):
        weak, strong = finding(rank=Rank.WEAK, line=1), finding(rank=Rank.STRONG, line=9)
        assert Run(findings=[weak, strong]).best(Rank.OUTER) is strong
        assert Run(findings=[strong, weak]).best(Rank.OUTER) is strong

    def test_is_the_first_line_among_equals_in_whatever_order_they_came(self):
        late, early = finding(line=9), finding(line=2)
        assert Run(findings=[late, early]).best(Rank.OUTER) is early

    def test_is_of_wrappers_the_last(self):
        first, last = (finding(rank=Rank.WRAPPER, line=line) for line in (2, 9))
        assert Run(findings=[first, last]).best(Rank.WRAPPER) is last
        assert Run(findings=[first, last]).best(Rank.OUTER) is None

    def test_is_none_that_weighs_less_than_was_asked_for(self):
        outer = Run(findings=[finding(rank=Rank.OUTER)])
        assert outer.best(Rank.OUTER) is outer.findings[0]
        assert outer.best(Rank.WEAK) is None
        assert Run().best(Rank.OUTER) is None


def test_the_first_findings_are_kept_and_not_more_than_so_many():
    run = Run()
    for line in range(1, 3 * KEPT):
        run.add(finding(line=line))
    assert [one.spot.line for one in run.findings] == list(range(1, KEPT + 1))


class TestProgress:
    def test_remembers_that_cuda_did_not_come_up_for_who_goes_on_without(self):
        run = Run()
        run.add(finding("cuda_init", Rank.WEAK))
        run.advance(Stage.SERVING, spot(7))
        assert (causes(run), run.warned.cause) == ([], "cuda_init")

    def test_takes_back_what_a_start_survives_and_nothing_else(self):
        run = Run(exception=spot())
        for cause in ("model_not_found_or_auth", "cuda_oom_load", "bad_argument", "port_in_use"):
            run.add(finding(cause))
        run.advance(Stage.LOADING, spot(7))
        assert causes(run) == ["cuda_oom_load", "port_in_use"]
        assert run.exception is not None

    def test_of_an_engine_that_is_up_takes_back_all_but_a_refusal(self):
        run = Run(exception=spot())
        run.add(finding("cuda_oom_load"))
        run.add(finding("kv_cache_no_blocks", Rank.DECISIVE))
        run.add(finding("bad_argument", Rank.WEAK))
        run.advance(Stage.ENGINE_UP, spot(7))
        assert causes(run) == ["kv_cache_no_blocks"]
        assert run.exception is None

    @pytest.mark.parametrize("stage", [Stage.LOADED, Stage.SERVING])
    def test_takes_nothing_back_after_a_death_or_in_a_document(self, stage):
        for run in (Run(death=spot()), Run(is_quoted=True)):
            run.exception = spot()
            run.add(finding("bad_argument", Rank.WEAK))
            run.advance(stage, spot(7))
            assert (run.stage, causes(run)) == (stage, ["bad_argument"])
            assert run.exception is not None

    def test_is_what_leads_further_not_what_is_said_again(self):
        run = Run(stage=Stage.SIZED, stalls=2, stalled=spot(3))
        run.add(finding("bad_argument"))
        run.advance(Stage.SIZED, spot(7))
        run.advance(Stage.LOADING, spot(8))
        assert (run.stage, run.stalls, causes(run)) == (Stage.SIZED, 2, ["bad_argument"])
        run.advance(Stage.CAPTURED, spot(9))
        assert (run.stage, run.stalls, run.stalled, causes(run)) == (Stage.CAPTURED, 0, None, [])

    def test_ends_a_stall_even_after_a_death(self):
        run = Run(death=spot(), stalls=2, stalled=spot(3))
        run.advance(Stage.LOADED, spot(7))
        assert (run.stalls, run.stalled) == (0, None)

    def test_shows_health_from_the_sized_cache_on_and_best_by_its_last_line(self):
        run = Run()
        run.advance(Stage.PROFILED_GRAPHS, spot(1))
        assert run.health is None
        run.advance(Stage.SIZED, spot(2))
        assert run.health == spot(2)
        run.advance(Stage.SERVING, spot(3))
        run.advance(Stage.SERVING, spot(4))
        assert run.health == spot(4)


def test_of_a_new_run_nothing_is_known():
    assert not any(getattr(Run(), field.name) for field in dataclasses.fields(Run))


def test_a_run_serves_from_the_last_stage_on():
    assert [stage for stage in Stage if Run(stage=stage).serving] == [Stage.SERVING]


@pytest.mark.parametrize(
    ("known", "has_failed", "is_informative"),
    [
        ({}, False, False),
        ({"death": spot()}, True, False),
        ({"loss": spot()}, True, False),
        ({"findings": [finding()]}, True, True),
        ({"exception": spot()}, False, True),
        ({"root": spot()}, False, True),
        ({"stage": Stage.SERVING}, False, True),
        ({"stage": Stage.CAPTURED, "health": spot(), "asked": spot()}, False, False),
    ],
)
def test_a_run_may_have_failed_and_yet_say_nothing_of_it(known, has_failed, is_informative):
    run = Run(**known)
    assert (run.has_failed, run.is_informative) == (has_failed, is_informative)


class TestARunIsSettled:
    def lines(self, **known):
        """The first 2,000 lines after which `known` can no longer change."""
        run = Run(**known)
        return [line for line in range(1, 2_000) if run.is_settled(line)]

    def test_some_hundred_lines_after_a_death_that_has_a_cause(self):
        settled = self.lines(death=spot(50), findings=[finding()])
        assert settled[0] > 150
        assert settled == list(range(settled[0], 2_000))
        later = self.lines(death=spot(60), findings=[finding()])
        assert later[0] == settled[0] + 10

    def test_never_without_a_death_or_without_a_cause_that_stands(self):
        assert self.lines(findings=[finding()]) == []
        assert self.lines(death=spot(50)) == []
        assert self.lines(death=spot(50), findings=[finding(rank=Rank.WEAK)]) == []

    def test_never_while_a_later_frame_may_name_the_phase(self):
        assert self.lines(death=spot(50), findings=[finding("cuda_oom_load", placed=False)]) == []
