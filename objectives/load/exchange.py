"""One request over HTTP, and what is written down of it.

The language model is asked through `POST /v1/completions` with token ids, as a stream; the
speech-to-text server through `POST /v1/audio/transcriptions` with a form that holds the clip.
Bodies are made before the clock starts. Whatever happens to a request is written on its `Sample`
as it happens.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import aiohttp

from objectives.load.audio import Clip
from objectives.load.profile import LlmRequest, Request
from objectives.load.samples import MESSAGE_CHARS, FailureKind, Phase, Sample

Clock = Callable[[], float]
"""Seconds since the phase began."""

_OUT_OF_MEMORY = 507
_TIMING = re.compile(r"(?P<name>[\w-]+)\s*;\s*dur=(?P<ms>\d+(?:\.\d+)?)")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server to send requests to.

    Attributes:
        url: "http://host:port", without a path.
        model: The name it serves the model under.
        api_key: Sent as a bearer token; None sends none.
        pages_every_s: Seconds between readings of its `/metrics` page; None reads none.
    """

    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    pages_every_s: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request to it."""
        return {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request with everything made but the connection."""

    sample: Sample
    url: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    async def make(self, session: aiohttp.ClientSession, clock: Clock, timeout_s: float) -> None:
        """Send it and read the answer onto the sample; only being cancelled raises.

        The answer is whole `timeout_s` after the request was due, or it has failed.
        """
        sample = self.sample
        sample.sent_s = clock()
        left_s = sample.due_s + timeout_s - sample.sent_s
        try:
            async with asyncio.timeout(left_s):
                await self._exchange(session, clock)
        except TimeoutError:
            sample.fail("timeout", f"no whole answer within {timeout_s:g} s of when it was due")
        except (aiohttp.ClientError, OSError) as error:
            sample.fail("connection", f"{type(error).__name__}: {error}")
        except ValueError as error:
            sample.fail("answer", f"{type(error).__name__}: {error}")

    async def _exchange(self, session: aiohttp.ClientSession, clock: Clock) -> None:
        data = io.BytesIO(self.body)  # aiohttp sends it piecewise, so a long one stalls nobody
        async with session.post(self.url, data=data, headers=self.headers) as response:
            if response.status != 200:
                _refused(self.sample, response.status, await response.text(errors="replace"))
            elif self.sample.server == "llm":
                await _read_stream(response, self.sample, clock)
            else:
                await _read_transcript(response, self.sample, clock)


def call(request: Request, phase: Phase, target: Target) -> Call:
    """Make everything of a request that can be made beforehand."""
    base = target.url.rstrip("/")
    if isinstance(request, LlmRequest):
        url, kind, body = f"{base}/v1/completions", "application/json", _prompt(request, target)
        sample = Sample(server="llm", phase=phase, due_s=request.due_s)
        sample.prompt_tokens, sample.asked_tokens = len(request.prompt), request.output_tokens
    else:
        url = f"{base}/v1/audio/transcriptions"
        kind, body = _form(request.clip, target.model)
        sample = Sample(server="stt", phase=phase, due_s=request.due_s)
        sample.audio_s = request.clip.duration_s
    return Call(sample=sample, url=url, headers={**target.headers, "Content-Type": kind}, body=body)


def server_timing_s(header: str) -> dict[str, float]:
    """Durations of a `Server-Timing` header, in seconds by name.

    Source: W3C Server Timing; `dur` is in milliseconds.
    """
    return {found["name"]: float(found["ms"]) / 1000 for found in _TIMING.finditer(header)}


def _prompt(request: LlmRequest, target: Target) -> bytes:
    """A completion of exactly so many tokens, streamed, with the count of them at the end."""
    return json.dumps(
        {
            "model": target.model,
            "prompt": request.prompt,
            "max_tokens": request.output_tokens,
            "min_tokens": request.output_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()


@lru_cache(maxsize=64)
def _form(clip: Clip, model: str) -> tuple[str, bytes]:
    """Content type and body of the form (RFC 7578); the clip's own digest is the boundary.

    Requests with the same clip share one body.
    """
    boundary = f"clip-{clip.sha256}"
    fields = {"model": model, "response_format": "json"}
    head = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    file = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; '
        f'filename="{clip.name}"\r\nContent-Type: audio/wav\r\n\r\n'
    )
    body = f"{head}{file}".encode() + clip.wav + f"\r\n--{boundary}--\r\n".encode()
    return f"multipart/form-data; boundary={boundary}", body


async def _read_stream(response: aiohttp.ClientResponse, sample: Sample, clock: Clock) -> None:
    """Server-sent events of a completion, each noted as it comes.

    Raises:
        ValueError: An event is no JSON object, or the stream ended early or empty.
    """
    ended = False
    async for line in response.content:
        if not line.startswith(b"data:"):
            continue
        payload = line[5:].strip()
        if payload == b"[DONE]":
            ended = True
            continue
        _note_event(_object(payload), sample, clock)
    if sample.failure is None:
        if not (ended and sample.events):
            raise ValueError(f"the stream ended after {sample.events} events, [DONE]: {ended}")
        sample.done_s = clock()


def _note_event(event: Mapping[str, Any], sample: Sample, clock: Clock) -> None:
    """One event: a choice, even with an empty text, is output; usage comes with the last."""
    if event.get("choices"):
        sample.last_s = clock()
        sample.first_s = sample.last_s if sample.first_s is None else sample.first_s
        sample.events += 1
    usage = event.get("usage")
    if isinstance(usage, Mapping):
        sample.output_tokens = _count(usage.get("completion_tokens"))
    if event.get("error"):
        sample.fail("answer", f"the stream carried an error: {json.dumps(event['error'])}")


async def _read_transcript(response: aiohttp.ClientResponse, sample: Sample, clock: Clock) -> None:
    """A transcript, and what the server says of its own time.

    Raises:
        ValueError: The answer is no JSON object, or has no text.
    """
    payload = await response.read()
    done_s = clock()
    answer = _object(payload)
    if not isinstance(answer.get("text"), str):
        raise ValueError(f"no text in {payload[:MESSAGE_CHARS]!r}")
    sample.text, sample.done_s = answer["text"], done_s
    usage = answer.get("usage")
    if isinstance(usage, Mapping):
        sample.output_tokens = _count(usage.get("output_tokens"))
    timing_s = server_timing_s(response.headers.get("Server-Timing", ""))
    sample.queue_s, sample.infer_s = timing_s.get("queue"), timing_s.get("infer")


def _refused(sample: Sample, status: int, text: str) -> None:
    """An answer that is not 200; 507 is how a server says that its memory ran out."""
    try:
        error = _object(text.encode()).get("error", text)
    except ValueError:
        error = text
    message = error.get("message", text) if isinstance(error, Mapping) else error
    kind: FailureKind = "oom" if status == _OUT_OF_MEMORY else "http"
    sample.fail(kind, f"HTTP {status}: {message}", status)


def _object(payload: bytes) -> Mapping[str, Any]:
    """A JSON object.

    Raises:
        ValueError: It is none.
    """
    found = json.loads(payload)
    if not isinstance(found, dict):
        raise ValueError(f"{payload[:MESSAGE_CHARS]!r} is no JSON object")
    return found


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
