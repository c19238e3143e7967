"""What the servers load: real models by name or path, or random weights at a real size.

Random ("dummy") weights compute as fast and take as much memory as real ones; only the words are
nonsense. They are made once, by the engine's interpreter, in a cache folder. Nothing is made for
real models: their names and paths go through to the servers, checked where that can be done here,
and a Whisper's weights are fetched before the first trial.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from objectives import workers
from objectives.errors import EngineError, UsageError
from objectives.models import (
    WHISPER_NAMES,
    canonical_name,
    hub_entry,
    hub_folder,
    nearest_whisper,
    whisper_dims,
)
from objectives.servers import Engine, inherited, study_home
from study.setup.model_shapes import LLM_SHAPES, DummyLlm

Weights = Literal["real", "dummy"]
Log = Callable[[str], None]

MAKING_TIMEOUT_S = 900.0
_WEIGHTS = re.compile(r"(?:model|consolidated|pytorch_model)[^/]*\.(?:safetensors|bin)")
_PART = re.compile(r"-\d+-of-(?P<of>\d+)\.")
FETCHING_TIMEOUT_S = 3600.0

_FETCH = """
import os, sys, whisper
whisper.load_model(sys.argv[1], device="cpu", download_root=os.path.dirname(sys.argv[2]))
"""
"""Run by an engine with a model's name and the file to be; checks the file's SHA-256."""


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """What vLLM loads."""

    model: str  # name or path, as the server takes it
    local: bool  # nothing needs to be fetched: the server may be offline


def resolve_llm(
    model: str | None,
    weights: Weights,
    *,
    engine: Engine,
    spec: DummyLlm | None = None,
    log: Log = lambda _line: None,
) -> ResolvedModel:
    """What vLLM shall load: a name, or a folder with a `config.json`.

    Random ("dummy") weights have the size of its architecture; of `spec`, where `model` is None.
    vLLM then needs `--load-format dummy`. `log` is called before something is made, with what.

    Raises:
        UsageError: The folder or file is not there, or the size of the model is not known.
        EngineError: The engine could not make the folder.
    """
    folder = _as_folder(model)
    if weights == "real":
        if model is None:
            raise UsageError("vllm.model: missing; a name or a folder is needed for real weights")
        if folder is None and hub_folder(model) is None:
            log(
                f"{model} is not on this machine: `hf download` fetches it, or else the first start"
            )
        return ResolvedModel(model=str(folder or model), local=folder is not None)
    if folder is None:
        made = dummy_llm(engine, _shape(model, spec), log=log)
    else:
        made = folder if _has_tokenizer(folder) else _llm_folder(engine, _read_config(folder), log)
    return ResolvedModel(model=str(made), local=True)


def resolve_whisper(
    model: str, weights: Weights, *, engine: Engine, log: Log = lambda _line: None
) -> str:
    """What the Whisper worker shall load: an official name, or a checkpoint's path.

    The weights of a name are fetched where they are not here yet: no trial waits for a download.

    Raises:
        UsageError: No such name or file.
        EngineError: The engine could not fetch it, or make a checkpoint with random weights.
    """
    if model in WHISPER_NAMES:
        if weights == "dummy":
            return str(dummy_whisper(engine, model, log=log))
        _fetch_whisper(engine, model, log)
        return model
    path = Path(model).expanduser()
    if not path.is_file():
        raise UsageError(f"whisper.model: {model!r} is neither a file nor {nearest_whisper(model)}")
    return str(path.absolute())


def is_cached_whole(model: str) -> bool:
    """Whether the hub's cache has all that vLLM needs of a model: it then may start offline.

    That is the snapshot which `main` stands for, with its configuration, a tokenizer and every
    file of its weights, none of them a link to nothing, and no download of it unfinished.
    """
    entry = hub_entry(model)
    try:
        snapshot = entry / "snapshots" / (entry / "refs" / "main").read_text().strip()
        names = {str(file.relative_to(snapshot)): file for file in snapshot.rglob("*")}
        complete = all(file.exists() for file in names.values())
        unfinished = any(entry.glob("blobs/*.incomplete"))
        return (
            complete
            and not unfinished
            and "config.json" in names
            and _has_tokenizer(snapshot)
            and _has_weights(snapshot, set(names))
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False  # whatever it is, it is not whole


def _has_weights(snapshot: Path, names: set[str]) -> bool:
    """Every file of one set of weights: by its index, or by what their names count to."""
    indices = [
        name for name in names if name.endswith((".safetensors.index.json", ".bin.index.json"))
    ]
    if indices:
        maps = (json.loads((snapshot / name).read_text())["weight_map"] for name in indices)
        return any(set(weights.values()) <= names for weights in maps if weights)
    parts = [name for name in names if _WEIGHTS.fullmatch(name)]
    numbered = [found for name in parts if (found := _PART.search(name))]
    counted = all(len(numbered) >= int(found["of"]) for found in numbered)
    return bool(parts) and counted


def _fetch_whisper(engine: Engine, model: str, log: Log) -> None:
    """Have openai-whisper put a model's weights where it looks for them, once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "whisper"
    file = cache / f"{canonical_name(model)}.pt"
    if file.exists():
        return
    _cache().mkdir(parents=True, exist_ok=True)
    with FileLock(_cache() / f"{file.name}.lock"):
        if file.exists():
            return
        log(
            f"fetching Whisper {model}, {whisper_dims(model).checkpoint_bytes / 1e6:.0f} MB: {file}"
        )
        command = [str(engine.interpreter), "-c", _FETCH, model, str(file)]
        environment = inherited(engine.interpreter) | {"CUDA_VISIBLE_DEVICES": ""}
        try:
            _run(command, environment, FETCHING_TIMEOUT_S)
        except EngineError as error:
            file.unlink(missing_ok=True)  # a part of a download
            raise EngineError(
                f"whisper.model: {model} cannot be fetched: {error}; put {file.name} into {cache}, "
                "or name a checkpoint's path"
            ) from error


