"""Our Whisper server speaks OpenAI's route, says no in its words, and ends when it is told to."""

import json
import re
import resource
import signal
import socket
import threading
from pathlib import Path

import pytest

from tests.objectives.engine_at_hand import real_engine
from tests.objectives.workers.whisper_process import KEY, clip, make_checkpoint, speech

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module")
def engine():
    return real_engine()


@pytest.fixture(scope="module")
def checkpoint(engine, tmp_path_factory):
    return make_checkpoint(engine, tmp_path_factory.mktemp("weights") / "small.pt")


@pytest.fixture(scope="module")
def server(engine, checkpoint, tmp_path_factory):
    """One server for all tests that only ask it something."""
    log = tmp_path_factory.mktemp("server") / "whisper.log"
    options = ("--model", str(checkpoint), "--device", "cpu", "--fixed-tokens", "5")
    with speech(engine, log, *options, "--threads", "1") as running:
        yield running


class TestAnAnswer:
    def test_is_json_with_the_text_the_length_and_the_tokens(self, server):
        answer = server.transcribe(clip(2.5), model="small")
        assert answer.status == 200
        assert isinstance(answer.body["text"], str)
        assert answer.body["duration"] == pytest.approx(2.5)
        assert answer.body["usage"]["output_tokens"] == 5

    def test_is_verbose_where_that_is_asked_for(self, server):
        answer = server.transcribe(clip(1), response_format="verbose_json", language="de")
        assert answer.body["language"] == "de"
        (segment,) = answer.body["segments"]
        assert (segment["start"], segment["end"]) == (0.0, 1.0)
        assert len(segment["tokens"]) == 5

    def test_is_plain_text_where_that_is_asked_for(self, server):
        answer = server.transcribe(clip(1), response_format="text")
        assert answer.headers["content-type"].startswith("text/plain")
        assert answer.text.strip() == server.transcribe(clip(1)).body["text"]

    def test_says_how_long_it_waited_and_how_long_it_computed(self, server):
        timing = server.transcribe(clip(1)).headers["server-timing"]
        assert re.fullmatch(r"queue;dur=\d+\.\d+, infer;dur=\d+\.\d+", timing)

    def test_of_a_longer_clip_is_decoded_window_by_window(self, server):
        answer = server.transcribe(clip(65), response_format="verbose_json")
        assert [segment["end"] for segment in answer.body["segments"]] == [30.0, 60.0, 65.0]
        assert answer.body["usage"]["output_tokens"] == 3 * 5

    @pytest.mark.parametrize("model", ["small", "whisper-1"])
    def test_is_given_for_the_models_own_name_and_for_the_one_that_clients_know(
        self, server, model
    ):
        assert server.transcribe(clip(1), model=model).status == 200


class TestARefusal:
    def test_names_the_model_that_is_here(self, server):
        answer = server.transcribe(clip(1), model="large")
        assert answer.status == 404
        assert "'large' is not here" in answer.body["error"]["message"]

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"response_format": "srt"}, "response_format"),
            ({"language": "klingon"}, "language"),
            ({"temperature": "hot"}, "temperature"),
        ],
    )
    def test_names_the_field_that_is_wrong(self, server, fields, param):
        answer = server.transcribe(clip(1), **fields)
        assert answer.status == 400
        assert answer.body["error"]["param"] == param
        assert answer.body["error"]["type"] == "invalid_request_error"

    def test_is_given_where_there_is_no_file(self, server):
        assert server.transcribe(None).body["error"]["param"] == "file"

    @pytest.mark.parametrize("sound", [b"not a sound", clip(1, rate=44_100)])
    def test_of_what_cannot_be_read_says_why(self, server, sound):
        answer = server.transcribe(sound)
        if answer.status == 200:
            pytest.skip("ffmpeg is installed here and reads it")
        assert answer.status == 400
        assert "ffmpeg" in answer.body["error"]["message"]

    @pytest.mark.parametrize("key", [None, "another key"])
    def test_is_given_to_strangers_but_health_is_open(self, server, key):
        assert server.transcribe(clip(1), key=key).status == 401
        assert server.get("/v1/models", key=key).status == 401
        assert server.get("/health", key=key).status == 200


