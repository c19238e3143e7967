"""Random weights are made in the engine; a wrong order is refused there, too."""

import json
import subprocess

import pytest

from tests.objectives.engine_at_hand import real_engine
from tests.objectives.workers.whisper_process import SMALLEST, WEIGHTS_WORKER, make_checkpoint

pytestmark = pytest.mark.engines

CHECK = """
import json, sys, torch
kept = torch.load(sys.argv[1], weights_only=True)
weights = kept["model_state_dict"]
print(json.dumps({
    "dims": kept["dims"],
    "dtypes": sorted({str(each.dtype) for each in weights.values()}),
    "finite": all(bool(each.isfinite().all()) for each in weights.values()),
    "norms": sorted({float(v) for n, each in weights.items() if n.endswith("ln.weight")
                     for v in each}),
}))
"""


def test_a_checkpoint_holds_the_dimensions_and_finite_weights_as_weights_only(tmp_path):
    engine = real_engine()
    file = make_checkpoint(engine, tmp_path / "smallest.pt")
    done = subprocess.run(
        [str(engine.interpreter), "-c", CHECK, str(file)],
        env=engine.environment("cpu", offline=True),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["dims"] == SMALLEST
    assert found["dtypes"] == ["torch.float16"]
    assert found["finite"]
    assert found["norms"] == [1.0]


def test_a_kind_that_it_does_not_know_is_bad_usage(tmp_path):
    engine = real_engine()
    done = subprocess.run(
        [str(engine.interpreter), str(WEIGHTS_WORKER), "video", "--out", str(tmp_path / "x")],
        env=engine.environment("cpu"),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