def dummy_llm(engine: Engine, spec: DummyLlm, *, log: Log = lambda _line: None) -> Path:
    """A model folder (configuration and tokenizer) for vLLM's `--load-format dummy`.

    Made once; later calls find it. Raises: UsageError for an impossible shape, EngineError.
    """
    return _llm_folder(engine, spec.config(), log)


def dummy_whisper(
    engine: Engine, size: str, *, seed: int = 0, log: Log = lambda _line: None
) -> Path:
    """A Whisper checkpoint with seeded random weights at the official dimensions.

    Made once; later calls find it. Raises: UnsupportedShapeError for another name, EngineError.
    """
    name, dims = canonical_name(size), whisper_dims(size)
    target = _cache() / f"whisper-seed{seed}" / f"{name}.pt"
    what = f"random weights for Whisper {name}, {dims.checkpoint_bytes / 1e6:.0f} MB"
    options = ["whisper", "--config", json.dumps(asdict(dims)), "--seed", str(seed)]
    return _made(target, what, engine, options, log)


def _cache() -> Path:
    """Where dummy weights are kept between studies."""
    return study_home() / "weights"


def _llm_folder(engine: Engine, config: Mapping[str, Any], log: Log) -> Path:
    """A folder with this configuration and a tokenizer of ours."""
    text = json.dumps(config, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    target = _cache() / f"llm-{config.get('model_type', 'model')}-{digest}"
    return _made(target, "a model folder, 1 MB", engine, ["llm", "--config", text], log)


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


def _made(target: Path, what: str, engine: Engine, options: list[str], log: Log) -> Path:
    """`target`, made by the engine under a lock if it is not there; whole, or not at all."""
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f"{target.name}.lock")):
        if not target.exists():
            log(f"making {what}: {target}")
            _make(target, engine, options)
    return target


def _make(target: Path, engine: Engine, options: list[str]) -> None:
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=".making-"))
    draft = folder / target.name
    maker = [str(engine.interpreter), str(workers.DUMMY_WEIGHTS)]
    environment = inherited(engine.interpreter, offline=True) | {"CUDA_VISIBLE_DEVICES": ""}
    try:
        _run([*maker, *options, "--out", str(draft)], environment, MAKING_TIMEOUT_S)
        draft.replace(target)
    except (OSError, EngineError) as error:
        raise EngineError(f"engine {engine.name} cannot make {target}: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(command: list[str], environment: Mapping[str, str], timeout_s: float) -> None:
    """Raises: EngineError, with the last line that the command said."""
    try:
        done = subprocess.run(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(str(error)) from error
    if done.returncode:
        raise EngineError(done.stderr.strip().rpartition("\n")[2])


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
    names = ("tokenizer.json", "tokenizer.model", "vocab.json")
    return any((folder / name).is_file() for name in names)


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
