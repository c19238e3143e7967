"""What is known of a candidate before its launch, from a reading of the device."""

from dataclasses import replace

import pytest

from objectives.candidate import Candidate, ServerSettings
from objectives.kinds.forecast import Forecast, ServerMemory
from objectives.kinds.whisper_kind import WhisperMemory
from objectives.memory.calibration import Calibration
from objectives.memory.estimate import NOTHING, given
from objectives.servers.neighbours import Command, Hold, Running
from objectives.trial.prediction import (
    HOLD_CONTEXT,
    CandidatePrediction,
    PredictionInputs,
    held_by,
    predict_candidate,
    predict_on_bench,
)
from tests.objectives.kinds.test_forecast import CARD, GIB
from tests.objectives.kinds.test_vllm_kind import MEMORY, QWEN, STARTED, forecast
from tests.objectives.trial.test_bench import bench_with

INPUTS = PredictionInputs(
    servers={"whisper": WhisperMemory(), "vllm": MEMORY},
    device_kind="cuda",
    device_uuid="GPU-1",
)
VLLM_FIRST = replace(INPUTS, servers={"vllm": MEMORY, "whisper": WhisperMemory()})


def vllm(utilisation):
    args = {"gpu-memory-utilization": utilisation, "max-model-len": 2048, "max-num-seqs": 16}
    return ServerSettings(model="qwen", device="cuda", args=args)


def candidate(utilisation, size="small", *, device="cuda", **others):
    whisper = ServerSettings(model=size, device=device, args={"dtype": "float16"})
    servers = {"whisper": whisper, "vllm": vllm(utilisation), **others}
    return Candidate(params={}, servers=servers)


def predict(utilisation, *, inputs=INPUTS, state=CARD, known=None, **whisper):
    return predict_candidate(
        candidate(utilisation, **whisper), inputs, state, known or Calibration()
    )


def test_the_seeds_winner_is_refused_before_it_is_launched():
    prediction = predict(0.40, size="tiny")
    assert prediction.refusal is prediction.starts["vllm"]
    assert prediction.refusal.cause == "kv_cache_no_blocks"
    assert prediction.excess["kv_cache_gib"] > 0
    assert not prediction.fits


@pytest.mark.parametrize("size", ["tiny", "base", "small"])
@pytest.mark.parametrize("utilisation", [0.55, 0.60])
def test_what_the_seeds_could_have_run_fits_with_every_whisper(utilisation, size):
    prediction = predict(utilisation, size=size)
    assert prediction.fits
    assert prediction.refusal is None
    assert prediction.doubts == ()


def test_inside_the_margin_the_launch_decides():
    prediction = predict(0.48)
    assert not prediction.fits
    assert prediction.refusal is None


def test_a_neighbour_that_we_hold_is_taken_off_what_is_free():
    full = replace(INPUTS, neighbours=(Hold(name="ollama", bytes_=6 * GIB),))
    prediction = predict(0.60, inputs=full)
    assert prediction.refusal.cause == "gpu_memory_insufficient_at_start"
    context_gib = HOLD_CONTEXT.value_bytes / GIB
    assert prediction.excess["start_memory_gib"] == pytest.approx(
        predict(0.60).excess["start_memory_gib"] + 6 + context_gib
    )
    assert predict(0.60).excess["start_memory_gib"] < 0


def test_a_hold_has_a_context_on_a_gpu_whose_size_is_an_estimate():
    hold = Hold(name="ollama", bytes_=GIB)
    on_gpu, on_cpu = held_by(hold, "cuda"), held_by(hold, "cpu")
    assert on_gpu.value_bytes - GIB == HOLD_CONTEXT.value_bytes > 0
    assert (on_gpu.source, on_gpu.note) == ("estimated", "ollama and CUDA context of a hold")
    assert (on_cpu.value_bytes, on_cpu.margin_bytes) == (GIB, 0)


