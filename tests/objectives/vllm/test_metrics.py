"""What vLLM says of itself on its /metrics page, in the words of several versions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.vllm.metrics import compare_pages, read_page

V0_6 = """\
# HELP vllm:num_requests_running Number of requests currently running on GPU.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="m"} 2.0
vllm:num_requests_waiting{model_name="m"} 1.0
vllm:num_requests_swapped{model_name="m"} 0.0
vllm:gpu_cache_usage_perc{model_name="m"} 0.25
vllm:cpu_cache_usage_perc{model_name="m"} 0.0
vllm:num_preemptions_total{model_name="m"} 3.0
vllm:cache_config_info{block_size="16",cache_dtype="auto",num_gpu_blocks="24188"} 1.0
"""

V0_8_ENGINE_V1 = """\
vllm:num_requests_running{model_name="m"} 0.0
vllm:gpu_cache_usage_perc{model_name="m"} 0.0
vllm:gpu_prefix_cache_hits_total{model_name="m"} 64.0
vllm:cache_config_info{block_size="16",num_gpu_blocks="None",sliding_window="None"} 1.0
"""


def v0_32(
    *, running=1, waiting=0, usage=0.1, preempted=0, output=0, ttft=(0.0, 0), e2e=(0.0, 0), hits=0
):
    labels = 'engine="0",model_name="m"'
    return f"""\
