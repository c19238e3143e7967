"""pip's settings in uv's words: mirrors, folders of wheels, proxies."""

import os

import pytest

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


def test_without_pip_nothing_is_known(monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    assert pip_settings() == {}
