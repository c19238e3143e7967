"""Figures of a start, in the wordings of ten versions; the starts are made up."""

from __future__ import annotations

import json

import pytest

from objectives.evidence import MemoryEvidence, TrialEvidence
from objectives.vllm.startup_log import GIB, StartupFacts, read_startup
from tests.corpus import corpus_folder


def facts(*lines):
    return read_startup(lines)


def gib(size):
    return round(size * GIB)


def stored(found):
    """Facts as they stand on a trial."""
    kept = TrialEvidence(footprint={"vllm": MemoryEvidence(logged=found)}).to_attrs()
    return json.loads(json.dumps(kept, allow_nan=False))["footprint"]["vllm"]["logged"]


V0 = (
    "INFO 04-05 23:43:02 api_server.py:712] vLLM API server version 0.6.6.post1",
    "INFO 04-05 23:43:23 model_runner.py:1099] Loading model weights took 5.1875 GB",
    "INFO 04-05 23:43:24 worker.py:241] the current vLLM instance can use total_gpu_memory"
    " (11.63GiB) x gpu_memory_utilization (0.50) = 5.82GiB",
    "INFO 04-05 23:43:24 worker.py:241] model weights take 5.19GiB; non_torch_memory takes 0.05GiB;"
    " PyTorch activation peak memory takes 0.21GiB; the rest of the memory reserved for KV Cache is"
    " 0.37GiB.",
    "INFO 04-05 23:43:24 gpu_executor.py:76] # GPU blocks: 436, # CPU blocks: 4681",
    "INFO 04-05 23:43:24 gpu_executor.py:80] Maximum concurrency for 2048 tokens per request:"
    " 3.41x",
    "INFO 04-05 23:43:35 model_runner.py:1535] Graph capturing finished in 8 secs, took 0.21 GiB",
)
V1 = (
    "(APIServer pid=1) INFO 06-16 12:31:19 [api_server.py:1896] vLLM API server version 0.10.2",
    "(EngineCore_DP0 pid=4) INFO 06-16 12:31:50 [gpu_model_runner.py:2392] Model loading took"
    " 5.1934 GiB and 13.7 seconds",
    "(EngineCore_DP0 pid=4) INFO 06-16 12:32:02 [gpu_worker.py:298] Available KV cache memory: 0.37"
    " GiB",
    "(EngineCore_DP0 pid=4) INFO 06-16 12:32:02 [kv_cache_utils.py:864] GPU KV cache size: 6,976"
    " tokens",
    "(EngineCore_DP0 pid=4) INFO 06-16 12:32:02 [kv_cache_utils.py:868] Maximum concurrency for"
    " 2,048 tokens per request: 3.41x",
    "(EngineCore_DP0 pid=4) INFO 06-16 12:32:09 [gpu_model_runner.py:3118] Graph capturing finished"
    " in 7 secs, took 0.69 GiB",
    "(EngineCore_DP0 pid=4) INFO 06-16 12:32:09 [gpu_worker.py:391] Free memory on device"
    " (11.2/11.63 GiB) on startup. Desired GPU memory utilization is (0.5, 5.82 GiB). Actual usage"
    " is 5.19 GiB for weight, 0.21 GiB for peak activation, 0.05 GiB for non-torch memory, and 0.69"
    " GiB for CUDAGraph memory. Current kv cache memory in use is 399507456 bytes.",
)


def test_v0_tells_blocks_and_its_block_size_follows_from_the_concurrency():
    assert read_startup(V0) == StartupFacts(
        version="0.6.6.post1",
        device_kind="cuda",
        available_kv_bytes=gib(0.37),
        kv_cache_tokens=6_976,
        gpu_blocks=436,
        block_size=16,
        max_concurrency=3.41,
        weights_bytes=gib(5.1875),
        graph_bytes=gib(0.21),
        activation_bytes=gib(0.21),
        non_torch_bytes=gib(0.05),
        requested_bytes=gib(5.82),
        device_total_bytes=gib(11.63),
        utilization=0.5,
        max_model_len=2_048,
    )


def test_v1_tells_all_of_it_in_its_summary():
    assert read_startup(V1) == StartupFacts(
        version="0.10.2",
        device_kind="cuda",
        available_kv_bytes=gib(0.37),
        kv_cache_tokens=6_976,
        max_concurrency=3.41,
        weights_bytes=gib(5.1934),
        graph_bytes=gib(0.69),
        activation_bytes=gib(0.21),
        non_torch_bytes=gib(0.05),
        requested_bytes=gib(5.82),
        device_total_bytes=gib(11.63),
        free_at_start_bytes=gib(11.2),
        utilization=0.5,
        max_model_len=2_048,
    )


def test_today_s_size_and_concurrency_share_a_line():
    found = facts(
        "INFO 11-21 04:00:00 [kv_cache_utils.py:2328] CPU KV cache size: 65,536 tokens, Maximum"
        " concurrency for 2,048 tokens per request: 32.00x"
    )
    assert found.kv_cache_tokens == 65_536
    assert found.max_concurrency == 32.0
    assert found.device_kind == "cpu"


