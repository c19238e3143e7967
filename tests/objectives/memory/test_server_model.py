"""A model as one server runs it, and the device that it runs on."""

import pytest

from objectives.memory.estimate import Estimate
from objectives.memory.server_model import DeviceMemory, EngineKey, ServerModel
from objectives.models.shape import ModelShape
from objectives.units import GIB
from objectives.vllm.rules import VllmRules
from objectives.vllm.settings import VllmSettings
from tests.objectives.models.published_shapes import (
    BERT_BASE,
    DEEPSEEK_V2_LITE,
    GEMMA_4_26B_A4B,
    LLAMA_3_1_8B,
    QWEN3_6_27B,
    WHISPER_TURBO,
)

LLAMA = ModelShape.from_config(LLAMA_3_1_8B)


def server(version="0.32.0", kind="cuda", shape=LLAMA, **args):
    rules = VllmRules(version, kind)
    options = {name.replace("_", "-"): value for name, value in args.items()}
    settings = VllmSettings.from_args(options, rules, device_total_bytes=24 * GIB)
    return ServerModel(shape=shape, settings=settings, rules=rules, name="llama", device="GPU-1")


def test_its_key_is_what_a_start_holds_for():
    assert server(tensor_parallel_size=2, quantization="awq", cpu_offload_gb=1).key == EngineKey(
        version="0.32.0",
        model="llama",
        device="GPU-1",
        device_kind="cuda",
        tensor_parallel_size=2,
        quantization="awq",
        cpu_offload_bytes=GIB,
    )
    assert server(max_num_seqs=8).key == server(max_num_seqs=16, enforce_eager=True).key


@pytest.mark.parametrize(
    ("version", "kind", "args", "tokens"),
    [
        ("0.32.0", "cuda", {}, 2048),
        ("0.32.0", "cuda", {"max_model_len": 64, "max_num_seqs": 4}, 256),
        ("0.32.0", "cuda", {"max_num_batched_tokens": 512}, 512),
        ("0.6.3", "cuda", {"max_model_len": 20_000}, 20_000),
        ("0.6.3", "cuda", {"max_model_len": 40_000}, 2048),
    ],
    ids=["the default", "few short requests", "as asked", "V0, whole prompts", "V0, in chunks"],
)
def test_a_step_has_the_tokens_of_the_profiling_pass(version, kind, args, tokens):
    assert server(version, kind, **args).step_tokens == tokens


def test_latent_attention_on_a_cpu_profiles_a_whole_prompt():
    latent = ModelShape.from_config(DEEPSEEK_V2_LITE)
    found = server(kind="cpu", shape=latent, max_model_len=8192)
    assert found.step_tokens == 8192


def test_the_models_own_limit_is_the_default_length():
    assert server().max_model_len == 131_072
    assert server(max_model_len=4096).max_model_len == 4096


def test_two_steps_are_in_flight_with_asynchronous_scheduling():
    new, old = server("0.26.0"), server("0.25.1")
    assert new.in_flight_tokens == 2 * new.step_tokens
    assert old.in_flight_tokens == old.step_tokens


def test_changed_settings_leave_the_rest_and_are_counted_anew():
    before = server()
    assert before.step_tokens == 2048
    after = before.with_settings(max_num_batched_tokens=512, batched_tokens_given=True)
    assert (after.step_tokens, after.shape, after.key) == (512, before.shape, before.key)


@pytest.mark.parametrize(
    ("found", "outright"),
    [
        (server(), False),
        (server(kv_cache_memory_bytes=GIB), True),
        (server(num_gpu_blocks_override=10), True),
        (server("0.11.0", "cpu"), True),
        (server("0.32.0", "cpu"), False),
    ],
)
def test_the_fraction_sizes_the_cache_unless_something_else_does(found, outright):
    assert found.sized_outright is outright


def test_a_length_that_fits_itself_needs_one_block_beside_the_null_block():
    fitting, fixed = server(max_model_len="auto"), server(max_model_len=4096)
    assert fitting.needed_bytes == 2 * fitting.kv.block_bytes
    assert fixed.needed_bytes == (4096 // 16 + 1) * fixed.kv.block_bytes
    assert fixed.capacity(fixed.needed_bytes).max_concurrency >= 1


def test_whisper_is_taken_off_what_is_free_and_its_margin_added():
    whisper = Estimate(value_bytes=2 * GIB, margin_bytes=GIB)
    memory = DeviceMemory(
        total_bytes=24 * GIB, free_bytes=20 * GIB, whisper=whisper, free_margin_bytes=GIB
    )
    assert (memory.left_bytes, memory.left_margin_bytes) == (18 * GIB, 2 * GIB)


def test_an_encoder_reads_a_whole_prompt_in_one_step():
    bert = ModelShape.from_config({**BERT_BASE, "max_position_embeddings": 8192})
    whisper = ModelShape.from_config(WHISPER_TURBO)
    assert server(shape=bert).step_tokens == 8192
    assert server(shape=whisper, max_num_seqs=2).step_tokens == 2 * 448
    assert server(shape=whisper).unmodelled == ("what the encoder takes while it serves",)


def test_a_video_of_gemma_4_is_read_in_one_step():
    gemma = ModelShape.from_config(GEMMA_4_26B_A4B)
    assert server(shape=gemma, max_model_len=8192).step_tokens == 2496
    assert server(shape=gemma, max_num_batched_tokens=2048).step_tokens == 2048
    assert server("0.21.0", shape=gemma, max_model_len=8192).step_tokens == 2048


def test_every_request_that_may_run_needs_a_state():
    shape = ModelShape.from_config(QWEN3_6_27B)
    asked = server(shape=shape, max_num_seqs=100, max_model_len=784)
    assert asked.request_bytes == (1 + 3 * 2 + 1) * asked.kv.block_bytes
    assert asked.needed_bytes == asked.states_bytes == 100 * asked.kv.block_bytes
    for unchecked in (
        server(shape=shape, max_num_seqs=100, max_model_len=784, enforce_eager=True),
        server("0.19.1", shape=shape, max_num_seqs=100, max_model_len=784),
        server(max_num_seqs=100),
    ):
        assert unchecked.states_bytes == 0


def test_a_short_request_of_a_hybrid_takes_blocks_of_every_kind_of_layer():
    """784 tokens are a block: a request of 304 takes one, and its three groups' states."""
    shape = ModelShape.from_config(QWEN3_6_27B)
    hybrid = server(shape=shape, max_num_seqs=100, max_model_len=7840)
    longest = 10 + 3 * 2
    assert hybrid.blocks_for(78_400, 304) == (10 * longest, 1 + 3 * 2)
    assert hybrid.blocks_for(78_400, 7840) == (10 * longest, longest)


def test_where_every_layer_keeps_all_tokens_they_alone_decide():
    assert server().blocks_for(78_400, 304) is None
    assert server(shape=ModelShape.from_config(BERT_BASE)).blocks_for(0, 304) is None
