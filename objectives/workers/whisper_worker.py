"""openai-whisper behind OpenAI's transcription route. Launched, never imported.

Run by an engine's interpreter:

    python whisper_worker.py --model tiny --device cuda:0 --dtype float16 --port 8030

One model, one inference thread, first come first served. The port answers only after the model
has decoded once, at its largest shape, so memory does not grow under load. `/health` says where
and in which type the last features were really computed; nothing falls back in silence.

Exit codes: 0 asked to stop; 1 the model could not be loaded or ran out of memory at the start;
2 bad usage.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import io
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
import wave
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
import uvicorn
import whisper
from starlette.applications import Starlette
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from whisper.tokenizer import LANGUAGES

if TYPE_CHECKING:
    from objectives.workers import whisper_recogniser as speech
else:  # a script's neighbour; last on the path, so that it hides nothing of the engine's
    sys.path.append(str(Path(__file__).resolve().parent))
    import whisper_recogniser as speech

FORMATS = ("json", "verbose_json", "text")
ALIAS = "whisper-1"  # what clients of OpenAI's own service call the model
SAME = {"large": "large-v3", "turbo": "large-v3-turbo"}  # openai-whisper's short names


class Refusal(Exception):  # noqa: N818 - an answer, too
    """Becomes an error as OpenAI's API words it, `error`, with its HTTP status."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        kind: str = "invalid_request_error",
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": kind, "param": param, "code": code}


def read_audio(data: bytes) -> np.ndarray[Any, Any]:
    """Samples of [-1, 1] at 16 kHz, from 16-bit mono WAV; from anything else by ffmpeg.

    Raises: Refusal, if it cannot be read here.
    """
    try:
        with wave.open(io.BytesIO(data)) as sound:
            shape = (sound.getframerate(), sound.getnchannels(), sound.getsampwidth())
            if shape == (speech.SAMPLE_RATE, 1, 2):
                frames = sound.readframes(sound.getnframes())
                return np.frombuffer(frames, dtype="<i2").astype(np.float32) / 32768.0
    except (wave.Error, EOFError):
        pass  # no WAV that the standard library knows: perhaps ffmpeg does
    return read_by_ffmpeg(data)


def read_by_ffmpeg(data: bytes) -> np.ndarray[Any, Any]:
    """Samples of whatever ffmpeg can read.

    Raises: Refusal, if ffmpeg is not there or cannot.
    """
    if shutil.which("ffmpeg") is None:
        raise Refusal(
            "only 16 kHz mono 16-bit WAV can be read here: ffmpeg is not installed", param="file"
        )
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            return np.asarray(whisper.load_audio(file.name), dtype=np.float32)
        except RuntimeError as error:
            last = str(error).strip().rpartition("\n")[2]
            raise Refusal(f"ffmpeg cannot read the file: {last}", param="file") from error


