"""Break-even utilisations, and flags by the room they make."""

import pytest

from objectives.memory.advice import break_even, cheapest_gains, overhead_note
from objectives.memory.estimate import given
from objectives.memory.predict import predict_vllm
from objectives.memory.server_model import DeviceMemory, ServerModel
from objectives.models.shape import ModelShape
from objectives.units import GIB
from objectives.vllm.rules import VllmRules
from objectives.vllm.settings import VllmSettings
from tests.objectives.models.published_shapes import QWEN2_5_7B_AWQ, QWEN2_5_HALF_B

AWQ = ModelShape.from_config(QWEN2_5_7B_AWQ)
TOTAL = round(11.63 * GIB)


def ask(utilization=0.5, *, version="0.11.0", kind="cuda", shape=AWQ, known=True, **args):
    rules = VllmRules(version, kind)
    options = {"gpu-memory-utilization": utilization, "max-model-len": 2048, **args}
    figures = {"weights_bytes": given(round(5.2 * GIB)), "overhead": given(round(0.242 * GIB))}
    server = ServerModel(
        shape=shape,
        settings=VllmSettings.from_args(options, rules, device_total_bytes=TOTAL),
        rules=rules,
        **(figures if known else {}),
    )
    memory = DeviceMemory(total_bytes=TOTAL, free_bytes=TOTAL, free_after_context=known)
    return predict_vllm(server, memory)


def even(**question):
    return break_even(ask(**question))


def test_the_legacy_questions_break_even():
    """Seeds' card and model: 0.468 for a first block, 0.478 for one request of 2,048 tokens."""
    found = even()
    assert found.one_block == pytest.approx(0.468, abs=0.0005)
    assert found.one_request == pytest.approx(0.4775, abs=0.0005)


@pytest.mark.parametrize("asked_at", [0.40, 0.50, 0.60])
def test_the_answer_does_not_depend_on_where_it_was_asked(asked_at):
    assert even(utilization=asked_at) == even()


def test_what_is_called_enough_is_enough_and_a_step_below_is_not():
    found = even()
    for value, requests in ((found.one_request, 1), (found.requests[4], 4)):
        enough = ask(value).footprint.capacity.max_concurrency
        less = ask(value - 0.0002).footprint.capacity.max_concurrency
        assert enough >= requests > less


def test_what_no_utilisation_reaches_is_none():
    assert even(**{"max-model-len": 200_000}).one_request is None


def test_a_size_given_outright_has_no_break_even():
    assert even(**{"kv-cache-memory-bytes": GIB}) is None
    assert even(version="0.11.0", kind="cpu") is None


def gains(**question):
    found = cheapest_gains(ask(**question))
    return {gain.flag.split()[0]: gain for gain in found}, found


def test_fewer_requests_are_the_cheapest_room_on_a_small_card():
    by_flag, ranked = gains(known=False, utilization=0.6)
    assert ranked[0].flag.startswith("--max-num-seqs")
    assert ranked[0].is_free
    assert by_flag["--max-num-seqs"].freed_bytes > GIB


def test_a_gain_is_what_the_same_prediction_gives_with_the_flag_changed():
    by_flag, _ = gains(known=False, utilization=0.6)
    gain = by_flag["--max-num-seqs"]
    before = ask(0.6, known=False)
    after = ask(0.6, known=False, **{"max-num-seqs": int(gain.flag.split()[1])})
    won = after.footprint.available_bytes - before.footprint.available_bytes
    assert won == gain.freed_bytes
    assert after.footprint.capacity.max_concurrency <= int(gain.flag.split()[1])


def test_eight_bits_are_offered_once():
    assert "--kv-cache-dtype" in gains()[0]
    assert "--kv-cache-dtype" not in gains(**{"kv-cache-dtype": "fp8"})[0]


def test_a_shorter_length_is_offered_where_length_is_what_does_not_fit():
    by_flag, _ = gains(utilization=0.5, **{"max-model-len": 16384})
    shorter = int(by_flag["--max-model-len"].flag.split()[1])
    assert ask(0.5, **{"max-model-len": shorter}).fits
    assert "--max-model-len" not in gains(utilization=0.5)[0]


def test_eager_execution_is_offered_where_there_are_graphs():
    assert "--enforce-eager" in gains()[0]
    assert "--enforce-eager" not in gains(**{"enforce-eager": True})[0]


def test_a_cpu_has_no_sampler_and_no_graphs_to_save():
    shape = ModelShape.from_config(QWEN2_5_HALF_B)
    by_flag, _ = gains(version="0.32.0", kind="cpu", shape=shape, known=False)
    assert set(by_flag) == {"--kv-cache-dtype"}


def test_an_overhead_below_the_samplers_peak_tells_how_the_server_runs():
    """The seeds' does: at most about 43 requests, or FlashInfer's sampler."""
    assert "--max-num-seqs 44 or less" in overhead_note(ask())
    assert overhead_note(ask(**{"max-num-seqs": 16})) == ""
