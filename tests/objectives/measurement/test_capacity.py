"""How many requests of the profile's size the language model holds at once."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.evidence import TrialEvidence
from objectives.load.profile import LlmLoad
from objectives.measurement.capacity import capacity, confirm
from objectives.measurement.quantiles import Summary
from objectives.measurement.summary import ClientFigures, Measurement
from objectives.vllm.metrics import compare_pages


def load(prompt_tokens, output_tokens):
    return LlmLoad(
        rate_rps=1, prompt_tokens=prompt_tokens, output_tokens=output_tokens, vocab_size=1000
    )


def pages(*, running, waiting=0, preempted=0, usage=1.0):
    def page(preemptions):
        return (
            f"vllm:num_requests_running {running}\nvllm:num_requests_waiting {waiting}\n"
            f"vllm:kv_cache_usage_perc {usage}\nvllm:num_preemptions_total {preemptions}\n"
        )

    return compare_pages([page(0), page(preempted)])


def test_the_cache_that_production_logged_holds_three_full_requests():
    """judge.service: 6,976 tokens, "3.41x" for 2048 tokens; there is no 0.41 of a request."""
    found = capacity(load(1920, 128), kv_cache_tokens=6976)
    assert (found.requests, found.limited_by) == (3, "kv_cache")
    assert (found.tokens_per_request, found.blocks_per_request) == (2048, 128)


def test_a_request_takes_whole_blocks():
    assert capacity(load(100, 1), kv_cache_tokens=11 * 128, block_tokens=128).requests == 10
    assert capacity(load(100, 29), kv_cache_tokens=11 * 128, block_tokens=128).requests == 5


def test_one_block_is_the_engines_own():
    """vLLM 0.32, 32 blocks of 128 tokens, requests of 96: 31 ran at once, the 32nd waited."""
    assert capacity(load(64, 32), kv_cache_tokens=4096, block_tokens=128).requests == 31


def test_the_longest_request_counts_not_the_average():
    assert capacity(load((10, 100), (1, 28)), kv_cache_tokens=1296, block_tokens=16).requests == 10


def test_the_engine_runs_no_more_than_max_num_seqs():
    capped = capacity(load(16, 16), kv_cache_tokens=32_000, max_num_seqs=8)
    assert (capped.requests, capped.limited_by) == (8, "max_num_seqs")
    free = capacity(load(16, 16), kv_cache_tokens=336, max_num_seqs=256)
    assert (free.requests, free.limited_by) == (10, "kv_cache")


def test_a_cache_too_small_for_one_request_holds_none():
    assert capacity(load(1920, 128), kv_cache_tokens=2032).requests == 0


@given(
    st.integers(0, 10**7),
    st.integers(1, 256),
    st.integers(1, 4000),
    st.integers(1, 400),
    st.integers(1, 512),
)
def test_so_many_fit_and_not_one_more(tokens, block, prompt, output, max_num_seqs):
    found = capacity(
        load(prompt, output), kv_cache_tokens=tokens, block_tokens=block, max_num_seqs=max_num_seqs
    )
    per_request = found.blocks_per_request * block
    assert prompt + output <= per_request < prompt + output + block
    assert found.requests == 0 or found.requests * per_request + block <= tokens
    assert found.requests <= max_num_seqs
    if found.limited_by == "kv_cache":
        assert (found.requests + 1) * found.blocks_per_request > tokens // block - 1


@pytest.mark.parametrize(
    "wrong", [{"kv_cache_tokens": -1}, {"block_tokens": 0}, {"max_num_seqs": 0}]
)
def test_counts_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="tokens in blocks of"):
        capacity(load(1, 1), **{"kv_cache_tokens": 160, **wrong})


class TestUnderLoad:
    promised = capacity(load(16, 16), kv_cache_tokens=336)  # ten requests of two blocks

    @pytest.mark.parametrize(
        ("seen", "verdict"),
        [
            (None, "not_seen"),
            (pages(running=10), "confirmed"),
            (pages(running=10, waiting=3), "confirmed"),
            (pages(running=12), "confirmed"),
            (pages(running=4, usage=0.4), "not_reached"),
            (pages(running=4, waiting=2, usage=0.4), "not_reached"),
            (pages(running=4, waiting=2, usage=0.95), "refuted"),
            (pages(running=10, preempted=1), "refuted"),
            (pages(running=4, preempted=1), "refuted"),
        ],
    )
    def test_the_load_judges_the_promise(self, seen, verdict):
        judged = confirm(self.promised, seen)
        assert judged.verdict == verdict
        assert judged.requests == 10, "the promise stays what the cache says"
        assert judged.evidence

    def test_a_page_that_does_not_count_preemptions_confirms_nothing(self):
        silent = compare_pages(["vllm:num_requests_running 10"] * 2)
        assert confirm(self.promised, silent).verdict == "not_seen"

    def test_it_goes_into_json(self):
        measurement = Measurement(
            client=ClientFigures(lag_s=Summary()),
            capacity=confirm(self.promised, pages(running=10)),
        )
        attrs = TrialEvidence(measurement=measurement).to_attrs()
        document = json.loads(json.dumps(attrs, allow_nan=False))["measurement"]["capacity"]
        assert document["requests"] == 10
        assert document["verdict"] == "confirmed"
        assert "max_num_seqs" not in document


def test_blocks_of_unlike_layers_count_and_not_the_tokens():
    """78,400 tokens are 257 requests of 304 by their number, and 22 by the blocks they take."""
    assert capacity(load(288, 16), kv_cache_tokens=78_400).requests == 257
    found = capacity(load(288, 16), kv_cache_tokens=78_400, blocks=(160, 7))
    assert (found.requests, found.usable_blocks, found.blocks_per_request) == (22, 159, 7)
