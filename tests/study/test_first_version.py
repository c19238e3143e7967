"""A database that the first version of this program wrote is read as that version read it.

`tests/fixtures/first_version.db` was written by the program at 4534a29: `shared-gpu` is its own toy
of a whole study (the toy's capacity replaced by one that the program computed), `fakes` are two
trials of its objective on its fake servers, one measured and one out of bounds. The documents
beside it are what `study.report --json` of 4534a29 printed. None of them is edited by hand.
"""

import json
import shutil

import pytest

from objectives.evidence import TrialEvidence
from storage.trials import study_at
from study.report import main
from study.results.findings import read_study
from tests.paths import ROOT

FIXTURES = ROOT / "tests" / "fixtures"
STUDIES = ("shared-gpu", "fakes")


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """A copy: nobody writes into the one that is kept."""
    path = tmp_path_factory.mktemp("first") / "first_version.db"
    shutil.copyfile(FIXTURES / "first_version.db", path)
    return f"sqlite:///{path}"


def findings_of(storage, name):
    with study_at(storage, name) as study:
        return read_study(study, storage)


def attrs_of(storage, name):
    with study_at(storage, name) as study:
        return [trial.user_attrs for trial in study.trials]


@pytest.fixture(scope="module")
def measured(storage):
    """The trial that the first version measured itself: as it is stored, and as it is read."""
    attrs = attrs_of(storage, "fakes")[0]
    return attrs, TrialEvidence.from_attrs(attrs)


def reported(capsys, storage, name, *options):
    """What the command prints of a study."""
    code = main(["--storage", storage, "--study-name", name, *options])
    said = capsys.readouterr()
    assert (code, said.err) == (0, "")
    return said.out


def test_nothing_in_it_says_a_schema(storage):
    for name in STUDIES:
        for attrs in attrs_of(storage, name):
            assert "schema" not in attrs


@pytest.mark.parametrize("name", STUDIES)
class TestTheReport:
    def test_is_the_document_that_the_first_version_printed(self, storage, capsys, name):
        said = json.loads(reported(capsys, storage, name, "--json"))
        then = json.loads((FIXTURES / f"first_version.{name}.json").read_text())
        assert then.pop("storage") == "sqlite:///first_version.db"
        assert said.pop("storage") == storage
        for what in ("front", "picks", "baseline"):
            assert said[what] == then[what]
        assert then["front"]
        assert any(trial["infeasible"] for trial in then["trials"])
        assert said == then

    @pytest.mark.parametrize("form", ["text", "html", "json", "csv", "jsonl"])
    def test_has_no_doubt_about_its_attributes(self, storage, capsys, name, form):
        said = reported(capsys, storage, name, "--format", form)
        assert said
        assert "not readable" not in said

    def test_has_what_every_trial_was_measured_with(self, storage, name):
        for trial in findings_of(storage, name).feasible:
            evidence = trial.evidence
            assert evidence.settings.keys() == {"vllm", "whisper"}
            assert evidence.telemetry.samples
            assert None not in trial.kv_cache_bytes
            assert evidence.measurement.llm.e2e_s.p95 > evidence.measurement.llm.e2e_s.p50 > 0
            assert evidence.measurement.capacity.requests == trial.values["concurrent_capacity"]
            assert set(evidence.intervals) == {"stt_latency_ms", "llm_latency_ms"}
            assert evidence.timeline
            assert trial.figure("gpu_utilization") == evidence.figures["gpu_utilization"] > 0


def test_a_neighbour_that_did_not_tell_its_bytes_is_still_unknown(storage):
    trial = findings_of(storage, "shared-gpu").feasible[0]
    assert {sample.tenants["ollama"] for sample in trial.evidence.telemetry.samples} == {None}


def test_a_broken_bench_says_why(storage):
    findings = findings_of(storage, "shared-gpu")
    broken = [trial.evidence.error for trial in findings.trials if trial.state == "FAIL"]
    assert [fault.message for fault in broken] == ["ollama left during the trial"]


