"""What stands on a trial: written by the objective, read by every report."""

import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives import evidence as module
from objectives.device.allocation import LargestAllocation
from objectives.device.state import DeviceState
from objectives.evidence import (
    SCHEMA,
    Fault,
    Infeasible,
    Invocation,
    MemoryEvidence,
    PredictedMemory,
    TrialEvidence,
    fault_of,
    infeasible_of,
)
from objectives.load import Span
from objectives.measurement.capacity import Capacity
from objectives.measurement.quantiles import Summary
from objectives.measurement.summary import (
    ClientFigures,
    LlmMeasurement,
    Measurement,
    SttMeasurement,
)
from objectives.telemetry.record import MemoryPoint, TelemetrySummary
from objectives.vllm.startup_log import StartupFacts

GIB = 1 << 30
TIMES = Summary(
    n=240, mean=0.5, p50=0.4, p95=0.9, p99=1.2, p50_interval=(0.38, 0.42), p95_interval=(0.8, 1.0)
)
SERVED = {"requests": 240, "failed": 1, "failed_by_kind": {"http": 1}, "saturated": "it grows"}
PREDICTED = PredictedMemory(
    held_bytes=6 * GIB,
    held_source="given",
    weights_bytes=4 * GIB,
    activation_bytes=GIB // 2,
    non_torch_bytes=GIB // 4,
    graph_bytes=GIB // 8,
    outside_bytes=GIB // 16,
    kv_cache_bytes=GIB,
    kv_cache_tokens=18_000,
    max_concurrency=8.75,
    requested_bytes=6 * GIB,
    margin_bytes=GIB // 32,
    total_bytes=12 * GIB,
    fits=False,
    certain=False,
    cause="kv_cache_no_blocks",
    sources={"weights": "calibrated"},
    excess_gib={"kv_cache_gib": -0.5},
    margin_gib={"kv_cache_gib": 0.1},
)
LOGGED = StartupFacts(
    version="0.11.0",
    device_kind="cuda",
    available_kv_bytes=GIB,
    kv_cache_tokens=18_000,
    gpu_blocks=1125,
    block_size=16,
    max_concurrency=8.79,
    weights_bytes=4 * GIB,
    graph_bytes=GIB // 8,
    graph_estimate_bytes=GIB // 4,
    activation_bytes=GIB // 2,
    non_torch_bytes=GIB // 4,
    requested_bytes=6 * GIB,
    device_total_bytes=12 * GIB,
    free_at_start_bytes=11 * GIB,
    cpu_consumed_bytes=GIB // 64,
    utilization=0.5,
    max_model_len=2048,
    max_num_batched_tokens=8192,
    kv_is_explicit=False,
)
TELEMETRY = TelemetrySummary(
    total_bytes=12 * GIB,
    samples=(
        MemoryPoint(time_s=0.25, used_bytes=GIB, tenants={"vllm": GIB, "ollama": None}),
        MemoryPoint(time_s=0.5, used_bytes=2 * GIB, tenants={"vllm": 2 * GIB, "ollama": None}),
    ),
    began_s=1.235,
    duration_s=60.0,
    interval_s=0.25,
    looks=240,
    longest_gap_s=0.3,
    peak_used_bytes=8 * GIB,
    min_free_bytes=4 * GIB,
    tenants_bytes={"vllm": 6 * GIB, "ollama": None},
    tenants_peak_rss_bytes={"vllm": 7 * GIB},
    memory_sources={"vllm": "nvml", "ollama": None},
    utilisation_mean=0.75,
    utilisation_peak=1.0,
    power_mean_w=140.5,
    power_peak_w=170.0,
    energy_j=8430.0,
    temperature_peak_c=71.0,
    slowed_share={"power_cap": 0.5},
    busy_share=0.4,
    foreign_busy_share=0.05,
    stolen_share=0.01,
    cpu_pressure_mean=0.1,
    cpu_pressure_peak=0.2,
    oom_kills=1,
    cost_cpu_s=0.125,
)
MEASUREMENT = Measurement(
    client=ClientFigures(
        lag_s=TIMES, cpu_s=1.5, process_cpu_s=2.5, wall_s=60.5, longest_check_s=0.002
    ),
    trace_sha256="ab" * 32,
    llm=LlmMeasurement(
        **SERVED, ttft_s=TIMES, tpot_s=TIMES, e2e_s=TIMES, output_tokens_per_s=128.0
    ),
    stt=SttMeasurement(**SERVED, latency_s=TIMES, rtf=TIMES, infer_rtf=TIMES, audio_s_per_s=2.5),
    capacity=Capacity(
        requests=8,
        limited_by="max_num_seqs",
        kv_cache_tokens=18_000,
        tokens_per_request=2048,
        blocks_per_request=128,
        block_tokens=16,
        usable_blocks=1124,
        max_num_seqs=8,
        verdict="confirmed",
        evidence="8 ran at once",
    ),
    engine={"preemptions": 2.0},
    doubts=("the device was hot",),
)
FULL = TrialEvidence(
    point="util=0.5",
    weights="real",
    figures={"llm_latency_ms": 900.0, "concurrent_capacity": 8.0, "oom_events": 0.0},
    settings={"vllm": Invocation(argv=("python", "-m", "vllm"), env={"OMP_NUM_THREADS": "4"})},
    health={"whisper": {"compute_device": "cuda:0", "served": 0, "versions": {"torch": "2.8"}}},
    proofs={"vllm": "the driver lists its process 4711"},
    device_state=DeviceState(
        total_bytes=12 * GIB,
        free_bytes=11 * GIB,
        used_bytes=GIB,
        reserved_bytes=GIB // 4,
        cuda_total_bytes=int(11.7 * GIB),
        by_pid={4711: GIB, 4712: None},
    ),
    largest_allocation=LargestAllocation(
        granted_bytes=3 * GIB,
        refused_bytes=3 * GIB + 2,
        asked_bytes=9 * GIB,
        free_bytes=10 * GIB,
        context_bytes=GIB // 4,
        why_not="a reason beside it",
        before="vllm",
    ),
    footprint={"vllm": MemoryEvidence(predicted=PREDICTED, logged=LOGGED)},
    telemetry=TELEMETRY,
    tenants_bytes={"vllm": 6 * GIB, "ollama": None},
    measurement=MEASUREMENT,
    intervals={"llm_latency_ms": (850.0, 950.0)},
    doubts=("it moved", "the device was hot"),
    infeasible=Infeasible(
        cause="slo_missed",
        evidence="llm_latency_ms is 900",
        remedy="Offer less load.",
        predicted=False,
        figures={"short_gib": 0.5, "server": "vllm", "tried_bytes": GIB},
    ),
    error=Fault(type="BenchError", cause="bench", message="ollama left"),
    fitness=0.0,
    timeline=(
        Span(phase="predict", start_s=0.0, end_s=0.01),
        Span(phase="start vllm", start_s=0.01, end_s=21.5),
    ),
    phases_s={"predict": 0.01, "start": 21.5},
    recorded_duration_s=93.6,
)
PARTS = {one.name for one in fields(TrialEvidence)} - {"figures"}