def test_the_one_model_is_listed(server, checkpoint):
    (entry,) = server.get("/v1/models").body["data"]
    assert entry["id"] == str(checkpoint)


def test_requests_that_come_at_once_are_answered_one_after_the_other(server):
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(server.transcribe(clip(1))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [answer.status for answer in answers] == [200] * 4
    assert server.get("/health").body["waiting"] == 0


def test_asked_to_stop_it_ends_with_0(engine, checkpoint, tmp_path):
    options = ("--model", str(checkpoint), "--device", "cpu", "--fixed-tokens", "3")
    with speech(engine, tmp_path / "log", *options) as running:
        running.process.send_signal(signal.SIGTERM)
        assert running.end()[0] == 0


def test_asked_to_stop_while_it_computes_it_does_not_finish_first(engine, checkpoint, tmp_path):
    options = ("--model", str(checkpoint), "--device", "cpu", "--fixed-tokens", "224")
    with speech(engine, tmp_path / "log", *options) as running:
        asking = threading.Thread(target=ask_in_vain, args=(running,))
        asking.start()
        while not running.get("/health").body["waiting"]:
            pass
        running.process.send_signal(signal.SIGTERM)
        assert running.end()[0] == 0
        asking.join(30)


def ask_in_vain(running) -> None:
    """A request of ten minutes of sound, which nobody will answer."""
    try:
        running.transcribe(clip(600))
    except OSError:
        return


def test_asked_to_stop_before_it_is_ready_it_ends_too(engine, checkpoint, tmp_path):
    options = ("--model", str(checkpoint), "--device", "cpu")
    with speech(engine, tmp_path / "log", *options, ready=False) as running:
        running.process.send_signal(signal.SIGTERM)
        assert running.end()[0] in (0, -signal.SIGTERM)


def test_a_port_that_somebody_else_has_is_said_in_one_line(engine, checkpoint, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        options = ("--model", str(checkpoint), "--device", "cpu")
        with speech(engine, tmp_path / "log", *options, ready=False, port=port) as running:
            code, said = running.end()
    assert code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in said and "Address already in use" in said
    assert "Traceback" not in said


def test_out_of_memory_under_load_is_a_typed_answer_and_counted(engine, checkpoint, tmp_path):
    options = ("--model", str(checkpoint), "--device", "cpu", "--fixed-tokens", "3")
    with speech(engine, tmp_path / "log", *options) as running:
        assert running.transcribe(clip(2)).status == 200
        most = size_bytes(running.process.pid) + 64 * 2**20  # enough to receive, not to decode
        resource.prlimit(running.process.pid, resource.RLIMIT_AS, (most, most))
        answer = running.transcribe(clip(1200))  # 38 MB of sound, 77 MB of samples
        health = running.get("/health").body
    assert answer.status == 507
    assert answer.body["error"]["type"] == "out_of_memory"
    assert answer.body["error"]["code"] == "cpu_out_of_memory"
    assert health["oom_events"] == 1


def size_bytes(pid: int) -> int:
    """Of a process' address space."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[0]
    return int(pages) * resource.getpagesize()


@pytest.mark.parametrize(
    "wrong",
    [
        ("--device", "tpu"),
        ("--device", "cpu", "--fixed-tokens", "500"),
    ],
)
def test_bad_usage_ends_with_2(engine, tmp_path, wrong):
    with speech(engine, tmp_path / "log", "--model", "tiny", *wrong, ready=False) as running:
        code, said = running.end()
    assert code == 2
    assert wrong[-2] in said


def test_the_key_is_in_no_answer_and_in_no_log(server):
    assert KEY not in json.dumps(server.get("/health").body)
    assert KEY not in server.log.read_text()
