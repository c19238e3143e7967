"""A real process that behaves like the Whisper worker, and has no model.

    python tests/fakes/fake_whisper.py --model small --device cuda:0 --port 8030

One request at a time, first come first served. Knobs, beside those of `knobs.py`
(`FAKE_WHISPER_<NAME>` or `FAKE_<NAME>`):

    WRONG_DEVICE=1            fell back: computes, and says so, on the CPU in float32
    STT_S=seconds             each transcription takes so long (default: by the model's size)
    STT_SCALE=factor          that, times a factor
    MODEL_BYTES=n             what the model takes of the fake device (default: by its size)
    UUID=GPU-...              what torch calls its GPU; without, its torch is too old to tell
    TAKES_NODE=1              its memory counts on the fake device also where it runs on the CPU
    OOM_AFTER_REQUESTS=n      from request n + 1 on: 507
    REFUSE=cuda_oom_load|cuda_init|model_not_found_or_auth|host_oom|port_in_use

The key is in the variable that --api-key-env names; transcriptions without it get 401.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import sys
import threading
import time
import wave
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))  # also under PYTHONSAFEPATH

import behaviour
from knobs import GIB, FakeDevice, Knobs

_SECONDS = {"tiny": 0.01, "base": 0.02, "small": 0.04, "medium": 0.08, "large": 0.16}
_BYTES = {"tiny": 0.2, "base": 0.4, "small": 1.2, "medium": 3.4, "large": 6.8}  # GiB
_ERRORS = {
    "cuda_oom_load": (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a "
        "total capacity of 11.63 GiB of which 4.00 MiB is free."
    ),
    "cuda_init": "RuntimeError: CUDA was asked for, and torch sees no CUDA device",
    "model_not_found_or_auth": "RuntimeError: Model nosuch not found; available models = [...]",
    "port_in_use": "cannot listen on 127.0.0.1: [Errno 98] Address already in use",
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add = parser.add_argument
    add("--model", required=True)
    add("--device", default="cpu")
    add("--dtype")
    add("--host", default="127.0.0.1")
    add("--port", type=int, required=True)
    add("--api-key-env", default="WHISPER_API_KEY")
    add("--fixed-tokens", type=int, default=0)
    known, _ = parser.parse_known_args(argv)
    if known.dtype is None:  # as the worker does on a GPU of 7.0 or higher
        known.dtype = "float32" if known.device == "cpu" else "float16"
    return known


def size_of(model: str) -> str:
    """tiny, base, small, medium or large, of a name or of a checkpoint's path."""
    stem = Path(model).name.lower()
    return next((size for size in _SECONDS if size in stem), "tiny")


