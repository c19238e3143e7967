"""One table of causes: its remedies, what a row says, and that the program and it agree."""

import ast
import re

import pytest

from objectives.causes import APPLICATION_XIDS, CAUSES, Cause, cause_named, remedy_of
from objectives.constraints import CONSTRAINTS, MEMORY_CONSTRAINTS
from tests.benchmarks.house import House
from tests.paths import ROOT

GIB = 1 << 30
START = "gpu_memory_insufficient_at_start"
FILLED = {
    "kv_cache_too_small": {"estimated_max_model_len": 6976},
    START: {"free_bytes": 4 * GIB, "total_bytes": 12 * GIB},
    "port_in_use": {"port": 8000},
}
"""The causes whose remedy gets better by figures, and figures that do so."""
KINDS = {"vllm", "whisper", "faster-whisper", "cuda", "cpu"}


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("known", [False, True])
def test_every_cause_has_a_remedy_in_whole_sentences(cause, known):
    for kind in ("", *CAUSES[cause].remedies):
        remedy = remedy_of(cause, FILLED.get(cause, {}) if known else {}, kind)
        assert re.fullmatch(r"[A-Z][^{}]*[^ ]\.", remedy)
        assert "  " not in remedy
        assert not re.search(r" [,.:;)]", remedy)


def test_a_cause_that_only_an_older_study_knows_says_nothing_and_breaks_nothing():
    assert cause_named("gone") == Cause(name="gone", meaning="")
    assert remedy_of("gone", {"port": 8000}, "vllm") == ""
    assert not cause_named("gone").is_memory


def test_the_table_cannot_be_changed_by_who_reads_it():
    with pytest.raises(TypeError):
        CAUSES["ok"] = CAUSES["unknown"]


def test_a_remedy_is_that_of_the_first_kind_that_has_its_own():
    own = CAUSES["cpu_fallback"].remedies["whisper"]
    assert remedy_of("cpu_fallback", {}, "whisper") == own
    assert remedy_of("cpu_fallback", {}, "cpu", "whisper") == own
    assert remedy_of("cpu_fallback", {}, "faster-whisper", "whisper") != own
    assert remedy_of("cpu_fallback", {}, "vllm") == CAUSES["cpu_fallback"].remedy
    assert {kind for cause in CAUSES.values() for kind in cause.remedies} <= KINDS


def test_a_cpu_is_not_told_of_a_sampler():
    assert "max-num-seqs" in remedy_of("kv_cache_no_blocks", {}, "cuda")
    assert "max-num-seqs" not in remedy_of("kv_cache_no_blocks", {}, "cpu")


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


def causes_that(is_so):
    return {name for name, cause in CAUSES.items() if is_so(cause)}


def test_every_constraint_that_trials_carry_can_be_violated_and_no_other():
    assert {cause.constraint for cause in CAUSES.values()} == {*CONSTRAINTS, "slo_*", ""}


def test_only_a_candidates_fault_violates_a_constraint():
    assert causes_that(lambda cause: cause.constraint) == causes_that(
        lambda cause: cause.fault == "candidate"
    )


def test_of_what_a_log_names_only_memory_is_held_against_a_candidate():
    for cause in CAUSES.values():
        if "log" in cause.told_by:
            at_fault = cause.is_memory or cause.name == "cpu_fallback"
            assert (cause.fault == "candidate") == at_fault, cause.name


def test_what_failed_to_allocate_is_a_want_of_memory():
    assert causes_that(lambda cause: cause.is_oom) == {name for name in CAUSES if "oom" in name}
    assert causes_that(lambda cause: cause.is_oom) < causes_that(lambda cause: cause.is_memory)


def test_what_a_start_survives_is_never_held_against_a_candidate():
    assert {CAUSES[name].fault for name in causes_that(lambda c: c.is_survivable)} == {"bench"}


def test_only_a_fault_of_the_device_stops_a_study():
    assert causes_that(lambda cause: cause.fault == "machine") == {"device_fault"}


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
    assert CAUSES[cause].constraint == constraint
    assert CAUSES[cause].is_memory == (constraint in MEMORY_CONSTRAINTS)


