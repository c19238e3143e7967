"""Every cause, its remedy, its constraint, and what kind it is."""

import re

import pytest

from objectives.causes import (
    APPLICATION_XIDS,
    CAUSES,
    CONSTRAINT_OF,
    MEMORY_CAUSES,
    REMEDIES,
    remedy_of,
)
from objectives.constraints import CONSTRAINTS

GIB = 1 << 30
START = "gpu_memory_insufficient_at_start"
FILLED = {
    "kv_cache_too_small": {"estimated_max_model_len": 6976},
    START: {"free_bytes": 4 * GIB, "total_bytes": 12 * GIB},
    "port_in_use": {"port": 8000},
}
"""The causes whose remedy gets better by figures, and figures that do so."""


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("known", [False, True])
def test_every_cause_has_a_remedy_in_whole_sentences(cause, known):
    remedy = remedy_of(cause, FILLED.get(cause, {}) if known else {})
    assert re.fullmatch(r"[A-Z][^{}]*[^ ]\.", remedy)
    assert "  " not in remedy
    assert not re.search(r" [,.:;)]", remedy)


def test_a_diagnosis_may_name_what_has_a_remedy_and_nothing_else():
    assert tuple(REMEDIES) == CAUSES
    with pytest.raises(KeyError):
        remedy_of("bench", {})


def test_a_remedy_cannot_be_changed_by_who_reads_it():
    with pytest.raises(TypeError):
        REMEDIES["ok"] = "Panic."


@pytest.mark.parametrize(
    ("cause", "figures", "said"),
    [
        ("kv_cache_too_small", {}, "Lower --max-model-len, or give"),
        ("kv_cache_too_small", {"estimated_max_model_len": 6976}, "--max-model-len to 6976, or"),
        ("kv_cache_too_small", {"kv_cache_tokens": 2080}, "--max-model-len to 2080, or"),
        (
            "kv_cache_too_small",
            {"kv_cache_tokens": 2080, "estimated_max_model_len": 6976},
            "--max-model-len to 6976, or",
        ),
        (
            "kv_cache_too_small",
            {"kv_cache_tokens": 2080, "estimated_max_model_len": 0},
            "--max-model-len to 2080, or",
        ),
        ("port_in_use", {}, "listens on the port, or"),
        ("port_in_use", {"port": 8000}, "listens on the port 8000, or"),
        (START, {"free_bytes": 6 * GIB, "total_bytes": 12 * GIB}, "utilization to at most 0.50."),
    ],
)
def test_a_remedy_is_filled_with_the_logs_own_figures(cause, figures, said):
    assert said in remedy_of(cause, figures)


def test_figures_change_no_remedy_that_does_not_ask_for_them():
    every = {name: figure for figures in FILLED.values() for name, figure in figures.items()}
    changed = {cause for cause in CAUSES if remedy_of(cause, every) != remedy_of(cause, {})}
    assert changed == set(FILLED)


@pytest.mark.parametrize(
    ("free_bytes", "total_bytes", "said"),
    [
        (4_100, 11_630, " to at most 0.35."),  # 0.3525
        (3_599, 10_000, " to at most 0.35."),  # 0.3599
        (9_999, 10_000, " to at most 0.99."),
        (10_000, 10_000, " to at most 1.00."),
        (100, 10_000, " to at most 0.01."),
    ],
)
def test_the_utilisation_that_fits_is_rounded_down(free_bytes, total_bytes, said):
    figures = {"free_bytes": free_bytes, "total_bytes": total_bytes}
    remedy = remedy_of(START, figures)
    assert remedy.endswith(f"--gpu-memory-utilization{said}")
    assert float(said[-5:-1]) <= free_bytes / total_bytes


@pytest.mark.parametrize(
    "figures",
    [
        {"free_bytes": 99, "total_bytes": 10_000},
        {"free_bytes": 0, "total_bytes": 10_000},
        {"free_bytes": -1_000, "total_bytes": 10_000},
        {"free_bytes": 10, "total_bytes": 0},
        {"free_bytes": 10},
        {"total_bytes": 10},
        {"free_bytes": "some", "total_bytes": "more"},
    ],
)
def test_no_utilisation_is_named_where_none_fits_or_none_is_known(figures):
    assert remedy_of(START, figures) == remedy_of(START, {})
    assert remedy_of(START, {}).endswith("or lower --gpu-memory-utilization.")


def test_every_constraint_of_a_cause_is_one_that_trials_carry():
    assert set(CONSTRAINT_OF.values()) <= set(CONSTRAINTS)


def test_every_constraint_that_trials_carry_can_be_violated():
    assert set(CONSTRAINTS) <= set(CONSTRAINT_OF.values())


def test_a_lack_of_memory_is_a_cause_that_violates_a_constraint_of_memory():
    assert set(CAUSES) >= MEMORY_CAUSES
    assert {CONSTRAINT_OF.get(cause) for cause in MEMORY_CAUSES} == {
        "kv_cache_gib",
        "start_memory_gib",
        "device_memory_gib",
    }


def test_of_what_a_log_names_only_memory_is_held_against_a_candidate():
    assert set(CONSTRAINT_OF) & set(CAUSES) == MEMORY_CAUSES


@pytest.mark.parametrize(
    ("cause", "constraint"),
    [
        ("kv_cache_no_blocks", "kv_cache_gib"),
        ("kv_cache_too_small", "kv_cache_gib"),
        (START, "start_memory_gib"),
        ("cuda_oom_load", "device_memory_gib"),
        ("cuda_oom_serving", "device_memory_gib"),
        ("device_memory", "device_memory_gib"),
        ("cpu_fallback", "placement_gib"),
    ],
)
def test_a_cause_violates_the_constraint_of_what_was_missing(cause, constraint):
    assert CONSTRAINT_OF[cause] == constraint


@pytest.mark.parametrize("xid", [13, 31, 43])
def test_an_xid_that_a_program_can_raise_is_not_held_against_the_device(xid):
    assert xid in APPLICATION_XIDS


@pytest.mark.parametrize("xid", [48, 63, 64, 74, 79, 94, 95, 119])
def test_an_xid_of_broken_memory_a_lost_bus_or_a_dead_processor_is_the_devices(xid):
    assert xid not in APPLICATION_XIDS
