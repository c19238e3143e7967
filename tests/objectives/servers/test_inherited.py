"""What servers take over from whoever starts the study."""

from pathlib import Path

import pytest

from objectives.servers.inherited import PRIVATE_VARIABLES, inherited

PYTHON = Path("/engines/cuda/bin/python")


@pytest.mark.parametrize(
    "name",
    [
        "CUDA_MPS_PIPE_DIRECTORY",  # without it a client starts outside of the service
        "CUDA_MPS_LOG_DIRECTORY",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
        "CUDA_MODULE_LOADING",
        "CUDA_CACHE_PATH",
        "CC",
        "CXX",
        "CONDA_PREFIX",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "VLLM_USE_MODELSCOPE",
        "HUGGINGFACE_HUB_CACHE",
    ],
)
def test_what_a_site_sets_gets_through_also_offline(monkeypatch, name):
    monkeypatch.setenv(name, "as the site wants it")
    assert inherited(PYTHON)[name] == "as the site wants it"
    assert inherited(PYTHON, offline=True)[name] == "as the site wants it"


@pytest.mark.parametrize(
    "name", ["HF_HUB_DISABLE_XET", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_ENDPOINT", "MODELSCOPE_API_TOKEN"]
)
def test_how_the_hub_is_reached_gets_through_where_it_is_needed(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert inherited(PYTHON)[name] == "1"
    assert name not in inherited(PYTHON, offline=True)


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "VLLM_ATTENTION_BACKEND", "PYTHONPATH"])
def test_what_would_make_it_another_server_does_not(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert name not in inherited(PYTHON)


def test_what_may_be_secret_is_known_by_name():
    tokens = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN"}
    assert tokens | {"https_proxy", "HTTP_PROXY"} <= PRIVATE_VARIABLES
    assert "HF_TOKEN_PATH" not in PRIVATE_VARIABLES
