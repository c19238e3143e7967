"""Pieces of vLLM that are small enough to be run alone, with stand-ins for what they touch."""

from __future__ import annotations

import ast
import math
import os
import types
from collections.abc import Mapping
from typing import Any
from unittest import mock

from tests.benchmarks.vllm_conformance.source import Source

GIB = 1 << 30
SERVER = "OPENAI_API_SERVER"


class Anything:
    """Gives a stand-in for every attribute, and is called without effect."""

    def __init__(self, **known: Any) -> None:
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __call__(self, *_: object, **__: object) -> Anything:
        return Anything()

    def __bool__(self) -> bool:
        return False


def run(nodes: list[ast.stmt], names: dict[str, Any]) -> dict[str, Any]:
    """Execute statements with `names` known; whatever they raise is raised."""
    module = ast.Module(body=nodes, type_ignores=[])
    exec(compile(ast.fix_missing_locations(module), "vllm", "exec"), names)
    return names


def function(source: Source, name: str, within: str, names: dict[str, Any]) -> Any:
    """A function of vLLM without its decorators, types and module; None if it is not there."""
    found = source.function(name, within)
    if found is None:
        return None
    bare = ast.parse(ast.unparse(found)).body[0]
    assert isinstance(bare, ast.FunctionDef)
    bare.decorator_list, bare.returns = [], None
    for argument in ast.walk(bare.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return run([bare], names)[name]


def physical_device(source: Source, named: str, known: Mapping[str, int]) -> str:
    """What becomes of an entry of CUDA_VISIBLE_DEVICES: "yes", an exception, or "not found".

    Args:
        source: The version.
        named: The entry.
        known: UUID to index, of the machine's devices.
    """
    nvml = types.SimpleNamespace(nvmlDeviceGetHandleByUUID=known.__getitem__)
    nvml.nvmlDeviceGetIndex = lambda handle: handle
    names = {"os": os, "pynvml": nvml, "_assigned_physical_gpu_ids": None, "logger": Anything()}
    name = "device_id_to_physical_device_id"
    maps = function(source, name, "platforms/(interface|cuda)", dict(names))
    if maps is None:
        return "not found"
    platform = Anything(device_control_env_var="CUDA_VISIBLE_DEVICES")
    by_nvml = function(
        source, "device_control_id_to_physical_device_id", "platforms/cuda", dict(names)
    )
    if by_nvml is not None:
        platform.__dict__["device_control_id_to_physical_device_id"] = lambda entry: by_nvml(
            platform, entry
        )
    with mock.patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": named}):
        try:
            maps(*([platform, 0] if "cls" in maps.__code__.co_varnames else [0]))
        except Exception as error:  # whatever it is, a start dies of it
            return type(error).__name__
    return "yes"


def batch_defaults(source: Source, total_bytes: int, device_name: str) -> tuple[int, int] | None:
    """Tokens and sequences of a step by vLLM's own choice for a card; None if it is not found."""
    for _, node in source.nodes(ast.If, r"arg_utils\.py$"):
        said = ast.unparse(node)
        if "device_memory" not in ast.unparse(node.test) or SERVER not in said:
            continue
        context = types.SimpleNamespace(OPENAI_API_SERVER=SERVER, LLM_CLASS="LLM_CLASS")
        names = {
            "device_memory": total_bytes,
            "device_name": device_name.lower(),
            "GiB_bytes": GIB,
            "UsageContext": context,
            "is_gb10": "gb10" in device_name.lower(),
            "current_platform": Anything(
                get_device_name=lambda: device_name, get_device_total_memory=lambda: total_bytes
            ),
        }
        run([node], names)
        tokens, seqs = names["default_max_num_batched_tokens"], names["default_max_num_seqs"]
        return _of_server(tokens), _of_server(seqs)
    return None


def _of_server(default: Any) -> int:
    return int(default[SERVER] if isinstance(default, dict) else default)


def start_check(source: Source, total: int, free: int, utilization: float) -> tuple[str, float]:
    """Whether a start is let through, and the share it asks for.

    Returns:
        "yes", "refused" or "not found"; bytes, NaN where that is not found.
    """
    snapshot = Anything(total_memory=total, free_memory=free)
    snapshot.__dict__["device_"] = "cuda:0"
    cache = Anything(gpu_memory_utilization=utilization)
    cache.__dict__["kv_cache_memory_bytes"] = None
    names = {"math": math, "format_gib": str, "GiB": str, "GiB_bytes": GIB, "logger": Anything()}
    whole = function(source, "request_memory", r"worker/utils", dict(names))
    if whole is not None:
        call = [snapshot, cache][: whole.__code__.co_argcount]
        return _let_through(lambda: whole(*call))
    worker = Anything(init_snapshot=snapshot, cache_config=cache)
    check = next(
        (
            node
            for _, node in source.nodes(ast.If, r"v1/worker/gpu_worker")
            if "on startup is less" in ast.unparse(node) and "requested" in ast.unparse(node.test)
        ),
        None,
    )
    asks = next(
        (
            node
            for _, node in source.nodes(ast.Assign, r"v1/worker/gpu_worker")
            if ast.unparse(node.targets[0]) == "self.requested_memory"
        ),
        None,
    )
    if check is None or asks is None:
        return "not found", math.nan
    names["self"] = worker
    return _let_through(lambda: run([asks, check], names)["self"].requested_memory)


def _let_through(attempt: Any) -> tuple[str, float]:
    try:
        return "yes", float(attempt())
    except ValueError:
        return "refused", math.nan


def field_default(source: Source, owner: str, field: str) -> Any:
    """A field's default, of a configuration class; None if it is not found."""
    for _, node in source.nodes(ast.ClassDef, r"vllm/config"):
        for line in node.body if node.name == owner else ():
            named = isinstance(line, ast.AnnAssign) and ast.unparse(line.target) == field
            if named and isinstance(line, ast.AnnAssign) and line.value is not None:
                return _constant(line.value)
    return None


def _constant(value: ast.expr) -> Any:
    """A literal, or that of `Field(default=...)`."""
    if isinstance(value, ast.Call):
        given = {key.arg: key.value for key in value.keywords}
        return _constant(given["default"]) if "default" in given else None
    return value.value if isinstance(value, ast.Constant) else None


def env_default(source: Source, name: str) -> str | None:
    """The word that stands for an environment variable where it is not set."""
    for _, node in source.nodes(ast.Dict, r"vllm/envs"):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == name:
                return _second_argument(value, name)
    return None


def _second_argument(value: ast.expr, name: str) -> str | None:
    for call in ast.walk(value):
        if isinstance(call, ast.Call):
            words = [word.value for word in call.args if isinstance(word, ast.Constant)]
            if words[:1] == [name]:
                return str(words[1]) if len(words) > 1 else ""
    return None
