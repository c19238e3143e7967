"""The key of a trial's servers, and what of a launch may be stored."""

import re
from dataclasses import asdict, replace

import pytest

from objectives.evidence import Invocation
from objectives.servers.server import Launch
from objectives.trial.launch import new_key, shown
from tests.kinds import VLLM, WHISPER
from tests.objectives.kinds.test_kind import launched

KEY = "k3y-of-this-trial"


def test_every_key_is_new_and_can_stand_in_a_header():
    keys = {new_key() for _ in range(50)}
    assert len(keys) == 50
    assert all(re.fullmatch(r"[\w-]{32,}", key, re.ASCII) for key in keys)


@pytest.mark.parametrize(
    "kind", [replace(VLLM, is_local=False), WHISPER], ids=lambda kind: kind.name
)
def test_no_key_no_token_and_no_proxy_is_stored(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    proxies = ("http_proxy", "https_proxy", "all_proxy")
    private = ("HF_TOKEN", *proxies, *map(str.upper, proxies))
    for name in private:
        monkeypatch.setenv(name, "s3cret")
    started = launched(kind, tmp_path, key=KEY)
    assert {started.env[name] for name in private} == {"s3cret"}
    stored = str(asdict(shown(started, inherited={})))
    assert "DO_NOT_TRACK" in stored
    assert "s3cret" not in stored
    assert KEY not in stored


def test_what_is_stored_is_the_command_line_and_what_makes_a_difference(tmp_path):
    launch = Launch(
        name="vllm",
        argv=("python", "-m", "server"),
        env={
            "PATH": "/engines/big/bin",
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
            "VLLM_CACHE_ROOT": "/caches/vllm",
            "TRITON_CACHE_DIR": "/caches/triton",
            "LANG": "C.UTF-8",
            "CUDA_VISIBLE_DEVICES": "GPU-1",
            "OMP_NUM_THREADS": "4",
            "VLLM_API_KEY": KEY,
        },
        log=tmp_path / "vllm.log",
    )
    assert shown(launch, {"LANG": "C.UTF-8", "OMP_NUM_THREADS": "8"}) == Invocation(
        argv=("python", "-m", "server"),
        env={"CUDA_VISIBLE_DEVICES": "GPU-1", "OMP_NUM_THREADS": "4"},
    )
