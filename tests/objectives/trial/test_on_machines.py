"""A whole trial on every kind of machine: servers are processes, the card is a fake driver's."""

import optuna
import pynvml
import pytest
from optuna.trial import TrialState

from objectives.candidate import ServerSettings
from objectives.device.cuda import CudaDevice
from objectives.errors import BenchError
from objectives.evidence import TrialEvidence
from objectives.units import GIB
from tests.fakes import machines
from tests.fakes.fake_machine import FakeMachine
from tests.fakes.fake_nvml import FakeNvml
from tests.serving_bench import FakeBench

optuna.logging.set_verbosity(optuna.logging.WARNING)

SHAPES = {
    "a host": {},
    "a container with foreign pids": {"pid_shift": machines.HOST_PIDS},
    "a container without bytes": {"tells_process_bytes": False},
    "WSL2": {
        "graphics": {22: None},
        "refused": machines.refusing(["nvmlDeviceGetComputeRunningProcesses_v3"]),
    },
}


def judged(folder, shape, *, uuid=machines.RTX_3060, holds=True, **knobs):
    """A trial on a card of this shape, as it is stored; `holds`: the servers are on this card."""
    gpu = machines.ServedGpu(uuid=machines.RTX_3060, used_bytes=GIB // 2, **SHAPES[shape])
    root = FakeMachine(folder / "files").root
    if shape == "WSL2":
        FakeMachine(root).write("dev/dxg", "")
    with FakeNvml(gpu).installed():
        pynvml.nvmlInit()
        device = CudaDevice(pynvml.nvmlDeviceGetHandleByIndex(0), 0, root=root)
        bench = FakeBench(
            folder / "bench",
            knobs={
                "FAKE_VLLM_STYLE": "gpu-0.11",
                "FAKE_LEDGER": str(folder / "ledger"),
                "FAKE_WHISPER_UUID": uuid,
                **knobs,
            },
            changes={
                "device": device,
                "shape": None,
                "whisper": ServerSettings(model="tiny", device="cuda:0", args={"dtype": "float16"}),
            },
        )
        gpu.ledger = folder / "ledger" if holds else None
        return bench.judge(catch=(BenchError,))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_trial_is_measured_with_a_proof_of_each_server_and_what_it_held(tmp_path, shape):
    trial = judged(tmp_path, shape)
    evidence = TrialEvidence.from_attrs(trial.user_attrs)
    assert trial.state is TrialState.COMPLETE, evidence.error
    assert set(evidence.proofs) == {"whisper", "vllm"}
    by_list = shape in ("a host", "a container without bytes")
    assert ("the driver lists its process" in evidence.proofs["vllm"]) == by_list
    source = "nvml" if shape == "a host" else "difference"
    assert evidence.telemetry.memory_sources == {"whisper": source, "vllm": source}
    assert evidence.tenants_bytes["vllm"] > GIB // 4
    assert 0 < evidence.tenants_bytes["whisper"] < evidence.tenants_bytes["vllm"]
    assert evidence.tenants_bytes["other"] == pytest.approx(GIB // 2, rel=0.05)
    said = [doubt for doubt in evidence.doubts if "Windows" in doubt or "device" in doubt]
    assert len(said) == (1 if shape == "WSL2" else 0), said


def test_a_whisper_on_another_card_fails_the_trial_and_both_are_named(tmp_path):
    trial = judged(tmp_path, "a host", uuid=machines.GTX_1080_TI)
    error = TrialEvidence.from_attrs(trial.user_attrs).error
    assert trial.state is TrialState.FAIL
    assert machines.GTX_1080_TI in error.message
    assert machines.RTX_3060 in error.message


def test_a_vllm_that_takes_nothing_of_this_card_fails_the_trial(tmp_path):
    trial = judged(tmp_path, "a container with foreign pids", holds=False)
    error = TrialEvidence.from_attrs(trial.user_attrs).error
    assert trial.state is TrialState.FAIL
    assert error.message.startswith("vllm is not on NVIDIA GeForce RTX 3060 (number 0 by PCI bus")
