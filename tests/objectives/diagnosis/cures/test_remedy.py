"""Whose line it is, and what is said where no cure knows the line."""

import pytest

from objectives.causes import remedy_of
from objectives.diagnosis.cures.remedy import kinds_of, remedy_for, server_of


@pytest.mark.parametrize(
    ("line", "server"),
    [
        ('File "/x/vllm/v1/engine/core.py", line 7, in run', "vllm"),
        ("INFO 03-01 10:00:00 [x.py:1] Starting to load model openai/whisper-large-v3", "vllm"),
        ('File "/x/vllm/lib/python3.11/site-packages/faster_whisper/transcribe.py"', "faster"),
        ("RuntimeError: CUDA failed with error out of memory", "faster"),
        ('File "/x/site-packages/whisper/transcribe.py", line 7, in transcribe', "whisper"),
        ("hello", ""),
    ],
)
def test_a_line_tells_whose_it_is(line, server):
    assert server_of(line, "") == server


def test_what_is_known_lasts_and_the_more_special_outdoes_it():
    assert server_of("hello", "whisper") == "whisper"
    assert server_of("faster_whisper/x.py", "whisper") == "faster"
    assert server_of("whisper/x.py", "faster") == "faster"
    assert server_of("whisper/x.py", "vllm") == "vllm"
    assert kinds_of("faster") == ("faster-whisper", "whisper")
    assert kinds_of("") == ()


def test_what_no_cure_knows_has_the_remedy_of_its_cause():
    assert remedy_for("bad_argument", "zebra", {}) == remedy_of("bad_argument", {})


def test_an_option_that_only_the_line_names_is_named():
    line = "RuntimeError: leave --enable-zebra unset, or set VLLM_LION=1 or `pip install zebra`"
    remedy = remedy_for("engine_dead_other", line, {})
    assert remedy.endswith("names `--enable-zebra`, `VLLM_LION=1`, `pip install zebra`.")
    assert remedy_for("bad_argument", "--help", {}) == remedy_of("bad_argument", {})


def test_an_out_of_memory_gives_its_own_remedy_and_not_pytorch_s_advice():
    line = "CUDA out of memory. Try PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
    assert remedy_for("cuda_oom_load", line, {}, "whisper") == remedy_of(
        "cuda_oom_load", {}, "whisper"
    )


def test_an_exception_without_words_is_told_by_its_frame():
    raised = {"exception": "AssertionError", "function": "unify", "place": "/x.py:7"}
    assert "AssertionError says no more" in remedy_for("engine_dead_other", "x", raised)
    assert "in unify (/x.py:7)" in remedy_for("engine_dead_other", "x", raised)


def test_a_silent_end_is_told_by_what_it_was_at():
    remedy = remedy_for("engine_dead_other", "x", {"phase": "loading the weights"})
    assert "stopped without a word at loading the weights" in remedy
