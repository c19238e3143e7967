"""How parts are estimated before anything ran: against what public logs and documents print."""

import pytest

from objectives.memory.estimate import Estimate, given
from objectives.memory.parts import (
    Parts,
    estimate_activation,
    estimate_graphs,
    estimate_non_torch,
    estimate_parts,
    estimate_weights,
)
from objectives.memory.server_model import DeviceMemory, ServerModel
from objectives.models.config import UnsupportedShapeError
from objectives.models.shape import ModelShape
from objectives.units import GIB
from objectives.vllm.rules import VllmRules
from objectives.vllm.settings import VllmSettings
from tests.objectives.models import published_shapes as published

LLAMA = ModelShape.from_config(published.LLAMA_3_1_8B)
QWEN = ModelShape.from_config(published.QWEN2_5_7B)


def server(shape=LLAMA, version="0.11.0", total_gib=24, *, kind="cuda", weights=None, **args):
    options = {name.replace("_", "-"): value for name, value in args.items()}
    rules, total = VllmRules(version, kind), int(total_gib * GIB)
    settings = VllmSettings.from_args(options, rules, device_total_bytes=total)
    return ServerModel(shape=shape, settings=settings, rules=rules, weights_bytes=weights)


def activation(*args, **options):
    return estimate_activation(server(*args, **options))


def figure(value, source="estimated", margin=0):
    return Estimate(value_bytes=value, source=source, margin_bytes=margin)


def test_the_share_is_charged_with_what_is_inside_it_only():
    parts = Parts(
        weights=figure(100, "read", 2),
        activation=figure(30, margin=10),
        non_torch=figure(5, margin=1),
        graphs=figure(7, margin=3),
        context=figure(50, margin=20),
        late=figure(9, margin=9),
    )
    assert (parts.inside_bytes, parts.margin_bytes) == (142, 16)
    assert parts.outside.value_bytes == 59


@pytest.mark.parametrize(
    ("shape", "version", "total_gib", "args", "printed_gib"),
    [
        (LLAMA, "0.6.3", 23.58, {"max_model_len": 20000}, 2.07),
        (LLAMA, "0.6.3", 23.58, {"max_model_len": 29000}, 2.99),
        (LLAMA, "0.11.0", 79.18, {"max_model_len": 16000}, 4.76),
    ],
    ids=["V0, forward pass", "V0, longer prompts", "V1 on an H100, sampler"],
)
def test_the_peak_is_within_its_margin_of_what_was_printed(
    shape, version, total_gib, args, printed_gib
):
    found = activation(shape, version, total_gib, **args)
    assert found.value_bytes / GIB == pytest.approx(printed_gib, rel=0.1)
    assert abs(found.value_bytes / GIB - printed_gib) < found.margin_bytes / GIB


def test_fewer_requests_free_more_than_a_gigabyte_on_a_small_card():
    """At a vocabulary of 152 k, 256 -> 16 frees about 1.1 GiB of the sorting sampler's peak."""
    many, few = activation(QWEN, "0.11.0"), activation(QWEN, "0.11.0", max_num_seqs=16)
    assert (many.note, few.note) == ("sampler", "forward pass")
    assert 1.0 < (many.value_bytes - few.value_bytes) / GIB < 1.4


def test_the_margin_reaches_down_to_what_other_samplers_need():
    """The seeds' server held 0.24 GiB where the sorting sampler would need 1.40."""
    found = activation(QWEN, "0.11.0")
    assert found.value_bytes - found.margin_bytes < 0.24 * GIB


def test_a_pooling_server_has_no_sampler():
    assert activation(QWEN, "0.11.0", runner="pooling").note == "forward pass"


def test_files_are_divided_among_devices_and_offloading_is_subtracted():
    two = server(tensor_parallel_size=2, cpu_offload_gb=1, weights=16 * GIB)
    found = estimate_weights(two)
    assert (found.value_bytes, found.source) == (7 * GIB, "read")


def test_a_figure_of_one_device_is_taken_as_it_is():
    stated = given(5 * GIB)
    assert estimate_weights(server(tensor_parallel_size=4, weights=stated)) is stated


def test_weights_without_files_are_estimated_and_unknown_quantisation_widens_the_margin():
    plain = estimate_weights(server())
    config = {**published.LLAMA_3_1_8B, "quantization_config": {"quant_method": "new"}}
    odd = estimate_weights(server(ModelShape.from_config(config)))
    assert plain.source == "estimated"
    assert plain.value_bytes / GIB == pytest.approx(14.99, rel=0.01)  # as logged
    assert odd.margin_bytes > 5 * plain.margin_bytes


def test_weights_that_nothing_tells_are_refused():
    bare = ModelShape.from_config(
        {"num_hidden_layers": 1, "num_key_value_heads": 1, "head_dim": 64}
    )
    with pytest.raises(UnsupportedShapeError, match="weights"):
        estimate_weights(server(bare))


def test_more_devices_need_more_beside_torch():
    found = [estimate_non_torch(tp, 80 * GIB).value_bytes / GIB for tp in (1, 2, 8)]
    assert found == pytest.approx([0.13, 0.55, 2.35], abs=0.01)


def test_graphs_vanish_with_eager_execution_and_on_a_cpu():
    eager = server(version="0.32.0", enforce_eager=True)
    assert estimate_graphs(eager).value_bytes == 0
    assert estimate_graphs(server(version="0.32.0", kind="cpu")).value_bytes == 0
    assert estimate_graphs(server(version="0.32.0")).value_bytes > 0


def parts(version, **options):
    memory = DeviceMemory(total_bytes=24 * GIB, free_bytes=24 * GIB, **options)
    return estimate_parts(server(version=version, weights=given(15 * GIB)), memory)


def test_graphs_move_into_the_share_with_the_version_that_estimates_them():
    old, new = parts("0.11.0"), parts("0.32.0")
    assert (old.graphs.value_bytes, new.late.value_bytes) == (0, 0)
    assert old.late.value_bytes > 0
    assert new.graphs.value_bytes > 0


def test_the_context_is_outside_the_share_unless_the_version_caps_the_whole_device():
    capped, own = parts("0.9.0"), parts("0.9.1")
    assert capped.context.value_bytes == 0
    assert capped.non_torch.value_bytes > own.context.value_bytes > 0


def test_free_memory_known_after_the_context_counts_it_once():
    assert parts("0.32.0", free_after_context=True).context.value_bytes == 0


@pytest.mark.parametrize(
    ("config", "consumed_gib"),
    [(published.QWEN2_5_HALF_B, 2.06), (published.OPT_125M, 0.85)],
)
def test_a_cpu_worker_is_as_large_as_one_was_seen(config, consumed_gib):
    shape = ModelShape.from_config(config)
    chosen = server(shape, "0.32.0", kind="cpu", enforce_eager=True)
    found = estimate_parts(chosen, DeviceMemory(total_bytes=16 * GIB, free_bytes=16 * GIB))
    assert abs(found.inside_bytes / GIB - consumed_gib) < found.margin_bytes / GIB
    assert found.inside_bytes / GIB == pytest.approx(consumed_gib, abs=0.25)
