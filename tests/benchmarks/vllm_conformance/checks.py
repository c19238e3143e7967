"""What is held against a version's source, one check a row: yes, no, changed, or not found."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from objectives.diagnosis import diagnose
from objectives.vllm import VllmRules, read_startup
from tests.benchmarks.vllm_conformance.options import literal, options
from tests.benchmarks.vllm_conformance.run_apart import (
    GIB,
    batch_defaults,
    env_default,
    field_default,
    physical_device,
    start_check,
)
from tests.benchmarks.vllm_conformance.source import Source
from tests.benchmarks.vllm_conformance.words import raised, texts
from tests.paths import ROOT

YES, NO, CHANGED, NOT_FOUND = "yes", "no", "changed", "not found"
CARDS = {
    "NVIDIA GeForce RTX 3060": 11.63,
    "Tesla V100-SXM2-32GB": 31.7,
    "NVIDIA A100-SXM4-40GB": 39.4,
    "NVIDIA A100-SXM4-80GB": 79.2,
    "NVIDIA H100 80GB HBM3": 79.1,
    "NVIDIA H200": 139.8,
    "NVIDIA B200": 178.4,
    "NVIDIA GB10": 119.7,
}
"""Name and GiB of cards that vLLM's choice of a step's size tells apart."""

UUID = "GPU-00000000-1111-2222-3333-444444444444"
ALWAYS_PASSED = ("model", "served-model-name", "host", "port", "load-format")
VARIABLES = (
    "VLLM_CACHE_ROOT",
    "VLLM_NO_USAGE_STATS",
    "VLLM_DO_NOT_TRACK",
    "VLLM_API_KEY",
    "VLLM_ENABLE_V1_MULTIPROCESSING",
    "VLLM_CPU_KVCACHE_SPACE",
)
METRICS: Mapping[str, tuple[str, ...]] = {
    "running": ("num_requests_running",),
    "waiting": ("num_requests_waiting",),
    "KV usage": ("kv_cache_usage_perc", "gpu_cache_usage_perc"),
    "preemptions": ("num_preemptions", "num_preemptions_total"),
    "prompt tokens": ("prompt_tokens", "prompt_tokens_total"),
    "output tokens": ("generation_tokens", "generation_tokens_total"),
    "prefix hits": (
        *("prefix_cache_hits", "prefix_cache_hits_total"),
        *("gpu_prefix_cache_hits", "gpu_prefix_cache_hits_total"),
    ),
    "first token": ("time_to_first_token_seconds",),
    "request time": ("e2e_request_latency_seconds",),
    "cache layout": ("cache_config_info",),
}
"""What `objectives.vllm` reads of the metrics page, and the names that do; counters may have lost
the `_total` that Prometheus' own client adds."""

FIELDS = {
    "version": "its version",
    "weights_bytes": "the weights",
    "available_kv_bytes": "memory for the KV cache",
    "kv_cache_tokens": "tokens of the KV cache",
    "max_concurrency": "requests of full length",
    "requested_bytes": "its share of the device",
    "activation_bytes": "the profile's peak",
    "graph_bytes": "CUDA graphs, captured",
    "graph_estimate_bytes": "CUDA graphs, set aside",
}
REFUSALS = {
    "No available memory for the cache": "kv_cache_no_blocks",
    "max seq len": "kv_cache_too_small",
    "on startup is less than": "gpu_memory_insufficient_at_start",
    "Error in memory profiling": "memory_profiling_race",
    "warming up sampler": "cuda_oom_profile",
    "larger than the number of available": "bad_argument",
    "fp8e4nv": "unsupported_gpu",
}
"""What of an exception to look for, and the cause that `objectives.diagnosis` must give it."""

_OF_MEMORY = re.compile(
    r"cache|mem|offload|cuda-?graph|batched|sleep|parallel|specul|mm-|lora|ubatch|dbo|optimization"
)
_MEMORY_FREE = re.compile(
    r"-parallel-(rank|address|\w+-port|port|backend|start-rank|multi-port|hybrid-lb|external-lb"
    r"|supervisor|size-local|loading-workers)|prefix-cach|processor|shm-|cache-gb|hash|-threshold$"
    r"|lora-|loras?$|loras-|metrics|interleave|philox|stochastic|-lb$|disable-chunked-mm|mm-kwargs"
    r"|sleep-(mode-offload|preserve)|mm-encoder-(attn|fp8)|mm-(tensor-ipc|device-do)|swap-space"
    r"|dcp-comm|media-|partial-prefill|-prompt-embeds|memory-profil|nccl-comm|custom-all-reduce|watermark"
)
"""Named so, and yet without memory on the device, or only beside an option that settings know."""

