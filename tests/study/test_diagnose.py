"""`python -m study.diagnose`: what a person and a script get to see."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys

import pytest

from objectives.causes import CAUSES
from objectives.constraints import CONSTRAINTS
from study.diagnose import causes_page, main
from tests.objectives.diagnosis.failing_logs import (
    LOADED,
    OOM,
    READY,
    START,
    TOO_SMALL,
    engine_died,
    failed,
)
from tests.paths import ROOT


@pytest.fixture
def log(tmp_path):
    def write(content):
        path = tmp_path / "vllm.log"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def run(*argv, stdin=b""):
    return subprocess.run(
        (sys.executable, "-m", "study.diagnose", *argv),
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        check=False,
    )


def test_a_person_sees_cause_line_figures_and_remedy(log, capsys):
    assert main([log(failed(TOO_SMALL))]) == 0
    cause, line, figures, remedy = capsys.readouterr().out.splitlines()
    assert cause.split() == ["cause", "kv_cache_too_small"]
    assert line.startswith("line 7")
    assert "max seq len (32768)" in line
    assert figures.split(maxsplit=1)[1] == (
        "max model len 32768, needed 1.75 GiB, available 378.88 MiB, estimated max model len 6976"
    )
    assert "--max-model-len to 6976" in remedy


def test_a_script_gets_one_document(log, capsys):
    assert main(["--json", log(failed(START))]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"cause", "evidence", "line", "remedy", "figures"}
    assert document["cause"] == "gpu_memory_insufficient_at_start"
    assert document["evidence"].endswith(START)
    assert document["line"] == 7
    assert document["figures"]["free_bytes"] == round(4.1 * (1 << 30))


def test_every_cause_is_printed_without_a_log_and_else_a_log_is_asked_for(capsys):
    assert main(["--causes"]) == 0
    assert capsys.readouterr().out.startswith("# Constraints and causes\n")
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "required: LOG" in capsys.readouterr().err


def test_ok_is_a_cause_and_unknown_is_none(log):
    assert main([log(READY)]) == 0
    assert main([log("hello\n")]) == 1


def test_it_reads_from_a_pipe():
    done = run("--json", "-", stdin=failed(START).encode())
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["cause"] == "gpu_memory_insufficient_at_start"


def test_it_reads_gzip_from_a_file_and_from_a_pipe(log, capsys):
    packed = gzip.compress(failed(START).encode())
    assert main([log(packed)]) == 0
    assert "gpu_memory_insufficient_at_start" in capsys.readouterr().out
    assert run("-", stdin=packed).returncode == 0


def test_broken_encodings_are_tolerated(log, capsys):
    mixed = b"\xff\xfe\x00 \xc3(\n".replace(b"\xff\xfe", b"\x80\x81") + failed(OOM).encode()
    assert main([log(mixed)]) == 0
    wide = "\n".join(["", failed(START)]).encode("utf-16")
    assert main([log(wide)]) == 0
    assert capsys.readouterr().out.count("cause") == 2


def test_numbers_of_lines_are_an_editor_s(log, capsys):
    bar = b"Loading shards:  10%\rLoading shards: 100%\n"
    main(["--json", log(bar + LOADED.encode() + b"\r\n" + OOM.encode() + b"\r\n")])
    assert json.loads(capsys.readouterr().out)["line"] == 3


def test_how_the_server_ended_counts(log, capsys):
    path = log(f"{LOADED}\n")
    assert main(["--json", "--returncode", "-9", path]) == 0
    assert json.loads(capsys.readouterr().out)["cause"] == "engine_dead_other"
    assert main(["--json", "--returncode", "-15", "--asked", path]) == 0
    assert json.loads(capsys.readouterr().out)["cause"] == "ok"


@pytest.mark.parametrize("kind", ["missing", "a folder", "broken gzip"])
def test_what_cannot_be_read_is_said_in_one_line(kind, tmp_path, log, capsys):
    paths = {
        "missing": str(tmp_path / "none.log"),
        "a folder": str(tmp_path),
        "broken gzip": log(gzip.compress(engine_died(error=OOM).encode() * 50)[:-40]),
    }
    assert main([paths[kind]]) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.count("\n") == 1
    assert paths[kind] in seen.err


def test_a_reader_who_leaves_early_sees_no_traceback(log):
    command = f"{sys.executable} -m study.diagnose {log(failed(START))} | true"
    done = subprocess.run(
        command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


def test_the_help_has_an_example():
    done = run("--help")
    assert done.returncode == 0
    assert b"docker logs" in done.stdout


def test_bad_usage_ends_with_2():
    assert run("--no-such-option", "x").returncode == 2


SECTIONS = {"candidate", "bench", "machine", "nobody"}


def rows(text):
    return {
        name: rest.split(" | ") for name, rest in re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.M)
    }


def test_every_constraint_is_there_in_order_with_unit_and_meaning():
    told = rows(causes_page().partition("## Whose fault it was")[0])
    assert tuple(told) == CONSTRAINTS
    assert all(unit and meaning for unit, meaning in told.values())


@pytest.mark.parametrize("fault", sorted(SECTIONS))
def test_every_cause_stands_below_whose_fault_it_is(fault):
    section = causes_page().partition(f"### The {fault}'s fault\n")[2]
    section = section or causes_page().partition("### Nobody's fault\n")[2]
    told = rows(section.partition("\n### ")[0])
    assert set(told) == {name for name, cause in CAUSES.items() if cause.fault == fault}


@pytest.mark.parametrize("cause", CAUSES.values(), ids=lambda cause: cause.name)
def test_a_row_names_meaning_every_remedy_constraint_and_who_tells(cause):
    *constraint, meaning, remedies, told_by = rows(causes_page())[cause.name]
    assert constraint == ([f"`{cause.constraint}`"] if cause.constraint else [])
    assert meaning == cause.meaning
    assert len(remedies.split("<br>")) == 1 + len(cause.remedies)
    assert all(f"<br>{kind}: {words}" in remedies for kind, words in cause.remedies.items())
    assert told_by.split(", ") == list(cause.told_by)


def test_no_remedy_shows_a_place_for_a_figure():
    assert not re.search(r"[{}]", causes_page())
