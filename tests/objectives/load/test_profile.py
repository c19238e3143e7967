"""What requests arrive, how often, of what size."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.errors import UsageError
from objectives.load.audio import speech_like
from objectives.load.profile import (
    LlmLoad,
    LlmRequest,
    LoadProfile,
    SttLoad,
    SttRequest,
    plan,
)

LLM = LlmLoad(rate_rps=4.0, prompt_tokens=(16, 64), output_tokens=(4, 8), vocab_size=1000)
STT = SttLoad(rate_rps=0.5, clip_s=(0.2, 0.4, 0.3))
PROFILE = LoadProfile(seed=11, llm=LLM, stt=STT, warmup_s=4.0, measure_s=20.0)

profiles = st.builds(
    LoadProfile,
    seed=st.integers(0, 2**40),
    llm=st.builds(
        LlmLoad,
        rate_rps=st.floats(0.5, 20),
        prompt_tokens=st.one_of(
            st.integers(1, 60), st.tuples(st.integers(1, 9), st.integers(9, 60))
        ),
        output_tokens=st.integers(1, 20),
        vocab_size=st.integers(200, 50_000),
        arrivals=st.sampled_from(["poisson", "constant"]),
    ),
    stt=st.builds(SttLoad, rate_rps=st.floats(0.5, 5), clip_s=st.just((0.05, 0.1))),
    warmup_s=st.sampled_from([0.0, 3.0]),
    measure_s=st.floats(2.0, 20.0),
)


def prompts(requests):
    return [request for request in requests if isinstance(request, LlmRequest)]


def clips(requests):
    return [request for request in requests if isinstance(request, SttRequest)]


@settings(max_examples=40, deadline=None)
@given(profiles)
def test_the_trace_is_fixed_by_the_profile_alone(profile):
    assert plan(profile) == plan(profile)
    assert plan(profile).sha256 == plan(profile).sha256


@settings(max_examples=40, deadline=None)
@given(profiles)
def test_the_number_of_requests_is_known_before_and_all_are_due_within_their_phase(profile):
    trace = plan(profile)
    assert len(prompts(trace.measure)) == profile.requests("llm")
    assert len(clips(trace.measure)) == profile.requests("stt")
    assert profile.requests("llm") == pytest.approx(
        profile.llm.rate_rps * profile.measure_s, abs=0.5
    )
    for requests, duration_s in (
        (trace.warmup, profile.warmup_s),
        (trace.measure, profile.measure_s),
    ):
        due_s = [request.due_s for request in requests]
        assert due_s == sorted(due_s)
        assert all(0 <= due <= duration_s for due in due_s)


@settings(max_examples=40, deadline=None)
@given(profiles)
def test_sizes_and_token_ids_stay_within_what_was_asked(profile):
    load = profile.llm
    low, high = (
        load.prompt_tokens if isinstance(load.prompt_tokens, tuple) else (load.prompt_tokens,) * 2
    )
    for request in prompts(plan(profile).measure):
        assert low <= len(request.prompt) <= high
        assert all(load.lowest_token_id <= token < load.vocab_size for token in request.prompt)
        assert request.output_tokens == load.output_tokens


def test_another_seed_is_another_trace():
    other = plan(replace(PROFILE, seed=12))
    assert other.sha256 != plan(PROFILE).sha256
    assert [r.due_s for r in other.measure] != [r.due_s for r in plan(PROFILE).measure]


def test_leaving_one_server_out_moves_nothing_of_the_other():
    whole = plan(PROFILE)
    assert clips(whole.measure) == list(plan(replace(PROFILE, llm=None)).measure)
    assert prompts(whole.measure) == list(plan(replace(PROFILE, stt=None)).measure)


def test_longer_prompts_arrive_when_shorter_ones_would_have():
    longer = plan(replace(PROFILE, llm=replace(LLM, prompt_tokens=100)))
    assert [r.due_s for r in longer.measure] == [r.due_s for r in plan(PROFILE).measure]


def test_no_prompt_begins_like_another_so_no_prefix_cache_can_help():
    trace = plan(PROFILE)
    beginnings = [request.prompt[:8] for request in prompts([*trace.warmup, *trace.measure])]
    assert len(set(beginnings)) == len(beginnings)


def test_the_warm_up_begins_with_the_largest_requests_that_can_come():
    warmup = plan(PROFILE).warmup
    first_prompt, first_clip = prompts(warmup)[0], clips(warmup)[0]
    assert (len(first_prompt.prompt), first_prompt.output_tokens) == (64, 8)
    assert first_clip.clip.duration_s == pytest.approx(0.4)


def test_without_a_warm_up_there_is_none():
    assert plan(replace(PROFILE, warmup_s=0.0)).warmup == ()


def test_every_clip_comes_equally_often():
    sent = clips(plan(replace(PROFILE, stt=replace(STT, rate_rps=3.0))).measure)
    counts = {clip.clip.name: 0 for clip in sent}
    for request in sent:
        counts[request.clip.name] += 1
    assert sorted(counts.values()) == [20, 20, 20]


def test_constant_arrivals_are_a_metronome():
    trace = plan(replace(PROFILE, stt=None, llm=replace(LLM, arrivals="constant")))
    gaps = np.diff([request.due_s for request in trace.measure])
    assert np.allclose(gaps, 0.25)


def test_poisson_arrivals_have_gaps_as_varied_as_their_mean():
    """An exponential gap has a coefficient of variation of 1; a metronome has 0."""
    profile = replace(PROFILE, stt=None, measure_s=1000.0, llm=replace(LLM, prompt_tokens=1))
    gaps = np.diff([request.due_s for request in plan(profile).measure])
    assert gaps.mean() == pytest.approx(0.25, rel=0.01)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.06)
    assert np.corrcoef(gaps[:-1], gaps[1:])[0, 1] == pytest.approx(0.0, abs=0.06)


def test_files_are_sent_instead_of_made_sound(tmp_path):
    path = tmp_path / "own.wav"
    path.write_bytes(speech_like(0.3, 9).wav)
    sent = clips(plan(replace(PROFILE, stt=SttLoad(rate_rps=0.5, files=(path,)))).measure)
    assert {request.clip.name for request in sent} == {"own.wav"}


def test_a_file_that_is_missing_is_a_mistake_of_the_person(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        plan(replace(PROFILE, stt=SttLoad(rate_rps=0.5, files=(tmp_path / "none.wav",))))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: replace(LLM, rate_rps=0.0), "llm.rate_rps: 0.0 is not above 0"),
        (lambda: replace(LLM, rate_rps=float("nan")), "llm.rate_rps"),
        (lambda: replace(LLM, prompt_tokens=(9, 3)), "llm.prompt_tokens"),
        (lambda: replace(LLM, output_tokens=0), "llm.output_tokens"),
        (lambda: replace(LLM, vocab_size=100), "llm.vocab_size: 100 leaves no id"),
        (lambda: replace(STT, arrivals="bursts"), "allowed: poisson, constant"),
        (lambda: replace(STT, clip_s=()), "nothing to send"),
        (lambda: replace(STT, clip_s=(1.0, -1.0)), "stt.clip_s"),
        (lambda: replace(PROFILE, seed=-1), "seed"),
        (lambda: replace(PROFILE, measure_s=0.0), "measure_s"),
        (lambda: replace(PROFILE, stt=replace(STT, rate_rps=0.01)), "is no request"),
    ],
)
def test_a_load_that_makes_no_sense_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_the_profile_goes_into_json_without_what_is_not_there():
    document = json.loads(json.dumps(replace(PROFILE, stt=None).to_dict()))
    assert document["llm"]["prompt_tokens"] == [16, 64]
    assert "stt" not in document