vllm:num_requests_running{{{labels}}} {running}
vllm:num_requests_waiting{{{labels}}} {waiting}
vllm:num_requests_waiting_by_reason{{{labels},reason="capacity"}} {waiting}
vllm:kv_cache_usage_perc{{{labels}}} {usage}
vllm:num_preemptions_total{{{labels}}} {preempted}
vllm:num_preemptions_created{{{labels}}} 1.7638e+09
vllm:prompt_tokens_total{{{labels}}} {2 * output}
vllm:generation_tokens_total{{{labels}}} {output}
vllm:prefix_cache_hits_total{{{labels}}} {hits}
vllm:time_to_first_token_seconds_bucket{{{labels},le="0.001"}} 0.0
vllm:time_to_first_token_seconds_bucket{{{labels},le="+Inf"}} {ttft[1]}
vllm:time_to_first_token_seconds_sum{{{labels}}} {ttft[0]}
vllm:time_to_first_token_seconds_count{{{labels}}} {ttft[1]}
vllm:e2e_request_latency_seconds_sum{{{labels}}} {e2e[0]}
vllm:e2e_request_latency_seconds_count{{{labels}}} {e2e[1]}
vllm:cache_config_info{{block_size="128",engine="0",kv_cache_max_concurrency="8.0",\
kv_cache_size_tokens="16384",num_gpu_blocks="128",note="a \\"quoted\\" word, {{and}} braces"}} 1.0
python_gc_objects_collected_total{{generation="0"}} 11.0
"""


def test_a_page_of_0_6():
    page = read_page(V0_6)
    assert (page.running, page.waiting, page.kv_usage, page.preemptions) == (2, 1, 0.25, 3)
    assert page.kv_cache.block_tokens == 16
    assert page.kv_cache.tokens == 24188 * 16
    assert page.kv_cache.labels["cache_dtype"] == "auto"


def test_a_page_of_0_8_that_does_not_know_its_blocks():
    page = read_page(V0_8_ENGINE_V1)
    assert page.kv_cache.tokens is None
    assert page.prefix_hit_tokens == 64
    assert page.preemptions is None, "not on the page: not zero"


def test_a_page_of_0_32():
    page = read_page(v0_32(running=3, waiting=2, usage=0.5, preempted=1, ttft=(1.5, 3)))
    assert (page.running, page.waiting, page.kv_usage, page.preemptions) == (3, 2, 0.5, 1)
    assert page.kv_cache.tokens == 16384
    assert page.kv_cache.labels["kv_cache_max_concurrency"] == "8.0"
    assert page.kv_cache.labels["note"] == 'a "quoted" word, {and} braces'
    assert page.ttft == (1.5, 3)


def test_the_engines_own_count_of_tokens_beats_blocks_times_block_size():
    """Models with layers of several kinds report their smallest block: the product is wrong."""
    text = (
        'vllm:cache_config_info{block_size="4",kv_cache_size_tokens="9000",num_gpu_blocks="50"} 1'
    )
    assert read_page(text).kv_cache.tokens == 9000


def test_two_engines_on_one_page_are_added_and_the_fuller_cache_counts():
    text = "\n".join(
        f'vllm:num_requests_running{{engine="{engine}"}} {engine + 1}\n'
        f'vllm:kv_cache_usage_perc{{engine="{engine}"}} 0.{engine + 3}\n'
        f'vllm:cache_config_info{{block_size="16",engine="{engine}",'
        f'kv_cache_size_tokens="1600",num_gpu_blocks="200"}} 1'
        for engine in (0, 1)
    )
    page = read_page(text)
    assert (page.running, page.kv_usage) == (3, 0.4)
    assert page.kv_cache.tokens == 3200


@pytest.mark.parametrize("text", ["", "<html>404</html>", "vllm:num_requests_running{ 3"])
def test_a_text_that_is_no_such_page_knows_nothing(text):
    page = read_page(text)
    assert page.running is None
    assert page.kv_cache is None


def test_lines_without_a_number_are_passed_over():
    lines = 'vllm:kv_cache_usage_perc{x="1"} 0.2 1700000000\nvllm:num_requests_waiting one\n'
    page = read_page(f"# a comment\n{lines}vllm:num_requests_running +Inf\nother 1\n")
    assert (page.kv_usage, page.waiting, page.running) == (0.2, None, None)
    assert read_page("vllm:num_requests_running NaN").running is None


label_values = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True), label_values, max_size=4
    ),
)
def test_what_is_written_in_the_format_is_read_back(labels):
    escaped = {
        key: text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        for key, text in labels.items()
    }
    body = ",".join(f'{key}="{text}"' for key, text in escaped.items())
    page = read_page(f"vllm:cache_config_info{{{body}}} 1.0")
    assert page.kv_cache.labels == labels


class TestReadingsTogether:
    def test_maxima_come_from_any_page_and_counters_from_the_ends(self):
        pages = compare_pages(
            [
                v0_32(preempted=2, output=100, ttft=(5.0, 10), e2e=(20.0, 10), hits=7),
                v0_32(running=6, waiting=4, usage=0.9, preempted=3, output=150),
                v0_32(
                    running=0,
                    usage=0.0,
                    preempted=5,
                    output=400,
                    ttft=(8.0, 20),
                    e2e=(60.0, 20),
                    hits=7,
                ),
            ],
            missed=1,
        )
        assert (pages.taken, pages.missed) == (3, 1)
        assert (pages.most_running, pages.most_waiting, pages.most_kv_usage) == (6, 4, 0.9)
        assert (pages.preemptions, pages.output_tokens, pages.prompt_tokens) == (3, 300, 600)
        assert pages.prefix_hit_tokens == 0
        assert (pages.block_tokens, pages.kv_cache_tokens) == (128, 16384)
        assert pages.mean_ttft_s == pytest.approx(0.3)
        assert pages.mean_e2e_s == pytest.approx(4.0)

    def test_one_reading_compares_with_nothing(self):
        assert compare_pages([V0_6]) is None

    def test_a_counter_that_went_back_is_of_another_engine(self):
        pages = compare_pages([v0_32(preempted=5), v0_32(preempted=1)])
        assert pages.preemptions is None

    def test_what_was_on_no_page_is_absent_from_the_document(self):
        document = compare_pages([V0_8_ENGINE_V1, V0_8_ENGINE_V1]).to_dict()
        assert document["most_running"] == 0
        assert "preemptions" not in document
        assert "mean_ttft_s" not in document
