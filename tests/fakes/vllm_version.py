"""What vLLM refuses before it loads anything, by version: a table of rules and their words.

Read in vLLM's wheels 0.8.5.post1 to 0.33.0, as `tests/benchmarks/vllm_conformance` does:
`platforms/interface.py` and `cuda.py` (`device_id_to_physical_device_id`), `config/parallel.py`
(`ParallelConfig.__post_init__`), `device_allocator/cumem.py`, `model_executor/models/registry.py`,
`v1/attention/backends/triton_attn.py`; options from `vllm_options.json`, which that run writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Release = tuple[int, int, int]
Figures = Mapping[str, object]
_OPTIONS = Path(__file__).with_name("vllm_options.json")
NEWEST: Release = (999, 0, 0)
_OF_NATIVE_FP8 = (8, 9)


def release_of(version: str) -> Release:
    """The numbers of a version: "0.8.5.post1" is (0, 8, 5)."""
    numbers = [int(number) for number in re.findall(r"\d+", version)[:3]]
    return (*numbers, 0, 0, 0)[:3]  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How a fake was started, and on which machine.

    Attributes:
        release: The version that it plays.
        tensor_parallel_size: As asked for.
        kv_cache_dtype: As asked for.
        sleeps: `--enable-sleep-mode`.
        environment: Of the process.
        uuids: The machine's GPUs, in the order of their PCI buses.
        capability: Compute capability of them all.
        has_flashinfer: FlashInfer can be imported (required by wheels from 0.12 on).
    """

    release: Release
    tensor_parallel_size: int = 1
    kv_cache_dtype: str = "auto"
    sleeps: bool = False
    environment: Mapping[str, str]
    uuids: Sequence[str]
    capability: tuple[int, int] = (8, 6)
    has_flashinfer: bool = True

    @property
    def visible(self) -> list[str]:
        """Entries of `CUDA_VISIBLE_DEVICES`; an empty one counts as unset, as in vLLM."""
        named = self.environment.get("CUDA_VISIBLE_DEVICES", "")
        return named.split(",") if named else [str(at) for at in range(len(self.uuids))]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One reason not to start.

    Attributes:
        name: For people.
        since: First release with it.
        until: First release without it.
        broken: The figures of its words; None where it is kept.
        where: Who says it: "inspect", while a subprocess looks at the model's class; "config",
            the API server; "engine", its engine; "hang": it waits for ever.
        frame: File, function and code of the last frame.
        words: The last line, with names of figures.
    """

    name: str
    since: Release = (0, 0, 0)
    until: Release = NEWEST
    broken: Callable[[Asked], Figures | None]
    where: str
    frame: tuple[str, str, str]
    words: str


def _no_number(asked: Asked) -> Figures | None:
    return next(({"entry": e} for e in asked.visible[:1] if not _is_number(e)), None)


def _unknown_uuid(asked: Asked) -> Figures | None:
    unknown = (e for e in asked.visible[:1] if not _is_number(e) and e not in asked.uuids)
    return next(({"entry": entry} for entry in unknown), None)


def _no_such_index(asked: Asked) -> Figures | None:
    wrong = (e for e in asked.visible[:1] if _is_number(e) and not 0 <= int(e) < len(asked.uuids))
    return next(({"entry": entry} for entry in wrong), None)


def _is_number(entry: str) -> bool:
    return re.fullmatch(r"\s*[+-]?\d+\s*", entry) is not None


def _too_few(asked: Asked) -> Figures | None:
    size, gpus = asked.tensor_parallel_size, len(asked.visible)
    return {"size": size, "gpus": gpus} if size > gpus else None


def _expandable(asked: Asked) -> Figures | None:
    conf = asked.environment.get("PYTORCH_CUDA_ALLOC_CONF", "")
    return {} if asked.sleeps and "expandable_segments:True" in conf else None


def _fp8(asked: Asked) -> Figures | None:
    cannot = asked.kv_cache_dtype.startswith("fp8") and asked.capability < _OF_NATIVE_FP8
    return {"capability": "{}.{}".format(*asked.capability)} if cannot else None


def _fp8_in_v1(asked: Asked) -> Figures | None:
    return _fp8(asked) if asked.environment.get("VLLM_USE_V1") == "1" else None


def _fp8_without_flashinfer(asked: Asked) -> Figures | None:
    return None if asked.has_flashinfer else _fp8(asked)


_PHYSICAL = ("vllm/platforms/interface.py", "device_id_to_physical_device_id", "return int(")
_BY_NVML = ("vllm/platforms/cuda.py", "get_device_capability", "handle = pynvml.nvmlDeviceGet")
_PARALLEL = ("vllm/config/parallel.py", "__post_init__", "raise ValueError(")
_INVALID = (
    "pydantic_core._pydantic_core.ValidationError: 1 validation error for ParallelConfig\n"
    "  Value error, {} [type=value_error, input_value=ArgsKwargs((), {{{{'pipeline..."
    "'_api_process_rank': 0}}}}), input_type=ArgsKwargs]"
)
_TRITON = ("triton/compiler/code_generator.py", "ast_to_ttir", "return self.value.to")
_FP8_OF_TRITON = (
    "ValueError: type fp8e4nv not supported in this architecture. "
    "The supported fp8 dtypes are ('fp8e4b15', 'fp8e5')"
)
RULES = (
    Rule(
        name="a device named by anything but its index",
        until=(0, 24, 0),
        broken=_no_number,
        where="inspect",
        frame=_PHYSICAL,
        words="ValueError: invalid literal for int() with base 10: '{entry}'",
    ),
    Rule(
        name="a device that is not there, by its UUID",
        since=(0, 24, 0),
        broken=_unknown_uuid,
        where="inspect",
        frame=("vllm/platforms/cuda.py", "device_control_id_to_physical_device_id", "handle ="),
        words="pynvml.NVMLError_NotFound: Not Found",
    ),
    Rule(
        name="a device that is not there, by its index",
        broken=_no_such_index,
        where="inspect",
        frame=_BY_NVML,
        words="pynvml.NVMLError_InvalidArgument: Invalid Argument",
    ),
    Rule(
        name="more devices than are visible: Ray, which wheels of these versions bring, waits",
        until=(0, 11, 1),
        broken=_too_few,
        where="hang",
        frame=("vllm/executor/ray_utils.py", "initialize_ray_cluster", "_wait_until_pg_ready"),
        words="The number of required GPUs exceeds the total number of available GPUs in the "
        "placement group.",
    ),
    Rule(
        name="more devices than are visible, the first wording",
        since=(0, 11, 1),
        until=(0, 13, 0),
        broken=_too_few,
        where="config",
        frame=_PARALLEL,
        words=_INVALID.format(
            "Tensor parallel size ({size}) cannot be larger than the number of available GPUs "
            "({gpus})."
        ),
    ),
    Rule(
        name="more devices than are visible",
        since=(0, 13, 0),
        broken=_too_few,
        where="config",
        frame=_PARALLEL,
        words=_INVALID.format(
            "World size ({size}) is larger than the number of available GPUs ({gpus}) in this "
            "node. If this is intentional and you are using:\n- ray, set "
            "'--distributed-executor-backend ray'.\n- multiprocessing, set '--nnodes' "
            "appropriately."
        ),
    ),
    Rule(
        name="an fp8 cache before V1 has it",
        until=(0, 11, 0),
        broken=_fp8_in_v1,
        where="config",
        frame=("vllm/engine/arg_utils.py", "_raise_or_fallback", "raise NotImplementedError("),
        words="NotImplementedError: VLLM_USE_V1=1 is not supported with --kv-cache-dtype.",
    ),
    Rule(
        name="an fp8 cache on a card without it: Triton's backend is taken",
        since=(0, 11, 0),
        until=(0, 11, 1),
        broken=_fp8,
        where="engine",
        frame=_TRITON,
        words=_FP8_OF_TRITON,
    ),
    Rule(
        name="an fp8 cache on a card without it, and no FlashInfer",
        since=(0, 11, 1),
        until=(0, 24, 0),
        broken=_fp8_without_flashinfer,
        where="engine",
        frame=_TRITON,
        words=_FP8_OF_TRITON,
    ),
    Rule(
        name="an fp8 cache on a card without it, and no FlashInfer, said by vLLM",
        since=(0, 24, 0),
        broken=_fp8_without_flashinfer,
        where="engine",
        frame=("vllm/v1/attention/backends/triton_attn.py", "__init__", "raise ValueError("),
        words="ValueError: FP8 KV cache is not supported by the Triton attention backend on "
        "NVIDIA GeForce RTX 3060 (compute capability {capability}); native FP8 (fp8e4nv) "
        "requires SM89+. Re-run with --kv-cache-dtype bfloat16.",
    ),
    Rule(
        name="sleep mode beside expandable segments",
        until=(0, 20, 0),
        broken=_expandable,
        where="engine",
        frame=("vllm/device_allocator/cumem.py", "__init__", 'assert "expandable_segments:True"'),
        words="AssertionError: Expandable segments are not compatible with memory pool. Please "
        "track https://github.com/pytorch/pytorch/issues/147851 for the latest updates.",
    ),
)


def first_broken(asked: Asked) -> tuple[Rule, str] | None:
    """The first rule of the version that is not kept, and its words; None if all are."""
    for rule in RULES:
        if rule.since <= asked.release < rule.until:
            figures = rule.broken(asked)
            if figures is not None:
                return rule, rule.words.format(**figures)
    return None


class Options:
    """Which words a version's parser takes."""

    def __init__(self, release: Release) -> None:
        known = json.loads(_OPTIONS.read_text())["options"]
        self._kinds = {
            name: kind
            for name, (kind, since, until) in known.items()
            if release_of(since) <= release and (until is None or release < release_of(until))
        }
        self._kinds |= {f"no-{n}": "flag" for n, kind in self._kinds.items() if kind == "switch"}

    def unknown(self, words: Sequence[str]) -> list[str]:
        """What argparse would call unrecognized, of options and of the words between them."""
        return list(self._unknown(words))

    def _unknown(self, words: Sequence[str]) -> Iterator[str]:
        takes_more = False
        for word in words:
            if not word.startswith("--"):
                takes_more |= word[:1] == "-" and word[1:2].isalpha()  # -tp 2
                if not takes_more:
                    yield word
                continue
            name, equals, _ = word[2:].partition("=")
            kind = self._kind(name)
            takes_more = not equals and kind in (None, "value")
            if kind is None:
                yield word

    def _kind(self, name: str) -> str | None:
        """The option's; a beginning that only one option has stands for it, as in argparse."""
        name = name.partition(".")[0]  # --json-arg.key
        if name in self._kinds or name == "help":
            return self._kinds.get(name, "flag")
        longer = [kind for known, kind in self._kinds.items() if known.startswith(name)]
        return longer[0] if len(longer) == 1 else None
