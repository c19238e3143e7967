"""Where the hub's cache keeps a model."""

import json
import os

import pytest

from objectives.models.hub import hub_cache, hub_folder, is_hub_name

NAME = "Qwen/Qwen2.5-7B-Instruct-AWQ"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    for variable in ("HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def snapshot(cache, commit, *, age=0):
    folder = cache / "models--Qwen--Qwen2.5-7B-Instruct-AWQ" / "snapshots" / commit
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({}))
    os.utime(folder / "config.json", (1e9 - age, 1e9 - age))
    return folder


def refer(cache, commit):
    refs = cache / "models--Qwen--Qwen2.5-7B-Instruct-AWQ" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(commit)


def test_the_snapshot_that_main_names_is_taken(cache):
    named, _ = snapshot(cache, "aaa", age=9), snapshot(cache, "bbb")
    refer(cache, "aaa\n")
    assert hub_folder(NAME) == named


def test_without_a_usable_reference_the_youngest_is_taken(cache):
    _, young = snapshot(cache, "aaa", age=9), snapshot(cache, "bbb")
    assert hub_folder(NAME) == young
    refer(cache, "gone")
    assert hub_folder(NAME) == young


def test_what_was_never_downloaded_is_none(cache):
    assert hub_folder(NAME) is None
    (cache / "models--Qwen--Qwen2.5-7B-Instruct-AWQ" / "snapshots" / "ccc").mkdir(parents=True)
    assert hub_folder(NAME) is None


@pytest.mark.parametrize("name", ["../secrets", "/etc", "a/b/c", "a b", "", "..", "."])
def test_what_cannot_be_a_name_is_not_looked_for(cache, name):
    assert not is_hub_name(name)
    assert hub_folder(name) is None


@pytest.mark.parametrize("name", [NAME, "gpt2"])
def test_one_word_or_two_make_a_name(name):
    assert is_hub_name(name)


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HUGGINGFACE_HUB_CACHE": "/c", "HF_HOME": "/b"}, "/c"),
        ({"HF_HOME": "/b"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/d"}, "/d/huggingface/hub"),
        ({"HOME": "/e"}, "/e/.cache/huggingface/hub"),
    ],
)
def test_the_cache_is_where_the_hubs_own_library_has_it(cache, monkeypatch, variables, found):
    monkeypatch.delenv("HF_HUB_CACHE")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(hub_cache()) == found