def stored(evidence):
    """The attributes as they come back from a database."""
    return json.loads(json.dumps(evidence.to_attrs(), allow_nan=False))


def unset(value, name="evidence"):
    """What of a record, at any depth, has no value."""
    if value is None or value in ((), {}, ""):
        yield name
    elif is_dataclass(value):
        for one in fields(value):
            yield from unset(getattr(value, one.name), f"{name}.{one.name}")


class TestARoundTrip:
    def test_of_everything_loses_nothing(self):
        assert list(unset(FULL)) == []
        assert list(unset(FULL.footprint["vllm"])) == []
        assert TrialEvidence.from_attrs(stored(FULL)) == FULL

    def test_of_nothing_is_nothing(self):
        assert stored(TrialEvidence()) == {"schema": SCHEMA}
        assert TrialEvidence.from_attrs({"schema": SCHEMA}) == TrialEvidence()
        assert TrialEvidence.from_attrs({}) == TrialEvidence()

    @pytest.mark.parametrize("name", sorted(PARTS))
    def test_of_one_part_has_its_attribute_and_no_other(self, name):
        alone = TrialEvidence(**{name: getattr(FULL, name)})
        assert set(stored(alone)) == {"schema", name}
        assert TrialEvidence.from_attrs(stored(alone)) == alone

    def test_of_parts_that_know_little_loses_nothing(self):
        small = TrialEvidence(
            settings={"vllm": Invocation()},
            device_state=DeviceState(total_bytes=2, free_bytes=1, used_bytes=1),
            footprint={"vllm": MemoryEvidence(), "whisper": MemoryEvidence(logged=StartupFacts())},
            telemetry=TelemetrySummary(total_bytes=2),
            measurement=Measurement(client=ClientFigures(lag_s=Summary())),
            infeasible=Infeasible(),
            error=Fault(),
        )
        assert TrialEvidence.from_attrs(stored(small)) == small
        assert stored(small)["footprint"] == {"vllm": {}, "whisper": {"logged": {}}}

    def test_keeps_its_order(self):
        order = ["vllm", "ollama", "whisper"]
        evidence = TrialEvidence(tenants_bytes=dict.fromkeys(order))
        assert list(TrialEvidence.from_attrs(stored(evidence)).tenants_bytes) == order