_LINE = 600  # characters; what is longer is a docstring

Answer = Callable[[Source, VllmRules], str]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One row.

    Attributes:
        name: Of the row.
        means: What "yes" says, and what the program does where it is not "yes".
        answer: The cell of a version.
    """

    name: str
    means: str
    answer: Answer


def same(found: object, expected: object) -> str:
    """Whether a rule of ours is vLLM's."""
    if found is None:
        return NOT_FOUND
    return YES if found == expected else f"{NO}: {found}, ours {expected}"


def without(missing: Iterable[str]) -> str:
    """What a version does not have of what we know."""
    missing = sorted(missing)
    return f"{CHANGED}: without {', '.join(missing)}" if missing else YES


def passed_options(root: Path = ROOT) -> set[str]:
    """Options that are always passed, or stand in a bundled configuration or in the docs."""
    found = set(ALWAYS_PASSED)
    for path in (root / "study/configs").glob("*.yaml"):
        asked = yaml.safe_load(path.read_text())["vllm"].get("args", {})
        found |= {name if value is not False else f"no-{name}" for name, value in asked.items()}
    for path in [*(root / "docs").glob("*.md"), root / "README.md"]:
        found |= set(re.findall(r"\bvllm\.args\.([a-z][a-z0-9-]+)", path.read_text()))
    return found - {"items"}


def understood_options(root: Path = ROOT) -> set[str]:
    """Options that `objectives/vllm/settings.py` names: it reads them, or knows what they spoil."""
    tree = ast.parse((root / "objectives/vllm/settings.py").read_text())
    words = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    names = {str(word).partition("=")[0] for word in words if isinstance(word, str)}
    return {name for name in names if re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name)}


def entry(source: Source, rules: VllmRules) -> str:
    """Whether the module that we start is a program."""
    text = source.texts.get("vllm/entrypoints/openai/api_server.py", "")
    _, main, program = text.partition('__name__ == "__main__"')
    if not main:
        return NOT_FOUND
    return f"{CHANGED}: says that it is deprecated" if "Deprecation" in program else YES


def passed(source: Source, rules: VllmRules) -> str:
    """Whether the parser takes all that we pass."""
    known = options(source)
    negated = {f"no-{option.name}" for option in known.values() if option.has_no}
    return without(passed_options() - set(known) - negated) if known else NOT_FOUND


def unmodelled(source: Source, rules: VllmRules) -> str:
    """Options whose names speak of memory, and of which settings know nothing."""
    named = {name for name in options(source) if _OF_MEMORY.search(name)}
    unknown = {name for name in named - understood_options() if not _MEMORY_FREE.search(name)}
    if not named:
        return NOT_FOUND
    return f"{NO}: {', '.join(sorted(unknown))}" if unknown else YES


def by_index(source: Source, rules: VllmRules) -> str:
    """Whether `CUDA_VISIBLE_DEVICES=1` is taken."""
    return physical_device(source, "1", {})


def by_uuid(source: Source, rules: VllmRules) -> str:
    """Whether a UUID there is taken."""
    found = physical_device(source, UUID, {UUID: 1})
    return found if found in {YES, NOT_FOUND} else f"{NO}: {found}"


def utilization(source: Source, rules: VllmRules) -> str:
    """The default of --gpu-memory-utilization."""
    found = field_default(source, "CacheConfig", "gpu_memory_utilization")
    return same(found, rules.default_utilization)


def share(source: Source, rules: VllmRules) -> str:
    """Whether the share asked for is the total times the utilisation, to the byte."""
    total, part = 12_487_654_321, 0.371
    _, found = start_check(source, total, total, part)
    if math.isnan(found):
        return NOT_FOUND
    if found == math.ceil(total * part):
        return YES
    return f"{CHANGED}: not rounded up" if found == total * part else f"{NO}: {found:.0f}"


def checks_start(source: Source, rules: VllmRules) -> str:
    """Whether a start is refused if, and only if, less is free than the share."""
    total, part = 12_487_654_321, 0.371
    wanted = math.ceil(total * part)
    answers = [start_check(source, total, free, part)[0] for free in (wanted, wanted - 1)]
    if NOT_FOUND in answers:
        return NOT_FOUND if rules.checks_start else f"{YES}: none"
    return same(answers == [YES, "refused"], rules.checks_start)


