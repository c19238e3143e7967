"""One cause from what is known: the run, the one before it, its end and the device."""

from __future__ import annotations

import pytest

from objectives.diagnosis.decision import DeviceEvidence, Ended, judge
from objectives.diagnosis.progress import Stage
from objectives.diagnosis.rules import Rank
from objectives.diagnosis.server_run import Finding, Run, Spot

KILLED = Ended(returncode=-9)
ASKED = Ended(returncode=-15, was_asked=True)


def spot(line):
    return Spot(line=line, evidence=f"line {line}")


def finding(cause="host_oom", rank=Rank.STRONG, line=5, **figures):
    return Finding(cause=cause, rank=rank, spot=spot(line), figures=figures)


def serving(**known):
    return Run(stage=Stage.SERVING, health=spot(1), **known)


def judged(run, before=None, ended=None, evidence=None):
    return judge(run, before, ended=ended, evidence=evidence)


def cause_and_line(run, ended=None):
    decision = judged(run, ended=ended)
    return decision.cause, decision.spot.line


class TestEnded:
    @pytest.mark.parametrize(
        ("returncode", "signal"),
        [
            (None, None), (0, None), (1, None), (-9, 9), (137, 9), (143, 15), (-64, 64),
            (192, 64), (128, None), (127, None), (193, None), (255, None), (-65, None),
        ],
    )  # fmt: skip
    def test_a_signal_is_read_as_subprocess_and_as_a_shell_write_it(self, returncode, signal):
        assert Ended(returncode=returncode).signal == signal

    @pytest.mark.parametrize("returncode", [0, -15, -2, -1, 143, 130, 129])
    def test_a_clean_end_and_a_signal_that_asks_sound_ordered(self, returncode):
        assert Ended(returncode=returncode).sounds_ordered

    @pytest.mark.parametrize("returncode", [None, 1, 15, -9, -6, -11, 137, 139])
    def test_all_else_sounds_ordered_only_if_it_was(self, returncode):
        assert not Ended(returncode=returncode).sounds_ordered
        assert Ended(returncode=returncode, was_asked=True).sounds_ordered


class TestALineNamesTheCause:
    def test_and_its_figures_come_with_it(self):
        found = judged(serving(findings=[finding(pid=7)], death=spot(8)), ended=KILLED)
        assert (found.cause, found.spot, found.figures) == ("host_oom", spot(5), {"pid": 7})

    def test_a_script_s_words_count_only_where_the_engine_has_none(self):
        outer = [finding(rank=Rank.OUTER)]
        assert cause_and_line(Run(findings=outer)) == ("host_oom", 5)
        assert cause_and_line(Run(findings=outer, death=spot(3))) == ("host_oom", 5)
        died = Run(findings=outer, death=spot(3), root=spot(4))
        assert cause_and_line(died) == ("engine_dead_other", 4)

    def test_a_cause_by_implication_stands_beside_a_death(self):
        died = Run(findings=[finding(rank=Rank.WEAK)], death=spot(3), root=spot(4))
        assert cause_and_line(died) == ("host_oom", 5)


class TestADeathWithoutAName:
    @pytest.mark.parametrize(
        ("known", "line"),
        [
            ({"root": spot(4), "exception": spot(2)}, 4),
            ({"exception": spot(2)}, 2),
            ({}, 3),
        ],
    )
    def test_shows_the_root_or_the_last_exception_or_itself(self, known, line):
        assert cause_and_line(Run(death=spot(3), **known)) == ("engine_dead_other", line)

    def test_is_what_it_is_however_the_process_ended(self):
        for died in (Run(death=spot(3)), serving(loss=spot(3))):
            found = judged(died, ended=KILLED)
            assert (found.cause, found.spot, found.figures) == ("engine_dead_other", spot(3), {})

    def test_that_follows_an_order_is_a_stop(self):
        assert cause_and_line(serving(asked=spot(2), death=spot(3), root=spot(4))) == ("ok", 1)
        assert cause_and_line(serving(death=spot(3)), ASKED) == ("ok", 1)
        assert cause_and_line(Run(asked=spot(2), death=spot(3)), Ended(returncode=0)) == ("ok", 2)

    def test_is_one_if_it_came_before_the_order_or_has_a_root_of_its_own(self):
        before = serving(asked=spot(4), death=spot(3))
        assert cause_and_line(before) == ("engine_dead_other", 3)
        rooted = serving(death=spot(3), root=spot(4))
        assert cause_and_line(rooted, ASKED) == ("engine_dead_other", 4)
        start = Run(asked=spot(2), death=spot(3), root=spot(4))
        assert cause_and_line(start) == ("engine_dead_other", 4)

    def test_an_exception_ends_a_start_and_costs_a_server_one_answer(self):
        assert cause_and_line(Run(exception=spot(2))) == ("engine_dead_other", 2)
        assert cause_and_line(serving(exception=spot(2))) == ("ok", 1)

    def test_an_exception_of_a_start_that_was_stopped_is_none(self):
        assert cause_and_line(Run(exception=spot(2), asked=spot(3)))[0] == "unknown"
        assert cause_and_line(Run(exception=spot(2)), ASKED)[0] == "ok"