class Service:
    """The HTTP side: checks a request, queues it, answers."""

    def __init__(
        self, recogniser: speech.Recogniser, pool: ThreadPoolExecutor, options: argparse.Namespace
    ) -> None:
        self._recogniser = recogniser
        self._pool = pool
        self._options = options
        self._api_key = os.environ.get(options.api_key_env, "")
        self._waiting = 0

    def application(self) -> Starlette:
        """The routes."""
        routes = [
            Route("/v1/audio/transcriptions", self.transcriptions, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/health", self.health),
        ]
        return Starlette(routes=routes, exception_handlers={Refusal: refused})

    async def health(self, _request: Request) -> Response:
        """What runs here, where it really computes, and how much waits."""
        return JSONResponse({**self._recogniser.facts(), "waiting": self._waiting})

    async def models(self, request: Request) -> Response:
        """The one model."""
        self._see_key(request)
        entry = {"id": self._options.model, "object": "model", "owned_by": "openai-whisper"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def transcriptions(self, request: Request) -> Response:
        """One file to text; `Server-Timing` splits its latency into queue and inference."""
        arrived_s = time.monotonic()
        self._see_key(request)
        loop, recognise = asyncio.get_running_loop(), self._recogniser.transcribe
        self._waiting += 1
        try:
            form = await request.form()
            wanted, language, temperature = self._wishes(form)
            data = await form["file"].read()
            audio = await loop.run_in_executor(None, read_audio, data)
            found = await loop.run_in_executor(self._pool, recognise, audio, language, temperature)
        except (RuntimeError, MemoryError) as error:
            if speech.is_out_of_memory(error):
                raise self._out_of_memory(error) from error
            raise
        finally:
            self._waiting -= 1
        return answer(found, wanted, len(audio) / speech.SAMPLE_RATE, arrived_s)

    def _see_key(self, request: Request) -> None:
        given = request.headers.get("authorization", "").encode()
        if self._api_key and not hmac.compare_digest(given, f"Bearer {self._api_key}".encode()):
            raise Refusal("the API key is missing or wrong", status=401)

    def _wishes(self, form: FormData) -> tuple[str, str | None, float]:
        """Response format, language and temperature of a request.

        Raises: Refusal
        """
        if not isinstance(form.get("file"), UploadFile):
            raise Refusal("field 'file' with the sound is missing", param="file")
        model = form.get("model") or ALIAS
        ours = {self._options.model, Path(self._options.model).stem, ALIAS}
        if not {model, SAME.get(model)} & {*ours, *map(SAME.get, ours)} - {None}:
            message = f"the model {model!r} is not here; {self._options.model!r} is"
            raise Refusal(message, param="model", status=404)
        wanted = form.get("response_format") or "json"
        if wanted not in FORMATS:
            message = f"response_format must be one of {', '.join(FORMATS)}"
            raise Refusal(message, param="response_format")
        language = form.get("language") or self._options.language
        if language is not None and language not in LANGUAGES:
            raise Refusal(f"language {language!r} is not known", param="language")
        try:
            temperature = float(form.get("temperature") or self._options.temperature)
        except ValueError:
            raise Refusal("temperature must be a number", param="temperature") from None
        return wanted, language, temperature

    def _out_of_memory(self, error: BaseException) -> Refusal:
        self._recogniser.out_of_memory += 1
        kind = self._recogniser.device.type
        if kind == "cuda":
            torch.cuda.empty_cache()
        speech.say(f"out of memory while serving: {error}")
        return Refusal(str(error), status=507, kind="out_of_memory", code=f"{kind}_out_of_memory")


def answer(found: speech.Transcript, wanted: str, duration_s: float, arrived_s: float) -> Response:
    """The transcript in the format that was asked for."""
    queue_ms = 1000 * (found.started_s - arrived_s)
    infer_ms = 1000 * (found.ended_s - found.started_s)
    headers = {"Server-Timing": f"queue;dur={queue_ms:.3f}, infer;dur={infer_ms:.3f}"}
    if wanted == "text":
        return PlainTextResponse(found.text + "\n", headers=headers)
    body: dict[str, Any] = {
        "text": found.text,
        "duration": duration_s,
        "usage": {"type": "tokens", "output_tokens": found.tokens, "seconds": duration_s},
    }
    if wanted == "verbose_json":
        body |= {"task": "transcribe", "language": found.language, "segments": found.segments}
    return JSONResponse(body, headers=headers)


async def refused(_request: Request, refusal: Refusal) -> Response:
    """The answer to what was refused."""
    return JSONResponse({"error": refusal.error}, refusal.status)


def leave(*_signal: object) -> NoReturn:
    """End now: no request is worth waiting for, and a running kernel cannot be asked."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the port, not listening yet; the study holds the same port for us.

    Raises: SystemExit, with one line, if the port is taken.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        speech.leave_with(f"cannot listen on {host}:{port}: {error}")
    return listener


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", required=True, help="a name of openai-whisper, or a checkpoint's path")
    add("--device", required=True, help="cpu, cuda or cuda:N; never guessed")
    add(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="default: float16 on a GPU of compute capability 7.0 or higher, else float32",
    )
    add("--fp16-weights", action="store_true", help="with float16: halve the weights, too")
    add("--allow-fallback", action="store_true", help="use the CPU if the GPU is not there")
    add("--host", default="127.0.0.1")
    add("--port", type=int, required=True)
    add("--api-key-env", default="WHISPER_API_KEY", help="variable that holds the key")
    add("--threads", type=int, default=0, help="CPU threads; 0: torch's default")
    add("--beam-size", type=int, default=0, help="0: greedy")
    add("--fixed-tokens", type=int, default=0, help="decode exactly so many, of any window")
    add("--language", default="en", help="default of requests; empty: detect it")
    add("--temperature", type=float, default=0.0, help="default of requests")
    options = parser.parse_args(argv)
    if not 0 <= options.fixed_tokens <= speech.MOST_TOKENS:
        parser.error(f"--fixed-tokens must be between 0 and {speech.MOST_TOKENS}")
    if options.device != "cpu" and options.device.partition(":")[0] != "cuda":
        parser.error(f"--device must be cpu, cuda or cuda:N, not {options.device!r}")
    if options.language and options.language not in LANGUAGES:
        parser.error(f"--language {options.language!r} is not known")
    if min(options.threads, options.beam_size) < 0:
        parser.error("--threads and --beam-size must not be negative")
    options.language = options.language or None
    options.beam_size = options.beam_size or None
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Load, decode once, then serve until a signal."""
    options = parse(argv)
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    listener = listen(options.host, options.port)
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        recogniser = pool.submit(speech.Recogniser, options).result()
        pool.submit(recogniser.warm_up).result()
    except (RuntimeError, MemoryError):
        traceback.print_exc()
        speech.leave_with("the model could not be made ready; the reason stands above")
    facts = recogniser.facts()
    speech.say(f"{options.model} ready on {facts['compute_device']} as {facts['compute_dtype']}")
    config = uvicorn.Config(
        Service(recogniser, pool, options).application(),
        log_level="warning",
        access_log=False,
        timeout_keep_alive=300,  # seconds; the client shall be the one who hangs up
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listener])
    leave()


if __name__ == "__main__":
    sys.exit(main())
