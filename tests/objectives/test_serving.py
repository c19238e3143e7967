"""The objective, on servers that are real processes without a model."""

import json
import threading
import time

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from objectives.constraints import Limit, names
from objectives.device.lock import hold_device
from objectives.errors import BenchError, DeviceBusyError
from objectives.servers import neighbours
from objectives.servers.neighbours import Hold, Running
from objectives.space import Binding, Parameter, SearchSpace
from objectives.trial.bench import Objective
from tests.fakes.fixed_node import TOTAL_BYTES
from tests.serving_bench import GIB, SPACE, FakeBench

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def bench(tmp_path):
    def bench(*, knobs=None, **changes):
        return FakeBench(tmp_path, knobs=knobs or {}, changes=changes)

    yield bench
    lines = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert [line for line in lines if "resource_tracker" not in line] == []


def until_held(fakes, *names):
    """Let the load begin once the telemetry saw what these tenants hold.

    Who is up is asked once a second, and less often on a busy machine; a load here is shorter.
    """

    def tell(phase):
        fakes.steps.append(phase)
        while phase == "warmup" and not set(names) <= set(held()):
            time.sleep(0.01)

    def held():
        return fakes.objective.stages.holding()["by_tenant"]

    fakes.objective.on_phase = tell
    return fakes


def infeasible(trial, cause):
    assert trial.state == TrialState.PRUNED
    assert trial.values is None
    said = trial.user_attrs["infeasible"]
    assert said["cause"] == cause
    assert said["evidence"]
    violated = {name: value for name, value in trial.constraints.items() if value > 0}
    assert len(violated) == 1
    return said, violated


def test_a_feasible_candidate_is_measured_and_everything_is_kept(bench):
    fakes = until_held(bench(), "vllm", "whisper")
    trial = fakes.judge()
    assert trial.state == TrialState.COMPLETE
    assert len(trial.values) == 3
    assert list(trial.constraints) == list(names())
    assert all(value <= 0 for value in trial.constraints.values())
    attrs = trial.user_attrs
    assert attrs["stt_latency_ms"] == trial.values[0]
    assert attrs["concurrent_capacity"] == trial.values[2]
    assert attrs["oom_events"] == 0
    assert 0 < attrs["gpu_utilization"] <= 100
    assert attrs["measurement"]["llm"]["requests"] == 16
    assert attrs["measurement"]["stt"]["failed"] == 0
    assert attrs["footprint"]["vllm"]["logged"]["kv_cache_tokens"] > 0
    assert attrs["footprint"]["vllm"]["predicted"]["kv_cache_tokens"] > 0
    assert attrs["footprint"]["whisper"]["predicted"]["held_bytes"] > 0
    assert "logged" not in attrs["footprint"]["whisper"]
    assert attrs["health"]["whisper"]["compute_device"] == "cpu"
    assert "vllm" not in attrs["health"]
    assert set(attrs["phases_s"]) == {"predict", "start", "warmup", "measure", "stop", "other"}
    assert attrs["tenants_bytes"]["vllm"] > 0
    assert attrs["tenants_bytes"]["whisper"] > 0
    assert set(fakes.files[trial.number]) >= {"vllm.log", "whisper.log", "samples.jsonl"}
    samples = fakes.files[trial.number]["samples.jsonl"].decode().splitlines()
    assert len(samples) == 16 + 8 + 4 + 2  # window and warm-up of both


def test_the_studys_own_share_of_a_trial_is_named(bench):
    phases = bench().judge().user_attrs["phases_s"]
    assert phases["other"] < sum(phases.values())


def test_no_key_and_no_secret_is_stored(bench):
    trial = bench().judge()
    for settings in trial.user_attrs["settings"].values():
        assert [name for name in settings["env"] if "KEY" in name or "TOKEN" in name] == []
    assert trial.user_attrs["settings"]["vllm"]["argv"][-4:] == [
        "--max-num-seqs",
        "64",
        "--gpu-memory-utilization",
        "0.15",
    ]


def test_a_value_outside_the_hard_bounds_is_refused_before_anything_else(bench):
    fakes = bench()
    trial = fakes.judge(vllm_memory_util=0.75)
    said, violated = infeasible(trial, "out_of_bounds")
    assert said["predicted"]
    assert violated["bounds"] == pytest.approx(0.05)
    assert fakes.files == {}


def test_what_cannot_fit_is_not_launched(bench):
    fakes = bench(headroom_bytes=1 << 50)
    trial = fakes.judge()
    said, violated = infeasible(trial, "device_memory")
    assert said["predicted"]
    assert violated["device_memory_gib"] > 1000
    assert set(trial.user_attrs["phases_s"]) == {"predict", "other"}


