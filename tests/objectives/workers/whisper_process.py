"""Our Whisper server as a real process, with a model so small that a decode takes milliseconds."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import wave
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from objectives import workers
from objectives.servers.engine import Engine
from objectives.servers.ports import Port

WEIGHTS_WORKER = workers.DUMMY_WEIGHTS
KEY = "a key of this test"
SMALLEST = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 64,
    "n_audio_head": 2,
    "n_audio_layer": 1,
    "n_vocab": 51865,
    "n_text_ctx": 448,
    "n_text_state": 64,
    "n_text_head": 2,
    "n_text_layer": 1,
}
"""Not a published model: the smallest that openai-whisper can compute."""


def make_checkpoint(engine: Engine, file: Path, *, seed: int = 0) -> Path:
    """Weights of the smallest model."""
    dims = json.dumps(SMALLEST)
    argv = [str(engine.interpreter), str(WEIGHTS_WORKER), "whisper", "--config", dims]
    subprocess.run(
        [*argv, "--seed", str(seed), "--out", str(file)],
        env=engine.environment("cpu", offline=True),
        check=True,
        timeout=120,
    )
    return file


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def body(self) -> dict:
        return json.loads(self.text)


@dataclass(frozen=True)
class Speech:
    """A worker that was started: perhaps it is up, perhaps it has ended."""

    process: subprocess.Popen
    port: int
    log: Path

    def get(self, path: str, *, key: str | None = KEY) -> Answer:
        return self._send(path, None, {}, key)

    def transcribe(self, sound: bytes | None, *, key: str | None = KEY, **fields: str) -> Answer:
        boundary = "a-boundary"
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        ]
        body = "".join(parts).encode()
        if sound is not None:
            body += (
                f"--{boundary}\r\nContent-Disposition: form-data; "
                'name="file"; filename="clip.wav"\r\n\r\n'
            ).encode()
            body += sound + b"\r\n"
        body += f"--{boundary}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        return self._send("/v1/audio/transcriptions", body, kind, key)

    def _send(
        self, path: str, body: bytes | None, headers: Mapping[str, str], key: str | None
    ) -> Answer:
        known = {} if key is None else {"Authorization": f"Bearer {key}"}
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, body, {**headers, **known})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read().decode())

    def is_up(self) -> bool:
        with socket.socket() as knock:
            return knock.connect_ex(("127.0.0.1", self.port)) == 0

    def wait_until_up(self) -> None:
        while not self.is_up():
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def end(self) -> tuple[int, str]:
        """Wait until it has ended by itself: exit code, and all that it said."""
        return self.process.wait(120), self.log.read_text()


@contextmanager
def speech(
    engine: Engine, log: Path, *options: str, ready: bool = True, port: int | None = None
) -> Iterator[Speech]:
    """A worker, gone at the end of the block."""
    with Port() as held, log.open("wb") as out:
        number = held.number if port is None else port
        process = subprocess.Popen(
            [*engine.whisper_command(), "--port", str(number), *options],
            env={
                **engine.environment("cpu", role="whisper", offline=True),
                "CUDA_VISIBLE_DEVICES": "",
                "WHISPER_API_KEY": KEY,
            },
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        started = Speech(process, number, log)
        try:
            if ready:
                started.wait_until_up()
            yield started
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def clip(length_s: float, *, rate: int = 16_000, channels: int = 1) -> bytes:
    """Noise as 16-bit WAV."""
    noise = random.Random(1)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(noise.randbytes(2 * channels * int(rate * length_s)))
    return file.getvalue()
