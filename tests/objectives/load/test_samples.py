"""What was seen of every request, and what follows from it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.load.samples import ClientCost, Driven, Failure, Sample

seconds = st.none() | st.floats(0, 1e4)
counts = st.none() | st.integers(0, 10**6)
samples = st.builds(
    Sample,
    server=st.sampled_from(["llm", "stt"]),
    phase=st.sampled_from(["warmup", "measure"]),
    due_s=st.floats(0, 1e4),
    sent_s=seconds,
    first_s=seconds,
    last_s=seconds,
    done_s=seconds,
    events=st.integers(0, 100),
    prompt_tokens=counts,
    asked_tokens=counts,
    output_tokens=counts,
    audio_s=seconds,
    queue_s=seconds,
    infer_s=seconds,
    text=st.none() | st.text(),
    failure=st.none()
    | st.builds(
        Failure,
        kind=st.sampled_from(["oom", "http"]),
        message=st.text(),
        status=st.none() | st.just(507),
    ),
)


def driven(warmup=(), samples=()):
    return Driven(
        trace_sha256="0" * 64,
        seed=1,
        measure_s=10.0,
        warmup=tuple(warmup),
        samples=tuple(samples),
        client=ClientCost(wall_s=10, cpu_s=0.1, process_cpu_s=0.2, longest_check_s=0.001),
        spans=(),
    )


def test_every_time_counts_from_when_the_request_was_due_not_from_when_it_was_sent():
    sample = Sample(
        server="llm",
        phase="measure",
        due_s=10.0,
        sent_s=10.5,
        first_s=11.0,
        last_s=13.0,
        done_s=13.25,
        events=5,
        output_tokens=9,
    )
    assert sample.lag_s == 0.5
    assert sample.ttft_s == 1.0
    assert sample.latency_s == 3.25
    assert sample.tpot_s == 0.25, "two seconds for the eight tokens after the first"


@pytest.mark.parametrize("missing", [{"events": 1}, {"output_tokens": 1}, {"output_tokens": None}])
def test_one_event_or_one_token_has_no_time_between_tokens(missing):
    seen = {"first_s": 1.0, "last_s": 2.0, "events": 3, "output_tokens": 3} | missing
    assert Sample(server="llm", phase="measure", due_s=0.0, **seen).tpot_s is None


def test_real_time_factors_with_and_without_the_queue():
    sample = Sample(
        server="stt", phase="measure", due_s=1.0, done_s=3.0, audio_s=5.0, queue_s=1.0, infer_s=0.5
    )
    assert sample.rtf == pytest.approx(0.4)
    assert sample.infer_rtf == pytest.approx(0.1)


def test_what_did_not_happen_has_no_time():
    sample = Sample(
        server="llm", phase="measure", due_s=0.0, failure=Failure(kind="timeout", message="late")
    )
    assert not sample.answered
    times = (sample.lag_s, sample.ttft_s, sample.tpot_s, sample.latency_s, sample.rtf)
    assert times == (None,) * 5
    assert sample.record() == {
        "server": "llm",
        "phase": "measure",
        "due_s": 0.0,
        "events": 0,
        "failure": {"kind": "timeout", "message": "late"},
    }


@given(st.lists(samples, max_size=4), st.lists(samples, max_size=4))
def test_every_sample_is_a_line_the_warm_up_first(warmup, window):
    lines = driven(warmup, window).jsonl().split("\n")
    assert lines.pop() == ""
    assert [json.loads(line) for line in lines] == [one.record() for one in [*warmup, *window]]


def test_samples_of_one_server():
    both = [Sample(server=name, phase="measure", due_s=0.0) for name in ("llm", "stt", "llm")]
    assert len(driven(samples=both).of("llm")) == 2