@pytest.mark.parametrize(
    ("refusal", "constraint"),
    [
        ("kv_cache_no_blocks", "kv_cache_gib"),
        ("kv_cache_too_small", "kv_cache_gib"),
        ("gpu_memory_insufficient_at_start", "start_memory_gib"),
        ("cuda_oom_load", "device_memory_gib"),
        ("cuda_oom_profile", "device_memory_gib"),
    ],
)
def test_a_server_that_refuses_for_memory_makes_the_candidate_infeasible(
    bench, refusal, constraint
):
    fakes = bench(knobs={"FAKE_VLLM_REFUSE": refusal})
    trial = fakes.judge()
    said, violated = infeasible(trial, refusal)
    assert not said["predicted"]
    assert set(violated) == {constraint}
    assert said["evidence"].encode() in fakes.files[trial.number]["vllm.log"]


def test_memory_that_runs_out_under_load_makes_the_candidate_infeasible(bench):
    trial = bench(knobs={"FAKE_VLLM_OOM_AFTER_REQUESTS": "6"}).judge()
    said, _ = infeasible(trial, "cuda_oom_serving")
    assert "out of memory" in said["evidence"].lower()
    assert trial.user_attrs["oom_events"] == 1


def test_a_whisper_that_runs_out_of_memory_makes_the_candidate_infeasible(bench):
    trial = bench(knobs={"FAKE_WHISPER_OOM_AFTER_REQUESTS": "3"}).judge()
    infeasible(trial, "cuda_oom_serving")


def failed(trial, cause):
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["error"]["cause"] == cause
    assert "infeasible" not in trial.user_attrs
    return trial.user_attrs["error"]["message"]


def test_a_server_that_crashes_for_no_memory_is_never_the_candidates_fault(bench):
    fakes = bench(knobs={"FAKE_VLLM_CRASH_AT_START": "3"})
    trial = fakes.judge(catch=(BenchError,))
    assert trial.state == TrialState.FAIL
    assert "vllm" in trial.user_attrs["error"]["message"]


def test_a_server_that_dies_under_load_is_named(bench):
    trial = bench(knobs={"FAKE_WHISPER_CRASH_AFTER_REQUESTS": "3"}).judge(catch=(BenchError,))
    assert trial.state == TrialState.FAIL
    assert "whisper" in trial.user_attrs["error"]["message"]


def test_a_killed_server_without_a_word_of_memory_is_no_lack_of_memory(bench):
    trial = bench(knobs={"FAKE_VLLM_CRASH_AT_START": "-9"}).judge(catch=(BenchError,))
    assert trial.state == TrialState.FAIL


def test_a_server_that_never_becomes_healthy_is_the_benchs_fault(bench):
    fakes = bench(knobs={"FAKE_VLLM_HANG": "1"}, vllm_start_s=1.0)
    failed(fakes.judge(catch=(BenchError,)), "timeout_hang")


def test_a_port_that_was_taken_is_tried_again(bench, tmp_path):
    fakes = bench(knobs={"FAKE_VLLM_PORT_IN_USE_ONCE": str(tmp_path / "once")})
    trial = fakes.judge()
    assert trial.state == TrialState.COMPLETE
    assert {"vllm.log", "vllm.2.log"} <= set(fakes.files[trial.number])


def test_a_profiling_race_is_measured_again_once(bench):
    fakes = bench(knobs={"FAKE_VLLM_REFUSE": "memory_profiling_race"})
    trial = fakes.judge(catch=(BenchError,))
    failed(trial, "memory_profiling_race")
    assert {"vllm.log", "vllm.2.log"} == {
        name for name in fakes.files[trial.number] if name.startswith("vllm")
    }


def test_a_setting_that_a_server_refuses_is_infeasible_once_others_have_started(bench):
    """Nothing in the line names what varies: only the study tells that the engine itself works."""
    refuses = Parameter(
        name="refuses", binding=Binding.parse("vllm.env.FAKE_REFUSE"), choices=("", "bad_argument")
    )
    fakes = bench(space=SearchSpace((*SPACE.parameters, refuses)))
    trial = fakes.judge(catch=(BenchError,), refuses="bad_argument")
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["error"]["message"].endswith(
        "invalid int value: 'many'; the configuration has vllm.args.max-num-seqs: 64"
    )
    assert fakes.judge(refuses="").constraints["start_refused"] == -1
    said, violated = infeasible(fakes.judge(refuses="bad_argument"), "start_refused")
    assert violated == {"start_refused": 1.0}
    assert "what does not start here: vllm_memory_util 0.15, refuses bad_argument" in said["remedy"]


def test_a_trial_over_its_time_budget_is_infeasible(bench):
    fakes = bench(knobs={"FAKE_VLLM_TTFT_S": "20"}, trial_timeout_s=0.5)
    _, violated = infeasible(fakes.judge(), "over_time_budget")
    assert 0 < violated["time_budget_s"] < 10


def test_requests_without_an_answer_make_the_candidate_infeasible(bench):
    trial = bench(knobs={"FAKE_VLLM_FAIL_EVERY": "3"}).judge()
    _, violated = infeasible(trial, "requests_failed")
    assert 0.2 < violated["failed_share"] < 0.4
    assert trial.user_attrs["measurement"]["llm"]["failed"] > 0


