"""A candidate, an engine and an address become the command line of a server: pure."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from objectives.candidate import Candidate
from objectives.servers import PRIVATE_VARIABLES, Launch
from objectives.trial.bench import Bench
from objectives.units import DeviceKind

SERVED_NAME = "llm"
"""What requests call the model, whatever its path."""

_SECRETS = frozenset({"VLLM_API_KEY", "WHISPER_API_KEY"}) | PRIVATE_VARIABLES
_PLUMBING = ("PATH", "PYTHONSAFEPATH", "PYTHONUNBUFFERED", "VLLM_CACHE_ROOT")
_PLUMBING_ENDS = ("_CACHE_DIR",)


def new_key() -> str:
    """A key that only this trial's client and servers know."""
    return secrets.token_urlsafe(24)


def vllm_launch(candidate: Candidate, bench: Bench, *, port: int, key: str, log: Path) -> Launch:
    """How vLLM is started for a candidate, on loopback only."""
    settings = candidate.vllm
    argv = [
        *bench.vllm_engine.vllm_command(),
        *("--model", bench.llm_path),
        *("--served-model-name", SERVED_NAME),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    if bench.llm_is_dummy:
        argv += ["--load-format", "dummy"]
    argv += settings.options(negated=True)
    env = {
        **bench.vllm_engine.environment(bench.device.kind, role="vllm", offline=bench.llm_is_local),
        **bench.device.environment(),
        **settings.env,
        "VLLM_API_KEY": key,
    }
    return Launch(name="vllm", argv=tuple(argv), env=env, log=log)


def whisper_launch(candidate: Candidate, bench: Bench, *, port: int, key: str, log: Path) -> Launch:
    """How Whisper is started for a candidate, on loopback only."""
    settings = candidate.whisper
    kind = whisper_kind(candidate, bench)
    path = bench.whisper_paths.get(settings.model, settings.model)
    argv = [
        *bench.whisper_engine.whisper_command(),
        *("--model", path),
        *("--device", "cuda:0" if kind == "cuda" else "cpu"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--api-key-env", "WHISPER_API_KEY"),
    ]
    stt = bench.profile.stt
    if stt is not None and stt.output_tokens is not None:
        argv += ["--fixed-tokens", str(stt.output_tokens)]
    argv += settings.options()
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    env = {
        **bench.whisper_engine.environment(kind, role="whisper", offline=Path(path).exists()),
        **(bench.device.environment() if kind == bench.device.kind else hidden),
        **settings.env,
        "WHISPER_API_KEY": key,
    }
    return Launch(name="whisper", argv=tuple(argv), env=env, log=log)


def whisper_kind(candidate: Candidate, bench: Bench) -> DeviceKind:
    """Which kind of device the candidate puts Whisper on: the study's, or the CPU."""
    return "cpu" if candidate.whisper.device == "cpu" else bench.device.kind


def shown(launch: Launch, inherited: Mapping[str, str]) -> dict[str, object]:
    """A launch as it may be stored: without keys, and only what makes a difference.

    Args:
        launch: What was started.
        inherited: The study's own environment, which needs no repeating.
    """
    env = {
        name: value
        for name, value in launch.env.items()
        if name not in _SECRETS
        and name not in _PLUMBING
        and not name.endswith(_PLUMBING_ENDS)
        and inherited.get(name) != value
    }
    return {"argv": list(launch.argv), "env": env}