def graphs(source: Source, rules: VllmRules) -> str:
    """Whether CUDA graphs are taken from the share by default."""
    found = env_default(source, "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS")
    if found is None:
        return NOT_FOUND if rules.graphs_in_budget else f"{YES}: none"
    return same(found == "1", rules.graphs_in_budget)


def null_block(source: Source, rules: VllmRules) -> str:
    """Whether the check of the cache's size leaves out the block that serves nobody."""
    if not any("kv_cache_utils" in path for path in source.texts):
        return NOT_FOUND
    found = any(
        isinstance(node.op, ast.Sub) and "bytes_per_block(" in ast.unparse(node.right)
        for _, node in source.nodes(ast.BinOp, r"v1/core/")
    )
    return same(found, rules.holds_null_block)


def from_concurrency(source: Source, rules: VllmRules) -> str:
    """Whether the printed size of the cache is the concurrency times the length."""
    if not any("kv_cache_utils" in path for path in source.texts):
        return NOT_FOUND
    said = "max_concurrency * max_model_len"
    found = any(ast.unparse(n) == said for _, n in source.nodes(ast.BinOp, r"v1/core/"))
    return same(found, rules.tokens_from_concurrency)


def in_flight(source: Source, rules: VllmRules) -> str:
    """Whether windowed layers are given the tokens of all steps in flight."""
    text = source.texts.get("vllm/v1/kv_cache_interface.py")
    if text is None:
        return NOT_FOUND
    return same("max_in_flight_tokens" in text, rules.batches_in_flight > 1)


def sampler(source: Source, rules: VllmRules) -> str:
    """Whether the top-k/top-p kernel is there, which needs fewer copies of the logits."""
    path = next((p for p in source.texts if p.endswith("topk_topp_sampler.py")), None)
    if path is None:
        return NOT_FOUND
    return same("topk_topp_triton" in source.texts[path], rules.sampler_copies < 9)


def cards(source: Source, rules: VllmRules) -> str:
    """Whether each card's tokens and sequences of a step are ours."""
    wrong = []
    for name, size_gib in CARDS.items():
        total = int(size_gib * GIB)
        found = batch_defaults(source, total, name)
        if found is None:
            return NOT_FOUND
        ours = rules.default_batched_tokens(total, name), rules.default_max_num_seqs(total, name)
        if found != ours:
            wrong.append(f"{name} {found[0]}/{found[1]}, ours {ours[0]}/{ours[1]}")
    return f"{NO}: {'; '.join(wrong)}" if wrong else YES


def dtypes(source: Source, rules: VllmRules) -> str:
    """Whether the kinds of cache that the docs name are there."""
    known = literal(source, "CacheDType")
    return without({"auto", "fp8", "fp8_e5m2"} - set(known)) if known else NOT_FOUND


def sleeps(source: Source, rules: VllmRules) -> str:
    """Whether sleep mode stands PyTorch's expandable segments."""
    path = "vllm/device_allocator/cumem.py"
    if path not in source.texts:
        return NOT_FOUND
    asserts = (ast.unparse(node.test) for _, node in source.nodes(ast.Assert, "cumem"))
    return f"{NO}: AssertionError" if any("expandable" in test for test in asserts) else YES


def variables(source: Source, rules: VllmRules) -> str:
    """Whether the variables that we set are read."""
    text = source.texts.get("vllm/envs.py")
    return NOT_FOUND if text is None else without(v for v in VARIABLES if f'"{v}"' not in text)


def metrics(source: Source, rules: VllmRules) -> str:
    """Whether every figure that we read of the page has a name that we know."""
    words = (node.value for _, node in source.nodes(ast.Constant, r"v1/metrics/"))
    names = {word.partition(":")[2] for word in words if str(word).startswith("vllm:")}
    return (
        without(f for f, known in METRICS.items() if not names & set(known)) if names else NOT_FOUND
    )


@cache
def _figures(source: Source) -> frozenset[str]:
    """Figures of a start that some string of the version gives."""
    within = r"vllm/(v1|entrypoints|worker|executor|utils)"
    said = {text for text in texts(source, within) if len(text) < _LINE and "1" in text}
    facts = (vars(read_startup([text])) for text in said if " " in text)
    return frozenset(name for known in facts for name, value in known.items() if value is not None)