class TestWhatIsWritten:
    def test_figures_are_attributes_of_their_own(self):
        attrs = stored(FULL)
        assert set(attrs) == {"schema", *PARTS, *FULL.figures}
        assert {name: attrs[name] for name in FULL.figures} == FULL.figures

    @pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
    def test_a_figure_that_is_no_finite_number_is_not(self, value):
        evidence = TrialEvidence(figures={"llm_latency_ms": value, "oom_events": 0.0})
        assert stored(evidence) == {"schema": SCHEMA, "oom_events": 0.0}

    def test_zero_is_a_figure_and_a_number_as_any_other(self):
        attrs = stored(TrialEvidence(fitness=0.0, figures={"oom_events": 0.0}))
        assert attrs == {"schema": SCHEMA, "fitness": 0.0, "oom_events": 0.0}

    def test_a_tenant_whose_bytes_are_unknown_stays_null(self):
        attrs = stored(FULL)
        assert attrs["tenants_bytes"] == {"vllm": 6 * GIB, "ollama": None}
        assert attrs["telemetry"]["tenants_bytes"]["ollama"] is None
        assert attrs["telemetry"]["samples"][0]["tenants"] == {"vllm": GIB, "ollama": None}
        assert attrs["device_state"]["by_pid"] == {"4711": GIB, "4712": None}

    def test_what_a_part_does_not_know_is_left_out(self):
        telemetry = TelemetrySummary(total_bytes=2, looks=1)
        attrs = stored(TrialEvidence(telemetry=telemetry))["telemetry"]
        known = {name: value for name, value in attrs.items() if value not in ([], {}, 0.0)}
        assert known == {"total_bytes": 2, "looks": 1}
        assert None not in attrs.values()

    def test_is_what_json_has_also_before_it_is_written(self):
        def plain(value):
            if isinstance(value, Mapping):
                return all(type(k) is str and plain(v) for k, v in value.items())
            if isinstance(value, list):
                return all(map(plain, value))
            return value is None or type(value) in {str, int, float, bool}

        assert plain(FULL.to_attrs())


OTHERS = {
    "worker": {"host": "a", "pid": 3},
    "lineage": {"id": "spica-0001", "generation": 2, "mutations": {}, "sha256": "0" * 64},
    "baseline": True,
    "note": "by hand",
    "artifacts:1": ["a.log"],
    "nothing": None,
}


class TestAttributesThatTheRecordDoesNotKnow:
    """Who worked, where from, what runs today: they are of others, and stand beside it."""

    def test_are_no_figures_and_do_no_harm(self):
        read = TrialEvidence.from_attrs({**OTHERS, **stored(FULL), **OTHERS})
        assert read == FULL

    def test_are_no_evidence_on_their_own(self):
        assert TrialEvidence.from_attrs(OTHERS) == TrialEvidence()

    def test_a_figure_of_another_version_is_one(self):
        read = TrialEvidence.from_attrs({"schema": SCHEMA, "words_per_s": 3})
        assert read == TrialEvidence(figures={"words_per_s": 3.0})
        assert type(read.figures["words_per_s"]) is float


