"""One request over HTTP: what is made beforehand, and what is read from a header.

What happens on the wire is tested in test_drive.py, against servers.
"""

import json
from email import message_from_bytes

import pytest

from objectives.load.audio import speech_like
from objectives.load.exchange import Target, call, server_timing_s
from objectives.load.profile import LlmRequest, SttRequest

TARGET = Target(url="http://127.0.0.1:8000/", model="judge", api_key="secret")
PROMPT = LlmRequest(due_s=1.5, prompt=(7, 8, 9), output_tokens=5)
CLIP = SttRequest(due_s=0.5, clip=speech_like(0.2, 1))


def test_a_prompt_asks_for_exactly_so_many_tokens_as_a_stream():
    made = call(PROMPT, "measure", TARGET)
    assert made.url == "http://127.0.0.1:8000/v1/completions"
    assert json.loads(made.body) == {
        "model": "judge",
        "prompt": [7, 8, 9],
        "max_tokens": 5,
        "min_tokens": 5,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_clip_is_a_form_that_others_can_read():
    made = call(CLIP, "measure", TARGET)
    assert made.url == "http://127.0.0.1:8000/v1/audio/transcriptions"
    head = f"Content-Type: {made.headers['Content-Type']}\r\n\r\n".encode()
    parts = message_from_bytes(head + made.body).get_payload()
    names = [part.get_param("name", header="content-disposition") for part in parts]
    assert names == ["model", "response_format", "file"]
    assert [part.get_payload() for part in parts[:2]] == ["judge", "json"]
    assert parts[2].get_filename() == CLIP.clip.name
    assert CLIP.clip.wav in made.body


def test_the_key_is_sent_but_never_shown():
    made = call(PROMPT, "measure", TARGET)
    assert made.headers["Authorization"] == "Bearer secret"
    assert "secret" not in repr(TARGET)
    assert Target(url="http://h", model="m").headers == {}


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("queue;dur=1.50, infer;dur=20", {"queue": 0.0015, "infer": 0.02}),
        ('infer;desc="a b" ; dur=3', {}),
        ("infer ; dur=3", {"infer": 0.003}),
        ("", {}),
        ("cache", {}),
    ],
)
def test_durations_of_a_server_timing_header(header, seconds):
    assert server_timing_s(header) == pytest.approx(seconds)


def test_the_first_reason_of_a_failure_stands_in_one_short_line():
    sample = call(PROMPT, "measure", TARGET).sample
    sample.done_s = 3.0
    sample.fail("http", "first\nline  " + "x" * 1000, 500)
    sample.fail("timeout", "second")
    failure = sample.failure
    assert (failure.kind, failure.status) == ("http", 500)
    assert failure.message.startswith("first line x")
    assert len(failure.message) == 300
    assert sample.done_s is None, "a failed request is never done"


def test_a_request_has_a_sample_of_its_server():
    llm = call(PROMPT, "warmup", TARGET).sample
    assert (llm.server, llm.phase, llm.due_s) == ("llm", "warmup", 1.5)
    assert (llm.prompt_tokens, llm.asked_tokens, llm.audio_s) == (3, 5, None)
    stt = call(CLIP, "measure", TARGET).sample
    assert (stt.server, stt.prompt_tokens, stt.audio_s) == ("stt", None, 0.2)