def test_the_cpu_backend_says_what_its_process_held():
    found = facts(
        "(Worker pid=7) INFO 11-21 04:00:00 [cpu_worker.py:290] Auto set (2.87/16.84) GiB for KV"
        " cache on node 0, with 6.74 GiB requested memory for the worker. 3.87 GiB memory was"
        " consumed by non-kv usages."
    )
    assert stored(found) == {
        "available_kv_bytes": gib(2.87),
        "device_total_bytes": gib(16.84),
        "requested_bytes": gib(6.74),
        "cpu_consumed_bytes": gib(3.87),
    }


def test_an_explicit_size_is_known_as_such():
    cpu = facts("INFO [cpu_worker.py:265] Explicitly set (0.25/16.84) GiB for KV cache on node 0.")
    gpu = facts(
        "INFO [gpu_worker.py:669] Initial free memory 11.2 GiB, reserved 0.37 GiB memory for KV"
        " Cache as specified by kv_cache_memory_bytes config and skipped memory profiling."
    )
    assert cpu.kv_is_explicit and cpu.available_kv_bytes == gib(0.25)
    assert gpu.kv_is_explicit and gpu.available_kv_bytes == gib(0.37)
    assert gpu.free_at_start_bytes == gib(11.2)
    assert read_startup(V1).kv_is_explicit is None


def test_of_several_ranks_the_smallest_cache_and_the_largest_rest():
    found = facts(
        "(Worker_TP0 pid=1) INFO [gpu_model_runner.py:1] Model loading took 7.2 GiB memory and 3 s",
        "(Worker_TP1 pid=2) INFO [gpu_model_runner.py:1] Model loading took 7.1 GiB memory and 3 s",
        "(Worker_TP0 pid=1) INFO [gpu_worker.py:1] Available KV cache memory: 2.0 GiB",
        "(Worker_TP1 pid=2) INFO [gpu_worker.py:1] Available KV cache memory: 2.4 GiB",
    )
    assert found.weights_bytes == gib(7.2)
    assert found.available_kv_bytes == gib(2.0)


def test_graphs_are_estimated_first_and_measured_later():
    found = facts(
        "INFO [gpu_model_runner.py:6] Estimated CUDA graph memory: 0.51 GiB total",
        "INFO [gpu_model_runner.py:6] Graph capturing finished in 6 secs, took 0.46 GiB",
        "INFO [gpu_worker.py:5] CUDA graph pool memory: 0.47 GiB (actual), 0.5 GiB (estimated),"
        " difference: 0.03 GiB (6.4%).",
    )
    assert (found.graph_estimate_bytes, found.graph_bytes) == (gib(0.51), gib(0.46))


def test_0_6_4_puts_everything_into_one_line():
    found = facts(
        "INFO 01-16 18:11:59 worker.py:232] Memory profiling results: total_gpu_memory=12.00GiB"
        " initial_memory_usage=3.14GiB peak_torch_memory=2.15GiB memory_usage_post_profile=3.17GiB"
        " non_torch_memory=1.11GiB kv_cache_size=6.94GiB gpu_memory_utilization=0.85"
    )
    assert found.available_kv_bytes == gib(6.94)
    assert found.utilization == 0.85
    assert found.device_total_bytes == 12 * GIB


def test_a_negative_cache_is_told_as_it_is():
    line = "INFO [gpu_worker.py:298] Available KV cache memory: -0.79 GiB"
    assert facts(line).available_kv_bytes == gib(-0.79)


def test_the_painted_banner_and_the_engine_s_own_words_tell_the_version():
    banner = (
        "(APIServer pid=1) INFO [utils.py:344]  \x1b[94m▄█\x1b[0m █  version \x1b[1m0.32.0\x1b[0m"
    )
    engine = "INFO [core.py:69] Initializing a V1 LLM engine (v0.9.2) with config: max_seq_len=4096"
    assert facts(banner).version == "0.32.0"
    assert facts(engine).version == "0.9.2"
    assert facts(engine).max_model_len == 4_096


def test_tokens_of_a_step_are_told_by_the_scheduler():
    line = "INFO [scheduler.py:230] Chunked prefill is enabled with max_num_batched_tokens=2048."
    assert facts(line).max_num_batched_tokens == 2_048


def test_of_several_starts_the_last():
    later = [line.replace("0.37", "1.5").replace("6,976", "28,752") for line in V1]
    assert read_startup([*V1, *later]).kv_cache_tokens == 28_752
    assert read_startup([*V1, *later]).available_kv_bytes == gib(1.5)


def test_what_no_line_told_is_absent():
    assert facts("hello") == StartupFacts()
    assert stored(facts("hello")) == {}


def test_published_logs_and_their_records_agree():
    folder = corpus_folder()
    if folder is None:
        pytest.skip("no corpus: set GAS_CORPUS, or put it into ../shared/corpus")
    text = (folder / "vllm_logs.jsonl").read_text(encoding="utf-8")
    healthy = [r for r in map(json.loads, text.splitlines()) if r["label"] == "ok"]
    for record in healthy:
        found = read_startup(record["text"].splitlines())
        assert found.kv_cache_tokens, record["id"]
        assert found.version == record["vllm_version"], record["id"]
        assert found.weights_bytes, record["id"]
        assert found.max_concurrency, record["id"]