BAD = {
    "point": (["a"], "point"),
    "weights": (3, "weights"),
    "settings": ({"vllm": {"argv": "python"}}, "settings.vllm.argv"),
    "health": ({"whisper": "ok"}, "health.whisper"),
    "proofs": ({"vllm": 7}, "proofs.vllm"),
    "device_state": ({"total_bytes": 2, "used_bytes": 1}, "device_state.free_bytes"),
    "largest_allocation": ({"granted_bytes": "all"}, "largest_allocation.granted_bytes"),
    "footprint": ({"vllm": {"logged": {"block_size": "big"}}}, "footprint.vllm.logged.block_size"),
    "telemetry": ({"total_bytes": 2, "samples": [{}]}, "telemetry.samples.0.time_s"),
    "tenants_bytes": ({"vllm": "much"}, "tenants_bytes.vllm"),
    "measurement": ({"client": {"lag_s": {"n": "many"}}}, "measurement.client.lag_s.n"),
    "intervals": ({"llm_latency_ms": [850.0]}, "intervals.llm_latency_ms.1"),
    "doubts": ("one", "doubts"),
    "infeasible": ("kv_cache_no_blocks", "infeasible"),
    "error": ({"message": 3}, "error.message"),
    "fitness": ("high", "fitness"),
    "timeline": ([{"phase": "predict", "start_s": 0.0}], "timeline.0.end_s"),
    "phases_s": ({"predict": "long"}, "phases_s.predict"),
    "recorded_duration_s": ([], "recorded_duration_s"),
}
"""Attribute to what nobody can read of it, and where the fault is."""


class TestAPartThatCannotBeRead:
    def test_can_be_any(self):
        assert set(BAD) == PARTS

    @pytest.mark.parametrize("name", sorted(PARTS))
    def test_is_left_out_and_a_doubt_says_so(self, name):
        bad, where = BAD[name]
        read = TrialEvidence.from_attrs({**stored(FULL), name: bad})
        doubt = f"its attribute {where} is not readable"
        nothing = getattr(TrialEvidence(), name)
        if name == "doubts":
            assert read == replace(FULL, doubts=(doubt,))
        else:
            assert read == replace(FULL, **{name: nothing}, doubts=(*FULL.doubts, doubt))

    def test_is_one_of_several(self):
        attrs = {**stored(FULL), **{name: bad for name, (bad, _) in BAD.items()}}
        read = TrialEvidence.from_attrs(attrs)
        assert read == TrialEvidence(figures=FULL.figures, doubts=read.doubts)
        assert set(read.doubts) == {f"its attribute {at} is not readable" for _, at in BAD.values()}

    @pytest.mark.parametrize("bad", ["x", 3, True, [1], [[]], {"a": {"b": []}}])
    @pytest.mark.parametrize("version", [{}, {"schema": SCHEMA}], ids=["first", "now"])
    def test_never_ends_a_report(self, bad, version):
        attrs = {**version, "whisper": bad, **dict.fromkeys(PARTS, bad)}
        assert TrialEvidence.from_attrs(attrs).doubts

    def test_can_be_written_again_without_it(self):
        read = TrialEvidence.from_attrs({**stored(FULL), "telemetry": "x"})
        assert TrialEvidence.from_attrs(stored(read)) == read