# --- the program and the table

TREES = {name: tree for name, tree in House(ROOT).trees.items() if name != "objectives.causes"}
PLACES = {
    "log": ("objectives.diagnosis.",),
    "prediction": ("objectives.memory.predict", "objectives.trial.stages"),
    "trial": ("objectives.trial.", "objectives.kinds.", "objectives.errors", "objectives.serving"),
}
"""Who tells a cause, and where that is in the program."""
LOOKED_UP = {"cause_named": 0, "remedy_of": 0}


def walk(node_type, places=("",)):
    return (
        node
        for module, tree in TREES.items()
        if module.startswith(places)
        for node in ast.walk(tree)
        if isinstance(node, node_type)
    )


def texts(node):
    """The texts that an expression may come to."""
    if isinstance(node, ast.IfExp):
        return texts(node.body) | texts(node.orelse)
    if isinstance(node, ast.BoolOp | ast.Set | ast.Tuple):
        parts = node.values if isinstance(node, ast.BoolOp) else node.elts
        return set().union(*map(texts, parts))
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def is_cause(node):
    """Whether an expression reads a cause."""
    if isinstance(node, ast.Call):
        return any(texts(argument) == {"cause"} for argument in node.args)
    return getattr(node, "attr", getattr(node, "id", "")) == "cause"


def takers():
    """Every function that takes a cause by place, and which place; a class by its `__init__`."""
    found = dict(LOOKED_UP)
    for node in walk(ast.FunctionDef | ast.ClassDef):
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        for function in inside:
            names = [a.arg for a in function.args.args] if hasattr(function, "args") else []
            if "cause" in names and (function is node or function.name == "__init__"):
                found[node.name] = names.index("cause") - (names[0] == "self")
    for node in walk(ast.ClassDef):  # below a class that takes one
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in found:
                found.setdefault(node.name, found[base.id])
    return found


def named_causes():
    """Every text that stands where a cause belongs."""
    found, places = set(), takers()
    for node in walk(ast.Call):
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name in places and len(node.args) > places[name]:
            found |= texts(node.args[places[name]])
        found |= set().union(*(texts(k.value) for k in node.keywords if k.arg == "cause"))
    for node in walk(ast.arguments):
        defaults = zip(node.kwonlyargs, node.kw_defaults, strict=True)
        found |= set().union(*(texts(value) for arg, value in defaults if arg.arg == "cause"))
    for node in walk(ast.Assign):
        if any(is_cause(target) for target in node.targets):
            found |= texts(node.value)
    for node in walk(ast.Compare):
        if is_cause(node.left):
            found |= set().union(*map(texts, node.comparators))
    for node in walk(ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        found |= set().union(*(texts(value) for key, value in pairs if texts(key) == {"cause"}))
    return found


def test_every_cause_that_the_program_names_is_in_the_table():
    named = named_causes()
    assert named >= {"slo_missed", "device_fault", "bench", "bug", "interrupted", "host_oom"}
    assert named >= {"cpu_fallback", "out_of_bounds", "device_memory", "ok", "bad_argument"}
    assert named - set(CAUSES) == set()


@pytest.mark.parametrize("witness", PLACES)
def test_every_cause_of_the_table_is_named_by_who_tells_it(witness):
    there = {node.value for node in walk(ast.Constant, PLACES[witness])}
    told = causes_that(lambda cause: witness in cause.told_by)
    assert told - there == set()


def test_a_diagnosis_names_no_cause_that_others_tell():
    there = {node.value for node in walk(ast.Constant, PLACES["log"])}
    assert there & set(CAUSES) == causes_that(lambda cause: "log" in cause.told_by)


@pytest.mark.parametrize("xid", [13, 31, 43])
def test_an_xid_that_a_program_can_raise_is_not_held_against_the_device(xid):
    assert xid in APPLICATION_XIDS


@pytest.mark.parametrize("xid", [48, 63, 64, 74, 79, 94, 95, 119])
def test_an_xid_of_broken_memory_a_lost_bus_or_a_dead_processor_is_the_devices(xid):
    assert xid not in APPLICATION_XIDS