class TestAnEngineThatIsGone:
    def test_died_if_nobody_stopped_it(self):
        assert cause_and_line(serving(loss=spot(3))) == ("engine_dead_other", 3)

    @pytest.mark.parametrize("known", [{"stopped": spot(2)}, {"asked": spot(2)}, {"closed": True}])
    def test_went_with_its_server(self, known):
        assert cause_and_line(serving(loss=spot(3), **known)) == ("ok", 1)

    def test_went_with_whoever_was_asked_to_end(self):
        assert cause_and_line(serving(loss=spot(3)), ASKED) == ("ok", 1)

    @pytest.mark.parametrize("known", [{"unexpected": True}, {"refused": True}])
    def test_was_missed_by_the_server_that_closed_after_it(self, known):
        run = serving(loss=spot(3), closed=True, **known)
        assert cause_and_line(run) == ("engine_dead_other", 3)

    def test_was_lost_by_a_start_even_if_that_closed(self):
        assert cause_and_line(Run(loss=spot(3), closed=True)) == ("engine_dead_other", 3)


class TestAHang:
    @pytest.mark.parametrize(
        ("stage", "running", "stalls", "hangs"),
        [
            (Stage.LOADED, 0, 1, False),  # a compilation
            (Stage.LOADED, 0, 2, True),
            (Stage.SERVING, 1, 2, False),
            (Stage.SERVING, 1, 3, True),
            (Stage.SERVING, 0, 9, False),  # idle
        ],
    )
    def test_takes_several_stalls_and_of_a_server_requests(self, stage, running, stalls, hangs):
        run = Run(stage=stage, running=running, stalls=stalls, stalled=spot(6))
        found = judged(run)
        assert (found.cause == "timeout_hang") is hangs
        if hangs:
            assert (found.spot, found.figures) == (spot(6), {"stalls": stalls})


class TestOnlyTheReturnCodeSpeaks:
    @pytest.mark.parametrize(
        ("returncode", "words"),
        [
            (1, "the process exited with 1"),
            (-9, "the process was ended by SIGKILL"),
            (139, "the process was ended by SIGSEGV"),
            (-40, "the process was ended by signal 40"),
        ],
    )
    def test_in_words_where_no_line_does(self, returncode, words):
        found = judged(serving(), ended=Ended(returncode=returncode))
        assert (found.cause, found.spot) == ("engine_dead_other", Spot(line=0, evidence=words))
        assert found.figures == {"returncode": returncode}

    def test_and_the_line_beside_it_is_shown(self):
        lost = serving(loss=spot(3), stopped=spot(2), exception=spot(4))
        assert cause_and_line(lost, Ended(returncode=1)) == ("engine_dead_other", 3)
        raised = serving(exception=spot(4))
        assert cause_and_line(raised, Ended(returncode=1)) == ("engine_dead_other", 4)

    def test_an_order_from_elsewhere_ends_a_server_well_and_a_start_badly(self):
        elsewhere = Ended(returncode=-15)
        assert judged(serving(), ended=elsewhere).cause == "ok"
        assert judged(Run(), ended=elsewhere).cause == "engine_dead_other"

    def test_of_a_clean_end_nothing_is_wrong(self):
        found = judged(Run(), ended=Ended(returncode=0))
        words = "the process exited with 0"
        assert (found.cause, found.spot) == ("ok", Spot(line=0, evidence=words))
        assert judged(Run(asked=spot(2)), ended=ASKED).spot == spot(2)

    def test_without_it_and_without_a_word_nothing_is_known(self):
        assert cause_and_line(Run()) == ("unknown", 0)
        assert cause_and_line(Run(), Ended(returncode=None)) == ("unknown", 0)


def test_a_preemption_is_a_warning_of_a_server_that_lives():
    assert cause_and_line(serving(preemption=spot(2))) == ("preemption_warning", 2)
    died = serving(preemption=spot(2), death=spot(3))
    assert cause_and_line(died) == ("engine_dead_other", 3)