class TestTheFirstVersion:
    """Its attributes have no `schema`, and it knew one vLLM and one Whisper."""

    def test_kept_what_whisper_says_of_itself_under_its_name(self):
        said = {"compute_device": "cpu", "served": 0}
        assert TrialEvidence.from_attrs({"whisper": said}) == TrialEvidence(
            health={"whisper": said}
        )

    def test_kept_vllms_memory_without_its_name(self):
        attrs = {
            "footprint": {
                "predicted": {"kv_cache_bytes": 5, "whisper_bytes": 3, "whisper_source": "read"},
                "logged": {"available_kv_bytes": 4, "kv_cache_bytes": 4, "block_size": 16},
            }
        }
        memory = TrialEvidence.from_attrs(attrs).footprint
        speech = PredictedMemory(held_bytes=3, held_source="read")
        assert memory["whisper"] == MemoryEvidence(predicted=speech)
        assert memory["vllm"] == MemoryEvidence(
            predicted=PredictedMemory(kv_cache_bytes=5),
            logged=StartupFacts(available_kv_bytes=4, block_size=16),
        )
        assert memory["vllm"].kv_cache_bytes == (5, 4)

    def test_may_have_logged_a_cache_by_its_second_name_only(self):
        attrs = {"footprint": {"logged": {"kv_cache_bytes": 4}}}
        memory = TrialEvidence.from_attrs(attrs).footprint["vllm"]
        assert memory == MemoryEvidence(logged=StartupFacts(available_kv_bytes=4))
        assert memory.kv_cache_bytes == (None, 4)

    def test_logged_nothing_of_a_start_that_failed(self):
        attrs = {"footprint": {"predicted": {"kv_cache_bytes": 5}}}
        assert TrialEvidence.from_attrs(attrs).footprint["vllm"].kv_cache_bytes == (5, None)

    def test_wrote_everything_else_as_it_is_written_now(self):
        moved = {"schema", "health", "footprint"}
        attrs = {name: value for name, value in stored(FULL).items() if name not in moved}
        assert TrialEvidence.from_attrs(attrs) == replace(FULL, health={}, footprint={})

    def test_is_not_what_is_meant_where_a_schema_stands(self):
        attrs = {"schema": SCHEMA, "whisper": {"compute_device": "cpu"}}
        assert TrialEvidence.from_attrs(attrs).health == {}

    def test_is_read_and_not_changed(self):
        attrs = {"whisper": {}, "footprint": {"logged": {"kv_cache_bytes": 4}}}
        before = json.dumps(attrs)
        TrialEvidence.from_attrs(attrs)
        assert json.dumps(attrs) == before

    def test_that_is_written_again_is_of_this_one(self):
        attrs = {"whisper": {"a": 1}, "footprint": {"predicted": {"kv_cache_bytes": 5}}}
        read = TrialEvidence.from_attrs(attrs)
        again = stored(read)
        assert again["schema"] == SCHEMA
        assert "whisper" not in again
        assert TrialEvidence.from_attrs(again) == read


def widened(value):
    """The same with a key more wherever there are parts; a later version knows more."""
    if isinstance(value, list):
        return [widened(each) for each in value]
    if isinstance(value, dict):
        return {name: widened(each) for name, each in value.items()} | {"later": {"a": [1]}}
    return value


def test_a_study_of_a_later_version_is_read_as_far_as_it_is_known():
    parts = ("device_state", "telemetry", "measurement", "infeasible", "error", "timeline")
    attrs = stored(FULL)
    for name in parts:
        attrs[name] = widened(attrs[name])
    for kept_by_name in ("settings", "footprint"):
        attrs[kept_by_name] = {server: widened(v) for server, v in attrs[kept_by_name].items()}
    # Where names are free, a name more is one more.
    for mapping in (
        attrs["device_state"]["by_pid"],
        attrs["settings"]["vllm"]["env"],
        attrs["infeasible"]["figures"],
        attrs["measurement"]["engine"],
        *(attrs["measurement"][server]["failed_by_kind"] for server in ("llm", "stt")),
        *(
            attrs["footprint"]["vllm"]["predicted"][n]
            for n in ("sources", "excess_gib", "margin_gib")
        ),
        *(each["tenants"] for each in attrs["telemetry"]["samples"]),
        *(
            attrs["telemetry"][name]
            for name in (
                "tenants_bytes",
                "tenants_peak_rss_bytes",
                "memory_sources",
                "slowed_share",
            )
        ),
    ):
        del mapping["later"]
    later = {**attrs, "schema": SCHEMA + 7, "mood": {"of": "the bench"}}
    assert TrialEvidence.from_attrs(later) == FULL


class Guarded(dict):
    """Attributes of which only one may be looked at."""

    def __init__(self, attrs, allowed):
        super().__init__(attrs)
        self.allowed = allowed

    def __getitem__(self, name):
        assert name == self.allowed, f"{name} was read"
        return super().__getitem__(name)

    def get(self, name, default=None):
        return super().get(name, default) if name not in self else self[name]

    def keys(self):
        raise AssertionError("everything was read")

    items = values = __iter__ = keys