class Api:
    """The routes."""

    def __init__(self, options: argparse.Namespace, knobs: Knobs) -> None:
        self._options = options
        self._knobs = knobs
        self._requests = behaviour.Requests(knobs)
        self._turn = threading.Lock()
        self._oom_events = 0
        size = size_of(options.model)
        self.model_bytes = knobs.whole("MODEL_BYTES", int(_BYTES[size] * GIB))
        seconds = knobs.number("STT_S", _SECONDS[size])
        self._seconds = seconds * knobs.number("STT_SCALE", 1.0)
        fell_back = knobs.is_on("WRONG_DEVICE")
        self._device = "cpu" if fell_back else options.device
        self._dtype = "float32" if fell_back else options.dtype

    def health(self, on: behaviour.Handler) -> None:
        on.answer(
            200,
            {
                "status": "ok",
                "model": self._options.model,
                "device": self._options.device,
                "dtype": self._options.dtype,
                "compute_device": self._device,
                "compute_dtype": self._dtype,
                "uuid": None if self._device == "cpu" else self._knobs.text("UUID"),
                "parameter_devices": [self._device],
                "parameter_dtypes": [self._dtype],
                "parameters_bytes": self.model_bytes,
                "weights_bytes": self.model_bytes,
                "threads": 1,
                "pid": os.getpid(),
                "torch_version": "2.13.0+fake",
                "whisper_version": "20250625",
                "versions": {"torch": "2.13.0+fake", "openai-whisper": "20250625"},
                "served": self._requests.count,
                "oom_events": self._oom_events,
                "waiting": 0,
            },
        )

    def models(self, on: behaviour.Handler) -> None:
        on.answer(200, {"object": "list", "data": [{"id": self._options.model}]})

    def transcriptions(self, on: behaviour.Handler, body: bytes) -> None:
        sound = file_part(on.headers.get("Content-Type", ""), body)
        if self._requests.next_fails():
            on.answer(500, _error("Internal server error", "server_error"))
        elif sound is None:
            on.answer(400, _error("field 'file' with the sound is missing", "invalid_request"))
        elif self._is_out_of_memory():
            self._oom_events += 1
            kind = self._device.partition(":")[0]
            print(f"out of memory while serving: {_ERRORS['cuda_oom_load']}", flush=True)
            on.answer(
                507, _error(_ERRORS["cuda_oom_load"], "out_of_memory", f"{kind}_out_of_memory")
            )
        else:
            self._transcribe(on, sound)

    def _is_out_of_memory(self) -> bool:
        limit = self._knobs.text("OOM_AFTER_REQUESTS")
        return limit is not None and self._requests.count > int(limit)

    def _transcribe(self, on: behaviour.Handler, sound: bytes) -> None:
        arrived = time.monotonic()
        with self._turn:
            begun = time.monotonic()
            time.sleep(self._seconds)
            ended = time.monotonic()
        duration_s = seconds_of(sound)
        tokens = self._options.fixed_tokens or 1 + int(3 * duration_s)
        queue_ms, infer_ms = 1000 * (begun - arrived), 1000 * (ended - begun)
        on.answer(
            200,
            {
                "text": " la" * tokens,
                "duration": duration_s,
                "usage": {"type": "tokens", "output_tokens": tokens, "seconds": duration_s},
            },
            headers={"Server-Timing": f"queue;dur={queue_ms:.3f}, infer;dur={infer_ms:.3f}"},
        )


def file_part(content_type: str, body: bytes) -> bytes | None:
    """Content of the part named `file`; the whole body where it is no form."""
    found = re.search(r'boundary="?([^";]+)"?', content_type)
    if found is None:
        return body or None
    for part in body.split(b"--" + found.group(1).encode()):
        head, _, content = part.partition(b"\r\n\r\n")
        if re.search(rb'name="?file"?[;\r\s]', head + b"\r"):
            return content.removesuffix(b"\r\n")
    return None


def seconds_of(sound: bytes) -> float:
    """Length of a WAV file; of anything else, as if it were 16 kHz and 16 bits."""
    try:
        with wave.open(io.BytesIO(sound)) as clip:
            return float(clip.getnframes() / clip.getframerate())
    except (wave.Error, EOFError):
        return len(sound) / 32_000


def _error(message: str, kind: str, code: str | None = None) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def refuse(knobs: Knobs, device: FakeDevice, model_bytes: int, counts: bool) -> str | None:
    """The cause for which the worker would not start."""
    if cause := knobs.text("REFUSE"):
        return cause
    return "cuda_oom_load" if counts and model_bytes > device.free_bytes else None


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    knobs = Knobs("WHISPER")
    api = Api(options, knobs)
    counts = options.device != "cpu" and not knobs.is_on("WRONG_DEVICE")
    counts = counts or knobs.is_on("TAKES_NODE")
    if behaviour.port_was_in_use(knobs):
        print(_ERRORS["port_in_use"], file=sys.stderr, flush=True)
        return 1
    behaviour.misbehave_early(knobs)
    device = FakeDevice(knobs)
    cause = refuse(knobs, device, api.model_bytes, counts)
    if cause == "host_oom":
        behaviour.die(-signal.SIGKILL)
    if cause is not None:
        print(f"Traceback (most recent call last):\n{_ERRORS[cause]}", file=sys.stderr, flush=True)
        return 1
    if counts:
        device.take(api.model_bytes)
    time.sleep(knobs.number("START_S", 0.05))

    handler = behaviour.handler(
        get={"/health": api.health, "/v1/models": api.models},
        post={"/v1/audio/transcriptions": api.transcriptions},
        api_key=os.environ.get(options.api_key_env) or None,
        health_s=knobs.number("HEALTH_S"),
    )
    listener = behaviour.listen(options.host, options.port, handler)
    if listener is None:
        print(_ERRORS["port_in_use"], file=sys.stderr, flush=True)
        return 1
    print(f"model {options.model} on {options.device}; listening on {options.port}", flush=True)
    behaviour.serve(listener, knobs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
