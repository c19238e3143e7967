"""What a study says to its servers itself, so that no configuration may: one list, one place.

A server would take all of it (the last word on a command line wins), but the lock, the arithmetic,
the telemetry and the load would stay where they were: a trial would then measure something else
than its record says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from objectives.space import Parameter, SearchSpace, option_name
from objectives.units import Scalar
from study.config.schema import Document

PLACES = ("same", "cpu")
"""Where Whisper may run: on the study's device, or beside it."""

_DEVICE = "the study gives every server its device, which `device` names"
_ADDRESS = "the study gives every server its address and its key"
_ONE_DEVICE = "a study has one device"

_VARIABLES = {
    r"\w*VISIBLE_DEVICES|CUDA_DEVICE_ORDER|GPU_DEVICE_ORDINAL|CUDA_MPS_\w+": _DEVICE,
    r"VLLM_API_KEY|WHISPER_API_KEY": _ADDRESS,
    r"VLLM_DP_\w+": _ONE_DEVICE,
}
"""Variables, as patterns, that are the study's, and why."""

_OPTIONS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "vllm": {
        "`vllm.model` names it": ("model", "model-tag", "served-model-name"),
        "its options stand under `vllm.args`": ("config",),
        _DEVICE: ("device", "device-ids"),
        _ADDRESS: (
            *("host", "port", "uds", "grpc-port", "root-path", "api-key"),
            *("ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "ssl-cert-reqs", "ssl-ciphers"),
            "enable-ssl-refresh",
        ),
        _ONE_DEVICE: (
            *("headless", "nnodes", "node-rank", "master-addr", "master-port"),
            *("data-parallel-rank", "data-parallel-start-rank", "data-parallel-address"),
            *("data-parallel-rpc-port", "data-parallel-backend", "data-parallel-hybrid-lb"),
            *("data-parallel-external-lb", "data-parallel-multi-port-external-lb"),
            *("data-parallel-supervisor-port", "elastic-ep-max-dp-size"),
        ),
    },
    "whisper": {
        "`whisper.model` names it": ("model",),
        "`load.stt.output_tokens` says how many": ("fixed-tokens",),
        _DEVICE: ("device",),
        _ADDRESS: ("host", "port", "api-key-env"),
    },
}
"""Options that are the study's, by what says them instead (vLLM 0.8 to 0.33, and our worker)."""

_SIZES = (
    *("tensor-parallel-size", "tp", "pipeline-parallel-size", "pp"),
    *("data-parallel-size", "data-parallel-size-local", "dp", "dpl"),
    *("decode-context-parallel-size", "dcp", "prefill-context-parallel-size", "pcp"),
)
"""Numbers of devices, and vLLM's short names for them."""


def reserved() -> Iterator[tuple[str, str]]:
    """Everything that is the study's: keys of a configuration, and who says it instead."""
    for pattern, why in _VARIABLES.items():
        names = pattern.replace(r"\w*", "*").replace(r"\w+", "*").split("|")
        yield ", ".join(f"`*.env.{name}`" for name in names), why
    for server, groups in _OPTIONS.items():
        for why, options in groups.items():
            yield ", ".join(f"`{server}.args.{option}`" for option in options), why
    yield ", ".join(f"`vllm.args.{size}` above 1" for size in _SIZES if "-" in size), _ONE_DEVICE
    yield "`vllm.model`, `vllm.device` as parameters", "they are the same in all trials"


def refuse_reserved(document: Document, space: SearchSpace) -> None:
    """See that a configuration leaves to the study what is the study's.

    Raises:
        ValueError: It does not; the key, what was found, and who says it instead.
    """
    is_dummy = document.vllm.weights == "dummy"
    for server, section in (("vllm", document.vllm), ("whisper", document.whisper)):
        _refuse_spellings(server, section.args)
        for key, value in section.args.items():
            if value is not None:
                _refuse_option(server, key, (value,), f"{server}.args.{key}", is_dummy=is_dummy)
        _refuse_variables(section.env, f"{server}.env")
    for index, neighbour in enumerate(document.neighbours):
        _refuse_variables(neighbour.env, f"neighbours.{index}.env")
        for word in neighbour.argv:  # env NAME=VALUE command, sh -c "NAME=VALUE command"
            _refuse_variables(re.findall(r"\b(\w+)=", word), f"neighbours.{index}.argv")
    for parameter in space:
        _refuse_parameter(parameter, is_dummy=is_dummy)


def _refuse_parameter(parameter: Parameter, *, is_dummy: bool) -> None:
    binding, where = parameter.binding, f"search_space.{parameter.name}: {parameter.binding}"
    values = parameter.choices or (parameter.low, parameter.high)
    if binding.kind == "env":
        _refuse_variables((binding.key,), f"search_space.{parameter.name}: {binding.server}.env")
    elif binding.kind == "args":
        _refuse_option(binding.server, binding.key, values, where, is_dummy=is_dummy)
    elif binding.server == "vllm":
        fixed = f"`{binding.kind}`" if binding.kind == "device" else f"`{binding}`"
        raise ValueError(f"{where}: found as a parameter; {fixed} is the same in all trials")
    elif binding.kind == "device" and (other := [v for v in values if v not in PLACES]):
        raise ValueError(f"{where}: found {other[0]!r}, allowed: {', '.join(PLACES)}; {_DEVICE}")


def _refuse_spellings(server: str, args: Mapping[str, Scalar | None]) -> None:
    """An option's name alone, and once; `--port=9` would be an option and its value."""
    seen: dict[str, str] = {}
    for key in args:
        name = option_name(key)
        if not re.fullmatch(r"[A-Za-z][\w.-]*", name):
            raise ValueError(f"{server}.args: found {key!r}, allowed: an option's name")
        if name in seen:
            raise ValueError(f"{server}.args.{key}: given twice, also as {seen[name]!r}")
        seen[name] = key


def _refuse_option(
    server: str, key: str, values: Sequence[Scalar | None], where: str, *, is_dummy: bool
) -> None:
    name = option_name(key)
    for why, reserved in _OPTIONS[server].items():
        # Any beginning of an option's name stands for it, as argparse has it.
        if any(option.startswith(name) for option in reserved):
            raise ValueError(f"{where}: not to be set; {why}")
    if server != "vllm":
        return
    if any(size.startswith(name) for size in _SIZES):
        if other := [value for value in values if str(value) != "1"]:
            raise ValueError(f"{where}: found {other[0]!r}, allowed: 1; {_ONE_DEVICE}")
    elif "load-format".startswith(name) and (is_dummy or "dummy" in values):
        raise ValueError(f"{where}: not to be set; `vllm.weights` says whether they are random")


def _refuse_variables(names: Iterable[str], where: str) -> None:
    for name in names:
        for pattern, why in _VARIABLES.items():
            if re.fullmatch(pattern, name):
                raise ValueError(f"{where}.{name}: not to be set; {why}")