class TestOneQuestionOnly:
    ONE = (("infeasible", infeasible_of), ("error", fault_of))

    @pytest.mark.parametrize(("name", "ask"), ONE)
    def test_is_answered_as_the_whole_record_does(self, name, ask):
        for attrs in (stored(FULL), {}, {"schema": SCHEMA}, {name: {}}, {name: {"cause": "oom"}}):
            assert ask(attrs) == getattr(TrialEvidence.from_attrs(attrs), name)
        assert ask(stored(FULL)) == getattr(FULL, name)

    @pytest.mark.parametrize(("name", "ask"), ONE)
    @pytest.mark.parametrize("bad", ["x", 3, [], {"cause": ["a"]}, None])
    def test_has_no_answer_where_it_cannot_be_read(self, name, ask, bad):
        attrs = {**stored(FULL), name: bad}
        assert ask(attrs) is None
        assert getattr(TrialEvidence.from_attrs(attrs), name) is None

    @pytest.mark.parametrize(("name", "ask"), ONE)
    def test_reads_nothing_else(self, name, ask):
        attrs = Guarded({**stored(FULL), "telemetry": "broken"}, name)
        assert ask(attrs) == getattr(FULL, name)

    @pytest.mark.parametrize(("name", "ask"), ONE)
    def test_checks_nothing_else(self, name, ask, monkeypatch):
        checked = []
        attrs = {**stored(FULL), "telemetry": {"samples": [{}] * 240}}
        adapter = module._adapter
        monkeypatch.setattr(module, "_adapter", lambda one: checked.append(one) or adapter(one))
        assert ask(attrs) == getattr(FULL, name)
        assert checked == [name]


def test_a_memory_is_known_as_predicted_and_as_logged():
    assert MemoryEvidence().kv_cache_bytes == (None, None)
    assert MemoryEvidence(predicted=PREDICTED).kv_cache_bytes == (GIB, None)
    assert MemoryEvidence(logged=LOGGED).kv_cache_bytes == (None, GIB)


def test_what_nobody_said_has_a_word():
    assert Infeasible().cause == "unknown"
    assert Fault().cause == "bench"
    assert Fault().message == "no message was stored"


names = st.text(min_size=1, max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
sizes = st.none() | st.integers(min_value=0, max_value=1 << 50)


def few(values):
    return st.dictionaries(names, values, max_size=3)


evidences = st.builds(
    TrialEvidence,
    point=st.none() | names,
    weights=st.none() | st.sampled_from(["real", "dummy", "replay"]),
    figures=st.dictionaries(names.filter(lambda name: name not in {"schema", *PARTS}), numbers),
    settings=few(
        st.builds(Invocation, argv=st.lists(names).map(tuple), env=few(st.text(max_size=8)))
    ),
    health=few(few(st.none() | st.booleans() | st.integers() | numbers | names)),
    footprint=few(
        st.builds(
            MemoryEvidence,
            predicted=st.none()
            | st.builds(PredictedMemory, held_bytes=sizes, fits=st.none() | st.booleans()),
            logged=st.none() | st.builds(StartupFacts, available_kv_bytes=sizes),
        )
    ),
    tenants_bytes=few(sizes),
    intervals=few(st.tuples(numbers, numbers)),
    doubts=st.lists(st.text(max_size=8), max_size=3).map(tuple),
    infeasible=st.none() | st.builds(Infeasible, cause=names, predicted=st.booleans()),
    error=st.none() | st.builds(Fault, message=st.text(max_size=8)),
    fitness=st.none() | numbers,
    timeline=st.lists(st.builds(Span, phase=names, start_s=numbers, end_s=numbers)).map(tuple),
    phases_s=few(numbers),
    recorded_duration_s=st.none() | numbers,
)


@settings(max_examples=60, deadline=None)
@given(evidences)
def test_what_is_written_is_what_is_read(evidence):
    assert TrialEvidence.from_attrs(stored(evidence)) == evidence


@pytest.mark.parametrize(
    "kind",
    [Infeasible, Fault, Invocation, PredictedMemory, TrialEvidence],
    ids=lambda kind: kind.__name__,
)
def test_every_attribute_is_explained(kind):
    explained = re.findall(r"^ +(\w+): ", kind.__doc__.partition("Attributes:")[2], re.M)
    whole = [one.name for one in fields(kind)]
    if kind is Invocation:
        assert explained == [] and whole == ["argv", "env"], "one sentence says both"
    else:
        assert explained == whole
