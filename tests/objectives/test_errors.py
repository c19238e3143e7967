"""Why a trial ended: whose fault it is, and in which words."""

import inspect
import re
from pathlib import Path

import pytest

from objectives import errors
from objectives.causes import CAUSES, remedy_of
from objectives.errors import (
    BenchError,
    DoesNotFitError,
    InfeasibleError,
    NotReadyError,
    OrphanError,
    ServerDiedError,
    ServingError,
    UsageError,
)

LOG = Path("vllm.log")


def tree_of(kind, depth=0):
    """A class and all below it, each with how deep it lies."""
    yield kind.__name__, depth
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from tree_of(below, depth + 1)


def drawn_tree():
    """The same, as the module draws it."""
    for line in errors.__doc__.splitlines():
        if found := re.match(r"((?:│   |    |├── |└── )*)(\w+Error)\b", line):
            yield found[2], len(found[1]) // 4


def below(kind):
    return [
        found
        for _, found in inspect.getmembers(errors, inspect.isclass)
        if issubclass(found, kind) and found is not kind
    ]


def test_the_tree_that_is_drawn_is_that_of_the_classes():
    drawn = list(drawn_tree())
    assert drawn == list(tree_of(ServingError))
    assert {name for name, _ in drawn} | {"UsageError"} == {
        name for name, _ in inspect.getmembers(errors, inspect.isclass) if name.endswith("Error")
    }


def test_no_end_of_a_trial_is_both_the_candidates_and_the_benchs_fault():
    candidates, benchs = set(below(InfeasibleError)), set(below(BenchError))
    assert candidates and benchs
    assert not candidates & benchs


def test_a_persons_mistake_is_not_the_end_of_a_trial():
    assert not issubclass(UsageError, ServingError)


class TestTheCandidatesFault:
    def test_only_cause_and_evidence_must_be_known(self):
        error = InfeasibleError("host_oom", "the kernel killed 1 process(es)")
        assert str(error) == "host_oom: the kernel killed 1 process(es)"
        assert (error.cause, error.evidence) == ("host_oom", "the kernel killed 1 process(es)")
        assert (error.excess, error.predicted, error.figures) == ({}, False, {})
        assert error.remedy == remedy_of("host_oom", {})

    def test_the_tables_remedy_is_filled_with_the_figures_of_the_error(self):
        error = InfeasibleError("kv_cache_too_small", "y", figures={"kv_cache_tokens": 2080})
        assert "--max-model-len to 2080" in error.remedy
        assert InfeasibleError("of an older study", "y").remedy == ""

    @pytest.mark.parametrize("kind", below(InfeasibleError))
    def test_every_kind_carries_what_the_trial_is_judged_by(self, kind):
        excess, figures = {"kv_cache_gib": 0.79}, {"free_bytes": 7}
        error = kind(
            "kv_cache_no_blocks",
            "-0.79 GiB",
            remedy="Raise it.",
            excess=excess,
            predicted=True,
            figures=figures,
        )
        assert (error.remedy, error.predicted) == ("Raise it.", True)
        assert (error.excess, error.figures) == ({"kv_cache_gib": 0.79}, {"free_bytes": 7})

    def test_what_it_was_made_of_may_change_afterwards(self):
        excess, figures = {"kv_cache_gib": 0.79}, {"free_bytes": 7}
        error = DoesNotFitError("x", "y", excess=excess, figures=figures)
        excess["kv_cache_gib"] = figures["free_bytes"] = -1
        assert (error.excess, error.figures) == ({"kv_cache_gib": 0.79}, {"free_bytes": 7})


class TestTheBenchsFault:
    def test_it_is_the_benchs_unless_a_log_names_a_cause(self):
        assert BenchError("x").cause == "bench"
        assert BenchError("x", cause="nccl_or_dist").cause == "nccl_or_dist"
        assert CAUSES["bench"].fault == "bench"

    @pytest.mark.parametrize(
        "kind", [k for k in below(BenchError) if k not in {ServerDiedError, NotReadyError}]
    )
    def test_every_kind_says_its_message_and_its_cause(self, kind):
        error = kind("nobody answers", cause="cuda_init")
        assert (str(error), error.cause) == ("nobody answers", "cuda_init")

    @pytest.mark.parametrize(
        ("returncode", "said"),
        [
            (None, "vllm is gone"),
            (0, "vllm exited with 0"),
            (1, "vllm exited with 1"),
            (-9, "vllm was ended by signal 9"),
        ],
    )
    def test_a_server_that_left_says_how(self, returncode, said):
        error = ServerDiedError("vllm", log=LOG, returncode=returncode)
        assert str(error) == said
        assert (error.server, error.log, error.returncode) == ("vllm", LOG, returncode)
        assert error.cause == "bench"

    def test_a_server_that_left_may_have_a_cause_and_no_log(self):
        error = ServerDiedError("vllm", log=None, returncode=1, cause="port_in_use")
        assert (error.cause, error.log) == ("port_in_use", None)

    def test_a_server_that_was_not_ready_says_how_long_it_was_waited_for(self):
        error = NotReadyError("whisper", log=LOG, waited_s=180.4)
        assert str(error) == "whisper was not healthy after 180 s"
        assert (error.server, error.log, error.waited_s) == ("whisper", LOG, 180.4)
        assert error.cause == "timeout_hang"
        assert error.cause in CAUSES

    def test_memory_that_is_not_back_keeps_the_device_busy(self):
        assert [kind.__name__ for kind in OrphanError.__mro__[:3]] == [
            "OrphanError",
            "DeviceBusyError",
            "BenchError",
        ]
