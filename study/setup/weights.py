"""What the servers load: real models by name or path, or random weights at a real size.

Random ("dummy") weights compute as fast and take as much memory as real ones; only the words are
nonsense. They are made once, by the engine's interpreter, in a cache folder. Nothing is made for
real models: their names and paths go through to the servers, checked where that can be done here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from objectives import workers
from objectives.errors import EngineError, UsageError
from objectives.models import (
    WHISPER_DIMS,
    WHISPER_NAMES,
    ModelShape,
    UnsupportedShapeError,
    canonical_name,
    nearest_whisper,
    weight_bytes,
)
from objectives.servers import Engine, inherited, study_home
from study.config import StudyConfig
from study.setup.dummy_models import LLM_SHAPES, DummyLlm

__all__ = [
    "DummyLlm",
    "ResolvedModel",
    "Weights",
    "default_cache",
    "dummy_llm",
    "dummy_whisper",
    "resolve_llm",
    "resolve_whisper",
]

Weights = Literal["real", "dummy"]
Say = Callable[[str], None]

MAKING_TIMEOUT_S = 900.0


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """What a server is told to load."""

    model: str  # name or path, as the server takes it
    weights: Weights
    local: bool  # nothing needs to be fetched: the server may be offline
    size_bytes: int | None = None  # of the weights' file; None where there is none, or not here


def default_cache() -> Path:
    """Where dummy weights are kept between studies."""
    return study_home() / "weights"


def resolve_llm(
    model: str | None,
    weights: Weights,
    *,
    engine: Engine,
    spec: DummyLlm | None = None,
    cache: Path | None = None,
    say: Say = lambda _line: None,
) -> ResolvedModel:
    """What vLLM shall load.

    Args:
        model: A name, or a folder with a `config.json`; None with dummy weights: `spec` decides.
        weights: "dummy": random weights, at the size of the folder's or the name's architecture,
            or of `spec`. vLLM then needs `--load-format dummy`.
        engine: Makes the folder, if one must be made.
        spec: The shape, where `model` is None.
        cache: Default: `default_cache()`.
        say: Told before something is made.

    Raises:
        UsageError: The folder or file is not there, or the size of the model is not known.
        EngineError: The engine could not make the folder.
    """
    folder = _as_folder(model)
    if weights == "real":
        if model is None:
            raise UsageError("vllm.model: missing; a name or a folder is needed for real weights")
        return ResolvedModel(
            model=model if folder is None else str(folder), weights="real", local=folder is not None
        )
    cache = default_cache() if cache is None else cache
    if folder is not None:
        made = folder if _has_tokenizer(folder) else _with_tokenizer(engine, folder, cache, say)
    else:
        made = dummy_llm(engine, _shape(model, spec), cache, say=say)
    return ResolvedModel(model=str(made), weights="dummy", local=True)


def resolve_whisper(
    model: str,
    weights: Weights,
    *,
    engine: Engine,
    cache: Path | None = None,
    say: Say = lambda _line: None,
) -> ResolvedModel:
    """What the Whisper worker shall load.

    Args:
        model: An official name, or a checkpoint's path.
        weights: "dummy": a checkpoint with random weights at the official dimensions.
        engine: Makes the checkpoint, if it must be made.
        cache: Default: `default_cache()`.
        say: Told before something is made.

    Raises:
        UsageError: No such name or file.
        EngineError: The engine could not make the checkpoint.
    """
    path = Path(model).expanduser()
    official = model in WHISPER_NAMES
    if official and weights == "dummy":
        made = dummy_whisper(engine, model, cache=cache, say=say)
        return ResolvedModel(
            model=str(made), weights="dummy", local=True, size_bytes=made.stat().st_size
        )
    if official:
        return ResolvedModel(model=model, weights="real", local=False)
    if not path.is_file():
        raise UsageError(f"whisper.model: {model!r} is neither a file nor {nearest_whisper(model)}")
    return ResolvedModel(
        model=str(path.absolute()), weights=weights, local=True, size_bytes=path.stat().st_size
    )


def dummy_llm(
    engine: Engine, spec: DummyLlm, cache: Path, *, say: Say = lambda _line: None
) -> Path:
    """A model folder (configuration and tokenizer) for vLLM's `--load-format dummy`.

    Made once; later calls find it. Raises: UsageError for an impossible shape, EngineError.
    """
    return _llm_folder(engine, spec.config(), cache, say)


def dummy_whisper(
    engine: Engine,
    size: str,
    *,
    cache: Path | None = None,
    seed: int = 0,
    say: Say = lambda _line: None,
) -> Path:
    """A Whisper checkpoint with seeded random weights at the official dimensions.

    Made once; later calls find it. Raises: UsageError for another name, EngineError.
    """
    name = canonical_name(size)
    if name not in WHISPER_DIMS:
        raise UsageError(f"whisper.model: {size!r} is not {nearest_whisper(size)}")
    dims = WHISPER_DIMS[name]
    cache = default_cache() if cache is None else cache
    target = cache / f"whisper-seed{seed}" / f"{name}.pt"
    what = f"random weights for Whisper {name}, {dims.checkpoint_bytes / 1e6:.0f} MB"
    options = ["whisper", "--dims", json.dumps(dims.to_dict()), "--seed", str(seed)]
    return _made(target, what, engine, options, say)


def _llm_folder(engine: Engine, config: Mapping[str, Any], cache: Path, say: Say) -> Path:
    text = json.dumps(config, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    target = cache / f"llm-{config.get('model_type', 'model')}-{digest}"
    return _made(target, "a model folder, 1 MB", engine, ["llm", "--config", text], say)


def _with_tokenizer(engine: Engine, folder: Path, cache: Path, say: Say) -> Path:
    """A folder with the same configuration and a tokenizer of ours."""
    return _llm_folder(engine, _read_config(folder), cache, say)


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text())
        return dict(config) | {
            "vocab_size": int(config["vocab_size"]),
            "max_position_embeddings": int(config["max_position_embeddings"]),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file}: no configuration of a language model: {error}") from error


def _made(target: Path, what: str, engine: Engine, options: list[str], say: Say) -> Path:
    """`target`, made by the engine under a lock if it is not there; whole, or not at all."""
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f"{target.name}.lock")):
        if not target.exists():
            say(f"making {what}: {target}")
            _make(target, engine, options)
    return target


def _make(target: Path, engine: Engine, options: list[str]) -> None:
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=".making-"))
    try:
        done = subprocess.run(
            [
                str(engine.interpreter),
                str(workers.DUMMY_WEIGHTS),
                *options,
                "--out",
                str(draft / target.name),
            ],
            env=inherited(engine.interpreter, offline=True) | {"CUDA_VISIBLE_DEVICES": ""},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=MAKING_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            last = done.stderr.strip().rpartition("\n")[2]
            raise EngineError(f"engine {engine.name} cannot make {target}: {last}")
        (draft / target.name).replace(target)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"engine {engine.name} cannot make {target}: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _as_folder(model: str | None) -> Path | None:
    """The folder that a model's name means; None if it is a name of the hub.

    Raises: UsageError, if it is written as a path and there is no model.
    """
    if model is None:
        return None
    path = Path(model).expanduser()
    if not path.exists() and not model.startswith(("/", "./", "../", "~")):
        return None
    if not (path / "config.json").is_file():
        raise UsageError(f"vllm.model: {model!r} is no folder with a config.json")
    return path.absolute()


def _has_tokenizer(folder: Path) -> bool:
    return any(
        (folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")
    )


def _shape(model: str | None, spec: DummyLlm | None) -> DummyLlm:
    if model in LLM_SHAPES:
        return LLM_SHAPES[model]
    if model is not None:
        known = ", ".join(LLM_SHAPES)
        raise UsageError(
            f"vllm.model: the size of {model!r} is not known here, which weights: dummy needs; "
            f"give a folder with its config.json, or one of {known}"
        )
    if spec is None:
        raise UsageError("vllm.dummy: missing; weights: dummy needs a model's shape")
    return spec


def dummy_shape(config: StudyConfig) -> DummyLlm:
    return DummyLlm(**config.document.vllm.dummy.model_dump())


def model_shape(config: StudyConfig, folder: Path | None) -> tuple[ModelShape | None, str | None]:
    """The language model's shape, or why it is not known."""
    document = config.document
    found: Path | Mapping[str, object] | None = folder
    if found is None and document.vllm.weights == "dummy":
        known = LLM_SHAPES.get(document.vllm.model or "")
        found = (known or dummy_shape(config)).config()
    if found is None:
        name = document.vllm.model or ""
        local = Path(name).expanduser()
        found = local if (local / "config.json").is_file() else hub_folder(name)
    if found is None:
        return None, f"{document.vllm.model} is not on this machine yet, its config.json is unknown"
    try:
        return ModelShape.from_config(found), None
    except (UnsupportedShapeError, OSError, ValueError) as error:
        return None, " ".join(str(error).split())


def hub_folder(name: str) -> Path | None:
    """Where the hub's cache on this machine keeps a model, else None; fetches nothing."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    snapshots = hub / f"models--{name.replace('/', '--')}" / "snapshots"
    found = sorted(snapshots.glob("*/config.json"), key=lambda path: path.stat().st_mtime)
    return found[-1].parent if found else None


def llm_weights_bytes(
    config: StudyConfig, model: str, shape: ModelShape | None, *, local: bool
) -> int | None:
    """Bytes of the model's weight files as the engine loads them, where there are any."""
    if config.document.vllm.weights == "dummy" or shape is None:
        return None
    folder = Path(model) if local else hub_folder(model)
    if folder is None:
        return None
    return weight_bytes(folder, dtype_bytes=shape.dtype_bytes, tied=shape.tied_embeddings)
