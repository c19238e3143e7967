"""A configuration for a machine whose engines are fakes, and whose node is fixed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.fakes.engine import write_engine
from tests.fakes.fixed_node import TOTAL_BYTES
from tests.serving_bench import BYTES_PER_TOKEN, MODEL, NON_KV_BYTES

CONFIG = {
    "name": "fakes",
    "device": "cpu",
    "whisper": {"args": {"dtype": "float32"}},
    "search_space": {
        "util": {
            "bind": "vllm.args.gpu-memory-utilization",
            "choices": [0.10, 0.15],
            "bounds": [0.05, 0.5],
        },
        "size": {"bind": "whisper.model", "choices": ["tiny"]},
    },
    "baseline": {"util": 0.15, "size": "tiny"},
    "load": {
        "llm": {"rate_rps": 40, "prompt_tokens": 16, "output_tokens": 4},
        "stt": {"rate_rps": 20, "clip_s": [1]},
        "warmup_s": 0.1,
        "measure_s": 0.3,
        "drain_s": 2,
        "quantile": "p50",
    },
    "headroom_gib": 0,
}


def environment(folder: Path) -> dict[str, str]:
    """Where engines and locks are, so that nothing of the real machine is used."""
    return {
        "GPU_ALLOCATION_STUDY_HOME": str(folder / "home"),
        "GPU_ALLOCATION_STUDY_LOCKS": str(folder / "locks"),
    }


def write_box(folder: Path, *, knobs: Mapping[str, str] | None = None, **changes: Any) -> Path:
    """Write model, engine and configuration.

    Args:
        folder: Where.
        knobs: Of the fake servers.
        changes: Top-level keys of the configuration.

    Returns:
        The configuration.
    """
    model = folder / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps(MODEL))
    known = {
        "FAKE_VLLM_DEVICE_TOTAL_BYTES": str(TOTAL_BYTES),
        "FAKE_VLLM_NON_KV_BYTES": str(NON_KV_BYTES),
        "FAKE_VLLM_BYTES_PER_TOKEN": str(BYTES_PER_TOKEN),
        "FAKE_VLLM_STYLE": "cpu-0.32",
        **(knobs or {}),
    }
    engine = write_engine(folder / "engine", knobs=known)
    content = {
        **CONFIG,
        "engines": {"vllm": str(engine), "whisper": str(engine)},
        "vllm": {
            "model": str(model),
            "args": {"max-model-len": 1024, "max-num-seqs": 64},
            "start_timeout_s": 30,
        },
        **changes,
    }
    path = folder / "box.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