def test_a_missed_hard_objective_makes_the_candidate_infeasible_and_keeps_its_figures(bench):
    trial = bench(limits=(Limit(objective="llm_latency_ms", most=0.001),)).judge()
    said, violated = infeasible(trial, "slo_missed")
    assert "llm_latency_ms is" in said["evidence"]
    assert violated["slo_llm_latency_ms"] == pytest.approx(
        trial.user_attrs["llm_latency_ms"] - 0.001
    )


def test_a_neutral_objective_is_the_distance_to_its_target(bench):
    objectives = (
        Objective(name="gpu_utilization", target=70.0),
        Objective(name="llm_latency_ms"),
        Objective(name="concurrent_capacity"),
    )
    trial = bench(objectives=objectives).judge()
    assert trial.values[0] == pytest.approx(abs(trial.user_attrs["gpu_utilization"] - 70))


def test_an_objective_that_nobody_measured_fails_the_bench(bench):
    objectives = (
        Objective(name="wer"),
        Objective(name="llm_latency_ms"),
        Objective(name="concurrent_capacity"),
    )
    trial = bench(objectives=objectives).judge(catch=(BenchError,))
    assert "wer could not be measured" in failed(trial, "bench")


def test_a_neighbour_that_must_be_there_is_checked(bench, monkeypatch):
    monkeypatch.setattr(neighbours, "_sees_own_processes_only", lambda: False)
    absent = Running(name="ollama", match="no-such-program-anywhere")
    trial = bench(neighbours=[absent]).judge(catch=(BenchError,))
    assert "ollama" in trial.user_attrs["error"]["message"]
    assert trial.state == TrialState.FAIL


def test_a_neighbour_holds_its_memory_during_the_trial(bench):
    fakes = until_held(bench(neighbours=[Hold(name="ollama", bytes_=GIB // 8)]), "ollama")
    trial = fakes.judge()
    assert trial.state == TrialState.COMPLETE
    assert trial.user_attrs["tenants_bytes"]["ollama"] >= GIB // 8


def test_the_servers_start_in_the_declared_order_one_at_a_time(bench):
    fakes = bench(start_order=("vllm", "neighbours", "whisper"))
    fakes.judge()
    starts = [step for step in fakes.steps if step.startswith("start ")]
    assert starts == ["start vllm", "start neighbours", "start whisper"]


def test_one_start_teaches_the_next_prediction(bench):
    fakes = bench()
    first = fakes.judge(vllm_memory_util=0.15)
    second = fakes.judge(vllm_memory_util=0.20)
    before = first.user_attrs["footprint"]["vllm"]["predicted"]
    assert before["sources"]["weights"] == "estimated"
    predicted = second.user_attrs["footprint"]["vllm"]["predicted"]
    logged = second.user_attrs["footprint"]["vllm"]["logged"]
    assert predicted["sources"]["weights"] == "calibrated"
    assert predicted["kv_cache_tokens"] == pytest.approx(logged["kv_cache_tokens"], rel=0.01)


def test_whispers_peak_teaches_the_next_prediction(bench):
    fakes = until_held(bench(), "whisper")
    fakes.judge()
    second = fakes.judge()
    predicted = second.user_attrs["footprint"]["whisper"]["predicted"]
    assert predicted["held_source"] == "calibrated"


def test_after_one_start_what_the_log_proved_too_big_is_refused_without_a_launch(bench):
    held = int(0.17 * TOTAL_BYTES)
    fakes = bench(knobs={"FAKE_VLLM_NON_KV_BYTES": str(held)})
    fakes.judge(vllm_memory_util=0.20)
    trial = fakes.judge(vllm_memory_util=0.05)
    said, _ = infeasible(trial, "kv_cache_no_blocks")
    assert said["predicted"]


def test_every_candidate_meets_the_same_requests(bench):
    fakes = bench()
    for size in ("tiny", "small"):
        fakes.judge(whisper_model_size=size)
    due = [
        [json.loads(line)["due_s"] for line in files["samples.jsonl"].decode().splitlines()]
        for files in fakes.files.values()
    ]
    assert due[0] == due[1]


def test_only_one_trial_runs_on_a_device_at_a_time(bench):
    fakes = bench()
    with (
        hold_device(fakes.bench.device, folder=fakes.bench.lock_folder, study="other"),
        pytest.raises(DeviceBusyError),
    ):
        fakes.judge()


def test_an_interrupted_trial_leaves_no_process_and_says_what_it_was(bench):
    fakes = bench()

    def interrupt():
        while "measure" not in fakes.steps:
            time.sleep(0.01)
        import _thread

        _thread.interrupt_main()

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        fakes.judge()
    trial = fakes.study.trials[-1]
    failed(trial, "interrupted")
    assert "vllm.log" in fakes.files[trial.number]
    assert set(trial.user_attrs["settings"]) == {"vllm", "whisper"}
    assert trial.user_attrs["footprint"]["vllm"]["logged"]["kv_cache_tokens"] > 0
    assert trial.user_attrs["telemetry"]["samples"]