def test_a_context_that_may_be_smaller_refuses_nobody_for_certain():
    """What fits without the least that a context takes is launched."""
    hold = Hold(name="ollama", bytes_=GIB)
    with_hold = replace(INPUTS, neighbours=(hold,))
    missing_gib = predict(0.60).excess["start_memory_gib"]
    least = HOLD_CONTEXT.value_bytes - HOLD_CONTEXT.margin_bytes
    free = CARD.free_bytes + round(missing_gib * GIB) + GIB + least
    tight = predict(0.60, inputs=with_hold, state=replace(CARD, free_bytes=free))
    assert not tight.fits
    assert tight.refusal is None


def test_a_neighbour_that_runs_already_is_in_the_reading():
    there = replace(INPUTS, neighbours=(Running(name="ollama", match="ollama"),))
    assert predict(0.60, inputs=there) == predict(0.60)


def test_a_neighbour_of_unknown_size_gets_the_benefit_of_the_doubt():
    unknown = replace(INPUTS, neighbours=(Command(name="x", argv=("x",)),))
    tight = replace(CARD, free_bytes=int(7.6 * GIB))
    assert predict(0.60, state=tight).refusal is not None
    assert predict(0.60, inputs=unknown, state=tight).refusal is None


def test_free_memory_decides_not_the_list_of_tenants():
    crowded = replace(CARD, free_bytes=int(4.0 * GIB))
    assert predict(0.60).fits
    assert predict(0.60, state=crowded).refusal is not None


def test_what_must_stay_free_is_no_room():
    careful = replace(INPUTS, headroom_bytes=5 * GIB)
    assert predict(0.60, inputs=careful).refusal.cause == "device_memory"


def test_whisper_on_the_cpu_takes_nothing_of_the_gpu():
    on_gpu, on_cpu = predict(0.60), predict(0.60, device="cpu")
    assert on_cpu.forecasts["whisper"].held is None
    held = on_gpu.forecasts["whisper"].held.value_bytes
    assert on_gpu.excess["device_memory_gib"] == pytest.approx(
        on_cpu.excess["device_memory_gib"] + held / GIB
    )


def test_whisper_after_vllm_is_not_in_the_way_of_its_start():
    after, before = predict(0.60, inputs=VLLM_FIRST), predict(0.60)
    assert after.excess["start_memory_gib"] < before.excess["start_memory_gib"]
    assert after.excess["device_memory_gib"] == pytest.approx(before.excess["device_memory_gib"])
    assert list(after.forecasts) == ["vllm", "whisper"]
    assert list(before.forecasts) == ["whisper", "vllm"]


def test_a_whisper_that_nobody_can_predict_is_said_and_not_in_the_way():
    prediction = predict(0.60, size="nosuch")
    assert "Whisper's memory was not predicted" in prediction.doubts[0]
    assert prediction.excess == predict(0.60, device="cpu").excess


def test_an_unknown_shape_is_launched_and_said():
    blind = replace(MEMORY, shape=None, shape_missing="no config.json here")
    inputs = replace(INPUTS, servers={**INPUTS.servers, "vllm": blind})
    prediction = predict(0.40, inputs=inputs)
    assert prediction.fits
    assert prediction.refusal is None
    assert prediction.excess == {}
    assert "no config.json here" in prediction.doubts[0]
    assert prediction.forecasts["whisper"].held is not None


def test_a_real_start_stands_before_every_estimate():
    known = predict(0.50).forecasts["vllm"].learn(Calibration(), STARTED)
    again = predict(0.50, known=known)
    footprint = again.starts["vllm"].footprint
    assert footprint.capacity.tokens == pytest.approx(6976, rel=0.03)
    assert predict(0.45, known=known).refusal is not None
    assert predict(0.55, known=known).fits