class TestTheMeasuredTrial:
    def test_is_read_without_a_doubt(self, measured):
        _, evidence = measured
        assert evidence.doubts == ()
        assert evidence.point == "vllm_memory_util=0.15 whisper_model_size=tiny"
        assert evidence.weights == "real"
        assert evidence.infeasible is evidence.error is None

    def test_has_its_telemetry(self, measured):
        attrs, evidence = measured
        stored, telemetry = attrs["telemetry"], evidence.telemetry
        assert [
            {"time_s": one.time_s, "used_bytes": one.used_bytes, "tenants": one.tenants}
            for one in telemetry.samples
        ] == stored["samples"]
        assert len(telemetry.samples) > telemetry.looks == stored["looks"], "more than the window's"
        assert telemetry.began_s == stored["began_s"] > 0
        assert telemetry.peak_used_bytes == stored["peak_used_bytes"]
        assert telemetry.memory_sources == {"vllm": "pss", "whisper": "pss"}
        assert telemetry.power_mean_w is None
        assert evidence.tenants_bytes == attrs["tenants_bytes"]
        assert evidence.tenants_bytes["vllm"] > 0

    def test_has_the_quantiles_of_its_measurement(self, measured):
        attrs, evidence = measured
        llm, stt = attrs["measurement"]["llm"], attrs["measurement"]["stt"]
        read = evidence.measurement
        for times, stored in (
            (read.llm.ttft_s, llm["ttft_s"]),
            (read.llm.tpot_s, llm["tpot_s"]),
            (read.llm.e2e_s, llm["e2e_s"]),
            (read.stt.latency_s, stt["latency_s"]),
            (read.stt.infer_rtf, stt["infer_rtf"]),
            (read.client.lag_s, attrs["measurement"]["client"]["lag_s"]),
        ):
            assert [times.of(name) for name in ("p50", "p95", "p99")] == [
                stored[name] for name in ("p50", "p95", "p99")
            ]
            assert list(times.p50_interval) == stored["p50_interval"]
            assert times.p95_interval is stored["p95_interval"] is None
        assert (read.llm.requests, read.stt.requests, read.llm.failed) == (16, 8, 0)
        assert read.capacity.verdict == attrs["measurement"]["capacity"]["verdict"]
        assert read.engine == attrs["measurement"]["engine"]
        assert evidence.intervals["llm_latency_ms"] == tuple(attrs["intervals"]["llm_latency_ms"])

    def test_has_its_kv_cache_as_predicted_and_as_logged(self, measured):
        attrs, evidence = measured
        memory, stored = evidence.footprint["vllm"], attrs["footprint"]
        assert memory.kv_cache_bytes == (
            stored["predicted"]["kv_cache_bytes"],
            stored["logged"]["kv_cache_bytes"],
        )
        assert 0 not in memory.kv_cache_bytes
        assert memory.predicted.sources == stored["predicted"]["sources"]
        assert memory.predicted.fits is True
        assert memory.logged.available_kv_bytes == stored["logged"]["kv_cache_bytes"]
        assert memory.logged.kv_cache_tokens == stored["logged"]["kv_cache_tokens"]

    def test_has_what_whisper_said_of_itself(self, measured):
        attrs, evidence = measured
        assert evidence.health == {"whisper": attrs["whisper"]}
        assert evidence.health["whisper"]["compute_device"] == "cpu"

    def test_has_how_its_servers_were_started(self, measured):
        attrs, evidence = measured
        assert evidence.settings["vllm"].argv == tuple(attrs["settings"]["vllm"]["argv"])
        assert evidence.settings["whisper"].env == attrs["settings"]["whisper"]["env"]

    def test_has_its_figures_and_its_time(self, measured):
        attrs, evidence = measured
        assert set(evidence.figures) == {
            "stt_latency_ms",
            "llm_latency_ms",
            "concurrent_capacity",
            "gpu_utilization",
            "free_memory_mb",
            "oom_events",
        }
        assert all(attrs[name] == value for name, value in evidence.figures.items())
        assert evidence.phases_s == attrs["phases_s"]
        assert [
            {"phase": span.phase, "start_s": span.start_s, "end_s": span.end_s}
            for span in evidence.timeline
        ] == attrs["timeline"]
        assert evidence.device_state.total_bytes == attrs["device_state"]["total_bytes"]

    def test_can_be_written_by_this_version_and_read_again(self, measured):
        _, evidence = measured
        attrs = json.loads(json.dumps(evidence.to_attrs()))
        assert TrialEvidence.from_attrs(attrs) == evidence


def test_the_refused_trial_says_why(storage):
    refused = findings_of(storage, "fakes")[1]
    assert refused.infeasible.cause == "out_of_bounds"
    assert (
        refused.infeasible.evidence == "vllm_memory_util is 0.75, its hard bounds are 0.01 to 0.7"
    )
    assert refused.predicted
