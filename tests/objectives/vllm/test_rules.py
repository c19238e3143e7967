"""What changed between vLLM's versions, where memory is concerned."""

import pytest

from objectives.units import GIB
from objectives.vllm.rules import NEWEST, VllmRules, parse_version

SMALL, H100, GB10, B200 = 24 * GIB, 80 * GIB, 119 * GIB, 180 * GIB


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("0.11.0", (0, 11, 0)),
        ("0.6.6.post1", (0, 6, 6)),
        ("0.19.2rc1.dev134+gfe9c3d6c5", (0, 19, 2)),
        ("0.11.0+torch271", (0, 11, 0)),
        ("v0.8", (0, 8, 0)),
        ("0.6.x (inferred)", (0, 6, 0)),
        ("dev", NEWEST),
    ],
)
def test_a_version_is_read_as_its_release(text, release):
    assert parse_version(text) == release


def rules(version, kind="cuda"):
    return VllmRules(version, kind)


@pytest.mark.parametrize(
    ("version", "charges", "checks"),
    [
        ("0.5.5", True, False),
        ("0.7.3", False, False),
        ("0.8.5", True, False),
        ("0.9.0.1", True, False),
        ("0.9.1", False, True),
        ("0.32.0", False, True),
    ],
)
def test_who_is_charged_for_neighbours_and_who_checks_the_start(version, charges, checks):
    assert (rules(version).charges_neighbours, rules(version).checks_start) == (charges, checks)


@pytest.mark.parametrize(
    ("version", "total", "name", "seqs", "tokens"),
    [
        ("0.6.3", H100, "NVIDIA H100", 256, 2048),
        ("0.8.2", SMALL, "", 1024, 2048),
        ("0.8.4", SMALL, "", 256, 2048),
        ("0.11.0", SMALL, "NVIDIA GeForce RTX 3060", 256, 2048),
        ("0.11.0", H100, "NVIDIA H100 80GB HBM3", 1024, 8192),
        ("0.11.0", H100, "NVIDIA A100-SXM4-80GB", 256, 2048),
        ("0.27.1", B200, "NVIDIA B200", 1024, 8192),
        ("0.28.0", B200, "NVIDIA B200", 1024, 16384),
        ("0.32.0", B200, "NVIDIA B200", 1024, 16384),
        ("0.32.0", GB10, "NVIDIA GB10", 1024, 8192),
        ("0.33.0", GB10, "NVIDIA GB10", 256, 2048),
    ],
)
def test_defaults_depend_on_the_version_and_the_card(version, total, name, seqs, tokens):
    assert rules(version).default_max_num_seqs(total, name) == seqs
    assert rules(version).default_batched_tokens(total, name) == tokens


def test_the_cpu_backend_has_defaults_of_its_own():
    cpu = rules("0.32.0", "cpu")
    assert cpu.default_max_num_seqs(SMALL) == 128
    assert cpu.default_batched_tokens(SMALL, tp=2) == 4096
    assert cpu.default_block_tokens == 128
    assert rules("0.32.0").default_block_tokens == 16


def test_the_sorting_sampler_needs_more_than_the_one_that_came_after_it():
    assert rules("0.16.0").sampler_copies == 9.65
    assert rules("0.17.0").sampler_copies == 4.2


def test_the_default_utilisation_rose():
    assert rules("0.19.1").default_utilization == 0.9
    assert rules("0.20.2").default_utilization == 0.92
    assert rules("0.32.0").default_utilization == 0.92


def test_graphs_are_taken_from_the_cache_since_they_are_estimated():
    assert not rules("0.19.1").graphs_in_budget
    assert rules("0.20.2").graphs_in_budget
    assert not rules("0.32.0", "cpu").graphs_in_budget


def test_older_cpu_builds_size_the_cache_without_the_fraction():
    assert not rules("0.11.0", "cpu").utilization_counts
    assert rules("0.11.0", "cpu").cpu_cache_bytes(32 * GIB) == 4 * GIB
    assert rules("0.14.0", "cpu").cpu_cache_bytes(32 * GIB) == 16 * GIB
    assert rules("0.32.0", "cpu").utilization_counts


def test_prefixes_of_hybrids_are_cached_unasked_since_0_28():
    assert not rules("0.27.1").caches_hybrid_prefixes
    assert rules("0.28.0").caches_hybrid_prefixes


def test_blocks_for_states_are_counted_since_0_20_where_there_are_graphs():
    assert not rules("0.19.1").checks_state_blocks
    assert rules("0.20.2").checks_state_blocks
    assert not rules("0.32.0", "cpu").checks_state_blocks


@pytest.mark.parametrize(
    ("rule", "last_without", "first_with"),
    [
        ("tokens_from_concurrency", "0.19.1", "0.20.2"),
        ("holds_null_block", "0.28.0", "0.29.0"),
        ("raises_steps_to_items", "0.21.0", "0.22.1"),
    ],
)
def test_rules_hold_from_the_first_wheel_that_has_them(rule, last_without, first_with):
    assert not getattr(rules(last_without), rule)
    assert getattr(rules(first_with), rule)


def test_windows_hold_the_tokens_of_two_steps_since_steps_overlap():
    assert rules("0.25.1").batches_in_flight == 1
    assert rules("0.26.0").batches_in_flight == 2
    assert rules("0.26.0", "cpu").batches_in_flight == 1