def figure(name: str) -> Answer:
    """Whether one of the version's own strings gives a figure of the start's log."""

    def answer(source: Source, rules: VllmRules) -> str:
        if name == "graph_estimate_bytes" and not rules.graphs_in_budget:
            return f"{YES}: none"
        return YES if name in _figures(source) else NOT_FOUND

    return answer


@cache
def _raised(source: Source) -> list[list[str]]:
    return list(raised(source))


def refusal(words: str, cause: str) -> Answer:
    """Whether each of the version's own refusals with these words is given its cause."""

    def answer(source: Source, rules: VllmRules) -> str:
        said = [samples for samples in _raised(source) if words in samples[0]]
        wrong = [samples for samples in said if cause not in {_cause(text) for text in samples}]
        if wrong:
            return f"{NO}: {', '.join(sorted({_cause(samples[0]) for samples in wrong}))}"
        return YES if said else NOT_FOUND

    return answer


def _cause(text: str) -> str:
    frame = '  File "/site-packages/vllm/v1/engine/core.py", line 1, in run_engine_core'
    return diagnose(["Traceback (most recent call last):", frame, *text.splitlines()]).cause


def all_checks() -> Iterator[Check]:
    """The rows, in order."""
    yield from (Check(name=name, means=means, answer=answer) for name, means, answer in _ROWS)
    for name, what in FIELDS.items():
        means = f"The log tells {what}, in words that `objectives/vllm/startup_log.py` reads."
        yield Check(name=f"log: {what}", means=means, answer=figure(name))
    for words, cause in REFUSALS.items():
        means = f"The exception with “{words}” is diagnosed as `{cause}`."
        yield Check(name=f"refusal: {words}", means=means, answer=refusal(words, cause))


_ROWS: tuple[tuple[str, str, Answer], ...] = (
    (
        "the module that is started",
        "`python -m vllm.entrypoints.openai.api_server` is a program. Where it is deprecated it "
        "warns once and serves as before.",
        entry,
    ),
    (
        "options that are passed",
        "The server's parser has every option that we always pass, or that a bundled "
        "configuration or the docs name. Without one, a start that is given it ends with "
        "`unrecognized arguments`, exit code 2.",
        passed,
    ),
    (
        "options that move memory",
        "Every option whose name speaks of memory is read by `objectives/vllm/settings.py`, or "
        "makes predictions uncertain there. With one that is not, a prediction may be wrong.",
        unmodelled,
    ),
    ("device by index", "`CUDA_VISIBLE_DEVICES=1` is taken (their function was run).", by_index),
    (
        "device by UUID",
        "`CUDA_VISIBLE_DEVICES=GPU-...` is taken (their function was run). Where it is not, the "
        "start dies; devices have to be named by index.",
        by_uuid,
    ),
    ("default utilisation", "`VllmRules.default_utilization` is their default.", utilization),
    (
        "share = ceil(total x util)",
        "The share asked for is the total times the utilisation, rounded up to a byte (their code "
        "was run). Not rounded, it differs by less than a byte.",
        share,
    ),
    (
        "start check",
        "A start is refused if, and only if, less is free than the share (their code was run), "
        "in the versions where `VllmRules.checks_start` says so; none: neither has one.",
        checks_start,
    ),
    (
        "graphs in the budget",
        "CUDA graphs come out of the share by default where `VllmRules.graphs_in_budget` says so.",
        graphs,
    ),
    (
        "null block",
        "The check of the cache's size leaves out one block where `holds_null_block` says so.",
        null_block,
    ),
    (
        "size from concurrency",
        "The printed size is concurrency x length where `tokens_from_concurrency` says so.",
        from_concurrency,
    ),
    (
        "steps in flight",
        "Windowed layers hold the tokens of all steps in flight where `batches_in_flight` does.",
        in_flight,
    ),
    ("sampler's kernel", "`sampler_copies` follows the version's sampler.", sampler),
    (
        "a step's size by card",
        "For each of eight cards, tokens and sequences of a step are ours (their code was run): "
        f"{', '.join(CARDS)}.",
        cards,
    ),
    ("kinds of cache", "`auto`, `fp8` and `fp8_e5m2` are kinds of cache.", dtypes),
    (
        "sleep mode",
        "It stands PyTorch's `expandable_segments`. Where it does not, the engine dies of an "
        "AssertionError.",
        sleeps,
    ),
    ("variables", "Every variable of vLLM that we set or read is known to it.", variables),
    ("metrics", "Each figure that we read of `/metrics` has a name that we know.", metrics),
)
