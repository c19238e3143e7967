"""pip's settings in uv's words: mirrors, folders of wheels, proxies."""

import os
import shutil
import subprocess
import sys

import pytest
from uv import find_uv_bin

from study.engines.pip_settings import pip_settings, read_settings, uv_options, uv_variables

LISTED = """\
:env:.find-links='/mnt/wheels'
global.extra-index-url='https://one/simple\\nhttps://two/simple'
global.index-url='https://mirror/simple'
global.no-index='true'
install.index-url='https://user:it\\'s@mirror/simple'
wheel.no-index='false'
"""


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    """Neither pip nor uv was told anything."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_", "SSL_CERT", "ALL_PROXY")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")


def test_the_nearer_section_has_the_last_word():
    assert read_settings(LISTED.splitlines()) == {
        "extra-index-url": "https://one/simple\nhttps://two/simple",
        "find-links": "/mnt/wheels",
        "index-url": "https://user:it's@mirror/simple",
        "no-index": "true",
    }


def test_what_this_pip_is_told_is_read(tmp_path, monkeypatch):
    told = tmp_path / "pip.conf"
    told.write_text("[global]\nindex-url = https://mirror/simple\nfind-links =\n  /a\n  /b\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(told))
    monkeypatch.setenv("PIP_INDEX_URL", "https://nearer/simple")
    found = pip_settings()
    assert found["index-url"] == "https://nearer/simple"
    variables = uv_variables(found)
    assert variables["UV_DEFAULT_INDEX"] == "https://nearer/simple"
    assert variables["UV_FIND_LINKS"] == "/a,/b"
    assert variables["UV_INDEX_STRATEGY"] == "unsafe-best-match"


def test_lists_are_separated_as_uv_reads_them():
    said = {"extra-index-url": "https://one\nhttps://two", "trusted-host": "one two"}
    variables = uv_variables(said)
    assert variables["UV_INDEX"] == "https://one https://two"
    assert variables["UV_INSECURE_HOST"] == "one two"


def test_what_was_set_for_uv_itself_stands(monkeypatch):
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://uv")
    monkeypatch.setenv("UV_INDEX_STRATEGY", "first-index")
    assert uv_variables({"index-url": "https://pip"}) == {}


@pytest.mark.parametrize(("said", "options"), [("1", ["--no-index"]), ("0", []), ("", [])])
def test_a_switch_is_passed_on_where_it_is_on(said, options):
    assert uv_options({"no-index": said}) == options


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ({"no-binary": "numba,tiktoken"}, ["--no-binary", "numba", "--no-binary", "tiktoken"]),
        ({"only-binary": ":all:"}, ["--only-binary", ":all:"]),
        ({"only-binary": "numba\ntorch"}, ["--only-binary", "numba", "--only-binary", "torch"]),
        ({"no-binary": ""}, []),
    ],
)
def test_what_may_be_built_or_must_be_is_the_same_for_uv(said, options):
    assert uv_options(said) == options


def test_uv_itself_takes_these_words():
    """Of an empty list of packages nothing is fetched, but every option is read."""
    options = uv_options({"no-binary": "a,b", "only-binary": ":none:", "no-index": "1"})
    said = {"pre": "1", "keyring-provider": "subprocess", "uploaded-prior-to": "2026-01-01"}
    argv = [find_uv_bin(), "pip", "install", *options, "--python", sys.executable]
    done = subprocess.run(
        [*argv, "--dry-run", "--requirement", "/dev/null"],
        env=os.environ | uv_variables(said | {"retries": "2"}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("said", "variable", "value"),
    [
        ({"pre": "true"}, "UV_PRERELEASE", "allow"),
        ({"pre": "false"}, "UV_PRERELEASE", None),
        ({"keyring-provider": "subprocess"}, "UV_KEYRING_PROVIDER", "subprocess"),
        ({"keyring-provider": "disabled"}, "UV_KEYRING_PROVIDER", "disabled"),
        ({"retries": "7"}, "UV_HTTP_RETRIES", "7"),
        ({"build-constraint": "/etc/c.txt"}, "UV_BUILD_CONSTRAINT", "/etc/c.txt"),
    ],
)
def test_what_uv_has_a_variable_for_is_told_by_it(said, variable, value):
    assert uv_variables(said).get(variable) == value


@pytest.mark.parametrize(("there", "value"), [("/usr/bin/keyring", "subprocess"), (None, None)])
def test_a_keyring_that_pip_would_import_is_asked_where_it_has_a_command(monkeypatch, there, value):
    monkeypatch.setattr(shutil, "which", lambda name: there if name == "keyring" else None)
    for provider in ("import", "auto"):
        assert uv_variables({"keyring-provider": provider}).get("UV_KEYRING_PROVIDER") == value


def test_without_pip_nothing_is_known(monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    assert pip_settings() == {}
