"""The tuned servers of a bench, from flat words: what tests change is one word each."""

from dataclasses import replace
from pathlib import Path

from objectives.candidate import ServerSettings
from objectives.kinds.vllm_kind import VllmKind, VllmMemory
from objectives.kinds.whisper_kind import WhisperKind, WhisperMemory
from objectives.servers.engine import Engine

FLAT = {
    "vllm_engine": ("vllm", "engine"),
    "vllm": ("vllm", "settings"),
    "vllm_start_s": ("vllm", "start_s"),
    "llm_path": ("vllm", "path"),
    "llm_is_dummy": ("vllm", "is_dummy"),
    "llm_is_local": ("vllm", "is_local"),
    "shape": ("memory", "shape"),
    "shape_missing": ("memory", "shape_missing"),
    "llm_weights_bytes": ("memory", "weights_bytes"),
    "vllm_version": ("memory", "version"),
    "whisper_engine": ("whisper", "engine"),
    "whisper": ("whisper", "settings"),
    "whisper_start_s": ("whisper", "start_s"),
    "whisper_paths": ("whisper", "paths"),
    "whisper_is_dummy": ("whisper", "is_dummy"),
    "fixed_tokens": ("whisper", "fixed_tokens"),
}
"""A test's word for a change, and where it goes."""


START_ORDER = ("neighbours", "whisper", "vllm")


def engine(name):
    return Engine(
        name=name,
        interpreter=Path(f"/engines/{name}/bin/python"),
        cache=Path(f"/caches/{name}"),
        python_version="3.12.1",
    )


VLLM = VllmKind(
    name="vllm",
    engine=engine("big"),
    settings=ServerSettings(model="qwen", device="cpu", args={"max-num-seqs": 64}),
    memory=VllmMemory(model="qwen", shape=None),
    start_s=600.0,
    path="/models/qwen",
    is_local=True,
)
WHISPER = WhisperKind(
    name="whisper",
    engine=engine("small"),
    settings=ServerSettings(model="tiny", device="cpu", args={"dtype": "float32"}),
    memory=WhisperMemory(),
    start_s=180.0,
    paths={},
)


def servers(**flat):
    """A vLLM and a Whisper that nobody can launch, with these changes."""
    changes = {"vllm": {}, "memory": {}, "whisper": {}}
    for word, value in flat.items():
        where, field = FLAT[word]
        changes[where][field] = value
    memory = replace(VLLM.memory, **changes["memory"])
    vllm = replace(VLLM, memory=memory, **changes["vllm"])
    return {"vllm": vllm, "whisper": replace(WHISPER, **changes["whisper"])}


def with_servers(changes):
    """A bench's changes, with those that concern its servers as servers."""
    flat = {word: value for word, value in changes.items() if word in FLAT}
    rest = {word: value for word, value in changes.items() if word not in FLAT}
    return {"servers": servers(**flat), "start_order": START_ORDER, **rest}