def test_whispers_real_peak_stands_before_its_estimate_and_is_taken_off():
    known = predict(0.60).forecasts["whisper"].learn_peak(Calibration(), 3 * GIB)
    again = predict(0.60, known=known)
    assert again.forecasts["whisper"].held.value_bytes == 3 * GIB
    free = CARD.free_bytes - 3 * GIB
    alone = predict(0.60, device="cpu", state=replace(CARD, free_bytes=free))
    assert again.excess == pytest.approx(alone.excess)


def test_what_is_stored_is_every_servers_own():
    stored = {name: each.stored() for name, each in predict(0.60).forecasts.items()}
    assert stored["whisper"].held_source == "estimated"
    assert stored["whisper"].kv_cache_bytes is None
    assert stored["vllm"].kv_cache_bytes > 0


def test_what_neighbours_hold_is_charged_once_by_the_versions_that_charge_for_it():
    """Taken off when the start is learned from, and off again when the next one is predicted."""
    older = replace(MEMORY, version="0.9.0")
    inputs = replace(INPUTS, servers={**INPUTS.servers, "vllm": older})
    first = predict(0.85, inputs=inputs)
    held = first.forecasts["whisper"].held.value_bytes
    taken = CARD.total_bytes - CARD.free_bytes + held
    assert first.starts["vllm"].footprint.charged_bytes == taken
    logged = first.starts["vllm"].footprint.available_bytes - GIB // 4
    facts = replace(STARTED, available_kv_bytes=logged, kv_cache_tokens=None)
    known = first.forecasts["vllm"].learn(Calibration(), facts)
    again = predict(0.85, inputs=inputs, known=known).starts["vllm"]
    assert again.footprint.available_bytes == pytest.approx(logged, abs=GIB // 50)


class Holding(ServerMemory):
    """It holds so much, whatever the candidate says."""

    def __init__(self, bytes_):
        self.held = None if bytes_ is None else given(bytes_, "told")
        self.beside = []

    def forecast(self, settings, moment):
        self.beside.append(moment.beside)
        return Forecast(held=self.held)


class TestThreeServers:
    """A Whisper and two vLLMs; each finds there what started before it."""

    ORDER = ("whisper", "vllm", "second")
    BIG = replace(CARD, total_bytes=24 * GIB, free_bytes=23 * GIB, used_bytes=GIB)

    def predict(self, first, second, *, order=ORDER, state=BIG, **more):
        memories = {"whisper": WhisperMemory(), "vllm": MEMORY, "second": MEMORY}
        inputs = replace(INPUTS, servers={name: memories[name] for name in order}, **more)
        one = candidate(first, size="tiny", second=vllm(second))
        return predict_candidate(one, inputs, state, Calibration())

    def test_are_forecast_in_the_order_of_their_starts(self):
        prediction = self.predict(0.35, 0.35)
        assert tuple(prediction.forecasts) == self.ORDER
        assert list(prediction.starts) == ["vllm", "second"]
        assert prediction.fits

    def test_each_finds_there_what_started_before_it(self):
        prediction = self.predict(0.35, 0.40)
        held = {name: each.held.value_bytes for name, each in prediction.forecasts.items()}
        first, second = prediction.starts["vllm"], prediction.starts["second"]
        assert first.footprint.memory.whisper.value_bytes == held["whisper"]
        assert second.footprint.memory.whisper.value_bytes == held["whisper"] + held["vllm"]
        more = (0.05 * 24 * GIB + held["vllm"]) / GIB
        assert second.excess["start_memory_gib"] == pytest.approx(
            first.excess["start_memory_gib"] + more
        )

    def test_of_the_device_as_a_whole_each_counts_everybody(self):
        prediction = self.predict(0.35, 0.40)
        first, second = (
            prediction.starts[name].excess["device_memory_gib"] for name in ("vllm", "second")
        )
        assert first == pytest.approx(second)
        whole = sum(each.held.value_bytes for each in prediction.forecasts.values())
        assert first == pytest.approx((whole - self.BIG.free_bytes) / GIB)

    @pytest.mark.parametrize("order", [ORDER, ("vllm", "second", "whisper")])
    def test_of_the_device_as_a_whole_their_order_is_nothing(self, order):
        prediction = self.predict(0.35, 0.40, order=order)
        usual = self.predict(0.35, 0.40)
        assert prediction.excess["device_memory_gib"] == pytest.approx(
            usual.excess["device_memory_gib"]
        )

    def test_two_that_do_not_fit_together_refuse_the_candidate(self):
        prediction = self.predict(0.50, 0.75)
        assert prediction.refusal is prediction.starts["vllm"]
        assert prediction.refusal.cause == "device_memory"  # its start would succeed
        assert prediction.starts["second"].cause == "gpu_memory_insufficient_at_start"

    def test_the_first_certain_refusal_is_the_candidates(self):
        both = self.predict(0.20, 0.10)
        assert [start.certain for start in both.starts.values()] == [True, True]
        assert both.refusal is both.starts["vllm"]
        turned = self.predict(0.20, 0.10, order=("second", "vllm", "whisper"))
        assert turned.refusal is turned.starts["second"]

    def test_a_first_doubtful_one_is_no_refusal_but_a_later_certain_one_is(self):
        prediction = self.predict(0.2326, 0.10)
        first, second = prediction.starts.values()
        assert (first.fits, first.certain) == (False, False)
        assert second.certain
        assert prediction.refusal is second
        assert not prediction.fits

    def test_the_excess_is_of_whoever_is_worst_off(self):
        prediction = self.predict(0.20, 0.40)
        first, second = prediction.starts.values()
        assert first.excess["kv_cache_gib"] > 0 > second.excess["kv_cache_gib"]
        assert first.excess["start_memory_gib"] < second.excess["start_memory_gib"]
        assert prediction.excess == {
            name: max(first.excess[name], second.excess[name]) for name in first.excess
        }

    def test_all_doubts_are_kept_in_the_order_of_the_starts(self):
        blind = replace(MEMORY, shape=None, shape_missing="not one file")
        inputs = replace(INPUTS, servers={**INPUTS.servers, "second": blind})
        one = candidate(0.60, size="nosuch", second=vllm(0.1))
        doubts = predict_candidate(one, inputs, CARD, Calibration()).doubts
        assert ["nosuch" in doubts[0], "not one file" in doubts[1], len(doubts)] == [True, True, 2]


class TestAnyKindOfServer:
    def predict(self, *held, utilisation=0.60):
        memories = {f"held{at}": Holding(bytes_) for at, bytes_ in enumerate(held)}
        inputs = replace(INPUTS, servers={**memories, "vllm": MEMORY})
        others = dict.fromkeys(memories, ServerSettings(model="x", device="cuda"))
        one = candidate(utilisation, **others)
        return predict_candidate(one, inputs, CARD, Calibration()), list(memories.values())

    def test_what_it_holds_is_taken_off_what_the_next_ones_find(self):
        prediction, (first, second) = self.predict(GIB, 2 * GIB)
        assert first.beside == [NOTHING]
        assert [beside.value_bytes for beside in second.beside] == [GIB]
        assert prediction.starts["vllm"].footprint.memory.whisper.value_bytes == 3 * GIB
        alone = forecast(0.60, beside=given(3 * GIB)).start
        assert prediction.excess["start_memory_gib"] == pytest.approx(
            alone.excess["start_memory_gib"]
        )

    def test_one_that_is_unknown_is_in_nobodys_way(self):
        prediction, (_, second) = self.predict(None, GIB)
        assert second.beside == [NOTHING]
        assert prediction.starts["vllm"].footprint.memory.whisper.value_bytes == GIB

    def test_a_huge_one_refuses_the_candidate(self):
        prediction, _ = self.predict(9 * GIB)
        assert prediction.refusal is prediction.starts["vllm"]
        assert prediction.excess["start_memory_gib"] > 5


class TestTheDeviceAsAWhole:
    """What starts after a vLLM is not in the way of its start, but has to fit beside it."""

    def predict(self, *, later, utilisation=0.60, headroom=0):
        inputs = replace(
            INPUTS, servers={"vllm": MEMORY, "later": Holding(later)}, headroom_bytes=headroom
        )
        one = candidate(utilisation, later=ServerSettings(model="x", device="cuda"))
        return predict_candidate(one, inputs, CARD, Calibration())

    def test_one_that_fits_afterwards_changes_the_excess_only(self):
        alone, beside = forecast(0.60).start, self.predict(later=2 * GIB)
        assert beside.fits
        assert beside.starts["vllm"].footprint.memory.whisper.value_bytes == 0
        assert beside.excess == {
            **alone.excess,
            "device_memory_gib": pytest.approx(alone.excess["device_memory_gib"] + 2),
        }

    def test_one_that_leaves_too_little_free_refuses_the_candidate(self):
        assert self.predict(later=GIB, headroom=GIB).fits
        prediction = self.predict(later=2 * GIB, headroom=3 * GIB)
        assert prediction.refusal is prediction.starts["vllm"]
        assert prediction.refusal.cause == "device_memory"
        assert prediction.excess["device_memory_gib"] > 1

    def test_one_for_which_there_is_surely_no_room_refuses_the_candidate(self):
        prediction = self.predict(later=9 * GIB)
        assert prediction.excess["device_memory_gib"] > 5
        assert prediction.refusal.cause == "device_memory"

    def test_a_vllm_that_cannot_start_anyway_says_its_own_cause(self):
        prediction = self.predict(later=9 * GIB, utilisation=0.30)
        assert prediction.refusal.cause == "kv_cache_no_blocks"


def test_a_candidate_of_which_nothing_is_known_fits():
    nothing = CandidatePrediction(forecasts={})
    assert (nothing.fits, nothing.refusal, nothing.excess, nothing.doubts) == (True, None, {}, ())


def test_a_bench_is_predicted_in_the_order_of_its_starts_whatever_its_servers_order():
    for order in (("neighbours", "whisper", "vllm"), ("vllm", "neighbours", "whisper")):
        hold = Hold(name="ollama", bytes_=GIB)
        bench = bench_with(
            start_order=order,
            neighbours=(hold,),
            headroom_bytes=7,
            shape=QWEN,
            vllm_version="0.32.0",
        )
        inputs = PredictionInputs.of(bench)
        assert list(inputs.servers) == [name for name in order if name != "neighbours"]
        assert inputs.servers["vllm"] is bench.servers["vllm"].memory
        assert (inputs.device_kind, inputs.device_uuid) == ("cpu", bench.device.uuid)
        assert (inputs.neighbours, inputs.headroom_bytes) == ((hold,), 7)
        one = Candidate(params={}, servers=bench.settings)
        state = replace(CARD, total_bytes=64 * GIB, free_bytes=60 * GIB)
        prediction = predict_on_bench(one, bench, state, Calibration())
        assert list(prediction.forecasts) == list(inputs.servers)
        assert prediction == predict_candidate(one, inputs, state, Calibration())


@pytest.mark.parametrize(
    ("name", "most"), [("NVIDIA A100-SXM4-80GB", 256), ("NVIDIA H100 80GB HBM3", 1024)]
)
def test_a_cards_name_decides_how_many_requests_vllm_takes_at_once(name, most):
    server = ServerSettings(model="qwen", device="cuda", args={"gpu-memory-utilization": 0.5})
    state = replace(CARD, total_bytes=80 * GIB, free_bytes=79 * GIB)
    moment = replace(INPUTS, device_name=name).at(state, Calibration())
    assert MEMORY.forecast(server, moment).max_num_seqs == most


def test_a_bench_gives_the_name_of_its_device():
    bench = bench_with()
    assert PredictionInputs.of(bench).device_name == bench.device.name != ""