class TestAServerThatGoesOnOnTheCpu:
    FALLBACK = Spot(line=7, evidence="FP16 is not supported on CPU")

    @pytest.mark.parametrize(
        ("server", "cause"),
        [("whisper", "cpu_fallback"), ("faster", "cpu_fallback"), ("", "cpu_fallback")],
    )
    def test_fell_back(self, server, cause):
        run = Run(stage=Stage.SERVING, health=spot(3), server=server, fallback=self.FALLBACK)
        assert judge(run, None, ended=None, evidence=None).cause == cause

    def test_is_no_vllm(self):
        run = Run(stage=Stage.SERVING, health=spot(3), server="vllm", fallback=self.FALLBACK)
        assert judge(run, None, ended=None, evidence=None).cause == "ok"

    def test_is_told_by_what_cuda_said_where_it_said_anything(self):
        warned = Finding(cause="cuda_init", rank=Rank.WEAK, spot=spot(2))
        run = Run(stage=Stage.SERVING, health=spot(3), server="whisper", warned=warned)
        assert judge(run, None, ended=None, evidence=None).cause == "cuda_init"

    def test_that_died_is_told_by_its_death(self):
        run = Run(server="whisper", fallback=self.FALLBACK)
        died = judge(run, None, ended=Ended(returncode=1), evidence=None)
        assert died.cause == "engine_dead_other"


def test_a_wrapper_decides_only_where_no_error_stands_beside_it():
    wrapper = Finding(cause="build_tools", rank=Rank.WRAPPER, spot=spot(9))
    alone, beside = Run(findings=[wrapper]), Run(findings=[wrapper], exception=spot(4))
    assert judge(alone, None, ended=None, evidence=None).cause == "build_tools"
    found = judge(beside, None, ended=None, evidence=None)
    assert (found.cause, found.spot.line) == ("engine_dead_other", 4)


class TestTheRunBefore:
    BEFORE = Run(findings=[finding("port_in_use", line=2)])

    def test_is_judged_where_the_last_one_says_nothing(self):
        assert judged(Run(), self.BEFORE).cause == "port_in_use"
        assert judged(Run(death=spot(9)), self.BEFORE).cause == "port_in_use"

    def test_is_past_where_the_last_one_says_anything(self):
        assert judged(serving(), self.BEFORE).cause == "ok"
        assert judged(Run(findings=[finding()]), self.BEFORE).cause == "host_oom"
        rooted = Run(death=spot(8), root=spot(9))
        assert judged(rooted, self.BEFORE).spot == spot(9)

    def test_did_not_end_as_the_last_one_did(self):
        lost = Run(loss=spot(3))
        assert judged(Run(), lost, ended=ASKED).cause == "ok"
        assert judged(Run(), lost, ended=Ended(returncode=None)).spot == spot(3)


class TestWhatTheDeviceSaw:
    DIED = Run(death=spot(3))

    def seen(self, run=DIED, ended=None, **evidence):
        return judged(run, ended=ended, evidence=DeviceEvidence(**evidence))

    def test_a_kill_that_was_counted_is_want_of_the_host_s_memory(self):
        found = self.seen(oom_kills=1, xids=(31,))
        assert (found.cause, found.spot, found.figures["oom_kills"]) == ("host_oom", spot(3), 1)

    @pytest.mark.parametrize(
        ("xids", "cause", "xid"),
        [
            ((31,), "cuda_illegal_access", 31),
            ((79, 31, 13), "cuda_illegal_access", 31),
            ((79, 48), "engine_dead_other", 79),
        ],
    )
    def test_an_xid_of_the_program_comes_before_one_of_the_device(self, xids, cause, xid):
        found = self.seen(xids=xids)
        assert (found.cause, found.figures) == (cause, {"xid": xid})

    def test_is_put_in_words_where_no_line_says_it(self):
        kill = self.seen(Run(), KILLED, oom_kills=2).spot
        assert kill == Spot(line=0, evidence="the kernel killed 2 process(es) for want of memory")
        assert self.seen(Run(), xids=(79,)).spot.evidence == "the driver reported XID 79"

    def test_names_nothing_that_has_a_name(self):
        for run in (Run(findings=[finding("port_in_use")]), serving()):
            assert self.seen(run, oom_kills=1, xids=(31,)) == judged(run)

    def test_leaves_what_was_free_beside_what_is_known(self):
        found = self.seen(serving(), KILLED, free_bytes=7)
        assert (found.cause, found.figures) == (
            "engine_dead_other",
            {"returncode": -9, "device_free_bytes": 7},
        )
        assert self.seen(oom_kills=1, free_bytes=0).figures["device_free_bytes"] == 0
        assert self.seen().figures == {}
