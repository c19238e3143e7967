"""What a trial saw, before and while it is filled in."""

import re
from dataclasses import fields

import pytest

from objectives.errors import OutOfBoundsError
from objectives.memory.calibration import Calibration
from objectives.space import Binding, Parameter, SearchSpace
from objectives.trial.evidence import Evidence
from objectives.trial.stages import TrialStages
from objectives.trial.stopwatch import Stopwatch
from tests.objectives.trial.test_bench import bench_with

KEPT = {"figures": dict, "values": dict, "excess": dict, "doubts": list}
"""What is collected; everything else is one thing that is seen or not."""


def test_before_a_trial_nothing_was_seen():
    evidence = Evidence()
    single = {one.name for one in fields(Evidence)} - set(KEPT) - {"telemetry_began_s"}
    assert {name for name in single if getattr(evidence, name) is not None} == set()
    assert {name: getattr(evidence, name) for name in KEPT} == {
        name: kind() for name, kind in KEPT.items()
    }
    assert evidence.telemetry_began_s == 0.0


@pytest.mark.parametrize("name", KEPT)
def test_what_one_trial_collects_is_not_on_the_next(name):
    assert getattr(Evidence(), name) is not getattr(Evidence(), name)


def test_a_trial_that_ends_early_leaves_what_was_seen_until_then(tmp_path):
    space = SearchSpace(
        (
            Parameter(
                name="seqs",
                binding=Binding.parse("vllm.args.max-num-seqs"),
                choices=(8, 64),
                bounds=(1, 48),
            ),
        )
    )
    stages = TrialStages(
        bench=bench_with(space=space),
        params={"seqs": 64},
        folder=tmp_path,
        watch=Stopwatch(),
        calibration=Calibration(),
    )
    with pytest.raises(OutOfBoundsError):
        stages.run()
    seen = stages.evidence.candidate
    assert seen.vllm.args["max-num-seqs"] == 64
    assert stages.evidence == Evidence(candidate=seen, excess={"bounds": 16})


def test_everything_that_can_be_seen_is_explained():
    explained = re.findall(r"^ +(\w+): ", Evidence.__doc__.partition("Attributes:")[2], re.M)
    assert explained == [one.name for one in fields(Evidence)]
