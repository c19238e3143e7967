"""A line of a log without what was put before it, and the lines of any file."""

from __future__ import annotations

import io
import json

import pytest

from objectives.vllm.log_lines import EXCEPTION, lines_of, process_of, read_line
from tests.objectives.diagnosis.failing_logs import PREFIXES

VLLM = "(EngineCore_DP0 pid=7) ERROR 07-22 20:11:15 [core.py:500] ValueError: too much"


@pytest.mark.parametrize(("name", "form"), PREFIXES, ids=[case[0] for case in PREFIXES])
def test_prefixes_come_off_and_level_and_process_are_kept(name, form):
    line = read_line(form.format(VLLM))
    assert line.text.startswith("ValueError: too much")
    assert line.level == "ERROR"
    assert line.process == "EngineCore_DP0 pid=7"


@pytest.mark.parametrize(
    ("raw", "level", "text"),
    [
        ("INFO 04-05 23:43:02 api_server.py:712] hello", "INFO", "hello"),
        ("INFO:     Started server process [1]", "INFO", "Started server process [1]"),
        ("CRITICAL:root:gone", "CRITICAL", "gone"),
        ("[rank3]:[E716 19:47:26.3 shim_common.cpp:523] bad", "ERROR", "bad"),
        ("[2026-02-09 12:40:16] WARNING configuration_utils.py:697: odd", "WARNING", "odd"),
        ("/a/b.py:279: UserWarning: leaked", "WARNING", "/a/b.py:279: UserWarning: leaked"),
        ("[12345.678901] oom_reaper: reaped process 1", None, "oom_reaper: reaped process 1"),
        ("Mar 01 10:00:00 box kernel: Out of memory: x", None, "Out of memory: x"),
        ("KeyError: 'x'", None, "KeyError: 'x'"),
    ],
)
def test_each_house_has_its_own_form(raw, level, text):
    line = read_line(raw)
    assert (line.level, line.text) == (level, text)


def test_json_lines_give_their_message_and_level():
    vllm = json.dumps({"message": "KV cache", "levelname": "WARNING", "process": 4})
    assert (read_line(vllm).text, read_line(vllm).level) == ("KV cache", "WARNING")
    assert read_line('{"no": "message"}').text == '{"no": "message"}'
    assert read_line('{"log": "cut').text == '{"log": "cut'


def test_a_script_s_info_makes_no_error_harmless():
    assert read_line("2026-03-01 10:00:00,1 - run - INFO - KeyError: 7").level is None
    assert read_line("INFO 07-22 20:11:15 [x.py:1] all is well").level == "INFO"


def test_the_process_is_found_without_reading_the_line():
    assert process_of("(APIServer pid=1) (EngineCore_DP0 pid=68) ERROR ") == "EngineCore_DP0 pid=68"
    assert process_of("[rank2]:   ") == "[rank2]"
    assert process_of("") == ""


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory.", "torch.OutOfMemoryError"),
        ("AssertionError", "AssertionError"),
        ("Exception: WorkerProc initialization failed", "Exception"),
        (
            "ray.exceptions.RayTaskError(ValueError): ray::W",
            "ray.exceptions.RayTaskError(ValueError)",
        ),
        ("KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_the_last_line_of_a_traceback_is_known(text, kind):
    assert EXCEPTION.match(text)["type"] == kind
    assert EXCEPTION.match("An error occurred: nothing") is None


class TestLinesOfAnyFile:
    def of(self, content):
        return list(lines_of(io.BytesIO(content)))

    def test_plain(self):
        assert self.of(b"a\nb\r\nc") == ["a\n", "b\r\n", "c"]
        assert self.of(b"") == []

    def test_a_bar_that_rewrites_its_line_is_one_line(self):
        assert self.of(b"10%\r20%\nx\n") == ["10%\r20%\n", "x\n"]

    def test_a_byte_order_mark_is_no_part_of_the_first_line(self):
        assert self.of(b"\xef\xbb\xbfa\n") == ["a\n"]

    @pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
    def test_two_bytes_a_character(self, mark):
        encoding = "utf-16-le" if mark == b"\xff\xfe" else "utf-16-be"
        assert self.of(mark + "a\nbö\n".encode(encoding)) == ["a", "bö"]

    def test_what_cannot_be_decoded_is_replaced(self):
        assert self.of(b"\x80 a\n") == ["\ufffd a\n"]

    def test_of_a_line_without_end_the_beginning(self):
        first, second = self.of(b"x" * 3_000_000 + b"\nnext\n")
        assert len(first) == 1 << 16
        assert second == "next\n"
