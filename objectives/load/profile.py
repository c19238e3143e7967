"""What requests arrive, how often, of what size: decided before anything is sent.

A `LoadProfile` says it in a few numbers; `plan` turns it into a `Trace`, every request with the
moment it is due. The trace depends on the profile alone, so every candidate of a study meets the
same arrivals, lengths and clips (common random numbers): differences between two candidates are
then theirs, not the dice's. Each server, each phase and each kind of draw has a stream of its
own: changing the prompts moves no arrival, and leaving one server out moves nothing of the other.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from objectives.load.audio import Clip, read_clip, speech_like

Arrivals = Literal["poisson", "constant"]
LoadedServer = Literal["llm", "stt"]
TokenCount = int | tuple[int, int]
"""An exact number of tokens, or the lowest and the highest of a uniform draw."""

_SERVERS: tuple[LoadedServer, ...] = ("llm", "stt")
_PHASES = ("warmup", "measure", "burst")
_DRAWS = ("arrivals", "prompt lengths", "output lengths", "prompt ids", "clips")


@dataclass(frozen=True, kw_only=True)
class LlmLoad:
    """What the language model is asked.

    Attributes:
        rate_rps: Requests per second, on average.
        output_tokens: Of each answer; exactly so many are generated.
        vocab_size: Prompts are drawn from the ids `lowest_token_id` .. `vocab_size - 1`.
        lowest_token_id: Below lie the special tokens of most vocabularies.
        arrivals: "poisson" (independent users) or "constant" (a metronome).
    """

    rate_rps: float
    prompt_tokens: TokenCount
    output_tokens: TokenCount
    vocab_size: int
    lowest_token_id: int = 100
    arrivals: Arrivals = "poisson"

    def __post_init__(self) -> None:
        _check_rate("llm", self.rate_rps, self.arrivals)
        for name in ("prompt_tokens", "output_tokens"):
            low, high = bounds(getattr(self, name))
            if not 1 <= low <= high:
                raise ValueError(f"llm.{name}: {getattr(self, name)} is not 1 <= low <= high")
        if not 0 <= self.lowest_token_id < self.vocab_size:
            raise ValueError(
                f"llm.vocab_size: {self.vocab_size} leaves no id from {self.lowest_token_id} on"
            )

    @property
    def most_tokens_per_request(self) -> int:
        """Tokens of the longest request: prompt and answer."""
        return bounds(self.prompt_tokens)[1] + bounds(self.output_tokens)[1]


@dataclass(frozen=True, kw_only=True)
class SttLoad:
    """What the speech-to-text server is sent.

    Attributes:
        rate_rps: Requests per second, on average.
        clip_s: Lengths of speech-like clips to make; ignored where `files` are given.
        files: Recordings to send instead: WAV, 16 kHz, mono, 16 bits.
        output_tokens: Tokens that each transcript is fixed to (a launch option of the worker,
            for weights that never end a sentence); None lets the model decide.
        arrivals: "poisson" or "constant".
    """

    rate_rps: float
    clip_s: tuple[float, ...] = (5.0,)
    files: tuple[Path, ...] = ()
    output_tokens: int | None = None
    arrivals: Arrivals = "poisson"

    def __post_init__(self) -> None:
        _check_rate("stt", self.rate_rps, self.arrivals)
        if not self.files and not self.clip_s:
            raise ValueError("stt: neither clip_s nor files: there is nothing to send")
        if not self.files and min(self.clip_s) <= 0:
            raise ValueError(f"stt.clip_s: {min(self.clip_s)} is not above 0")


@dataclass(frozen=True, kw_only=True)
class LoadProfile:
    """The load of one trial.

    Attributes:
        seed: Everything random derives from it.
        llm: Load of the language model; None leaves it alone.
        stt: Load of the speech-to-text server; None leaves it alone.
        warmup_s: Seconds of requests that are sent first and kept apart.
        measure_s: Seconds of the window whose requests are measured.
        drain_s: Seconds that requests may take beyond the end of their phase.
        timeout_s: Seconds after which a request counts as failed, from when it was due.
    """

    seed: int
    llm: LlmLoad | None = None
    stt: SttLoad | None = None
    warmup_s: float = 10.0
    measure_s: float = 60.0
    drain_s: float = 15.0
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed: {self.seed} is negative")
        timed = self.measure_s > 0 and self.timeout_s > 0
        if self.warmup_s < 0 or self.drain_s < 0 or not timed:
            raise ValueError("warmup_s and drain_s are >= 0, measure_s and timeout_s > 0")
        for server, load in (("llm", self.llm), ("stt", self.stt)):
            if load is not None and _count(load.rate_rps, self.measure_s) == 0:
                raise ValueError(
                    f"{server}: {load.rate_rps:g} requests/s for {self.measure_s:g} s is no request"
                )

    def requests(self, server: LoadedServer) -> int:
        """How many requests of a server will be measured: known before anything starts."""
        load = self.llm if server == "llm" else self.stt
        return 0 if load is None else _count(load.rate_rps, self.measure_s)

    def to_dict(self) -> dict[str, object]:
        """The profile as JSON can hold it; absent loads are left out."""
        document: dict[str, object] = json.loads(
            json.dumps(asdict(self, dict_factory=without_none), default=str)
        )
        return document


@dataclass(frozen=True, kw_only=True)
class LlmRequest:
    """One prompt in token ids, due `due_s` after the beginning of its phase.

    Exactly `output_tokens` are to be generated.
    """

    due_s: float
    prompt: tuple[int, ...]
    output_tokens: int


@dataclass(frozen=True, kw_only=True)
class SttRequest:
    """One clip to transcribe, due `due_s` after the beginning of its phase."""

    due_s: float
    clip: Clip


Request = LlmRequest | SttRequest


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Every request of a trial, in order of when it is due."""

    profile: LoadProfile
    warmup: tuple[Request, ...]
    measure: tuple[Request, ...]

    @property
    def sha256(self) -> str:
        """Digest of all that is sent and when: two trials with the same one met the same load."""
        digest = hashlib.sha256()
        for phase in (self.warmup, self.measure):
            digest.update(b"phase")
            for request in phase:
                digest.update(_fingerprint(request))
        return digest.hexdigest()


def plan(profile: LoadProfile) -> Trace:
    """The trace of a profile. The same profile gives the same trace, whatever the candidate.

    The warm-up has other prompts than the window, and its first request of each server is the
    largest that can come: memory for it is claimed before anything is measured.

    Raises:
        UsageError: A clip's file cannot be used (this alone reads files).
    """
    clips = _clips(profile.stt, profile.seed)
    return Trace(
        profile=profile,
        warmup=_phase(profile, clips, "warmup", profile.warmup_s),
        measure=_phase(profile, clips, "measure", profile.measure_s),
    )


def bounds(tokens: TokenCount) -> tuple[int, int]:
    """Lowest and highest of a token count."""
    return (tokens, tokens) if isinstance(tokens, int) else tokens


def _phase(
    profile: LoadProfile, clips: tuple[Clip, ...], phase: str, duration_s: float
) -> tuple[Request, ...]:
    requests: list[Request] = []
    if profile.llm is not None and duration_s > 0:
        requests += _llm_requests(profile.llm, profile.seed, phase, duration_s)
    if profile.stt is not None and duration_s > 0:
        requests += _stt_requests(profile.stt, clips, profile.seed, phase, duration_s)
    return tuple(sorted(requests, key=lambda request: request.due_s))


def _llm_requests(load: LlmLoad, seed: int, phase: str, duration_s: float) -> list[LlmRequest]:
    stream = partial(_stream, seed, "llm", phase)
    due_s = _due_s(load, duration_s, stream("arrivals"))
    prompts = _lengths(load.prompt_tokens, len(due_s), stream("prompt lengths"))
    outputs = _lengths(load.output_tokens, len(due_s), stream("output lengths"))
    if phase == "warmup":
        prompts[0], outputs[0] = bounds(load.prompt_tokens)[1], bounds(load.output_tokens)[1]
    ids = stream("prompt ids")
    return [
        LlmRequest(
            due_s=due,
            prompt=tuple(ids.integers(load.lowest_token_id, load.vocab_size, size=length).tolist()),
            output_tokens=output,
        )
        for due, length, output in zip(due_s, prompts, outputs, strict=True)
    ]


def _stt_requests(
    load: SttLoad, clips: tuple[Clip, ...], seed: int, phase: str, duration_s: float
) -> list[SttRequest]:
    stream = partial(_stream, seed, "stt", phase)
    due_s = _due_s(load, duration_s, stream("arrivals"))
    # Every clip comes equally often; chance decides only the order.
    order = stream("clips").permutation(len(due_s)) % len(clips)
    chosen = [clips[seat] for seat in order]
    if phase == "warmup":
        chosen[0] = max(clips, key=lambda clip: clip.duration_s)
    return [SttRequest(due_s=due, clip=clip) for due, clip in zip(due_s, chosen, strict=True)]


def _due_s(load: LlmLoad | SttLoad, duration_s: float, stream: np.random.Generator) -> list[float]:
    """When requests are due, ascending, all within `duration_s`; at least one.

    The number of arrivals is the rate times the time, not a draw: a Poisson process given its
    count is that many independent uniform moments, sorted (Ross, Stochastic Processes, 2nd ed.,
    theorem 2.3.1). Every seed then offers exactly the load that was asked for, and how many
    samples there will be is known beforehand.
    """
    count = max(1, _count(load.rate_rps, duration_s))
    if load.arrivals == "constant":
        return [(index + 0.5) * duration_s / count for index in range(count)]
    return [float(moment) for moment in np.sort(stream.uniform(0.0, duration_s, count))]


def _lengths(tokens: TokenCount, count: int, stream: np.random.Generator) -> list[int]:
    low, high = bounds(tokens)
    lengths: list[int] = stream.integers(low, high, size=count, endpoint=True).tolist()
    return lengths


def _clips(load: SttLoad | None, seed: int) -> tuple[Clip, ...]:
    if load is None:
        return ()
    if load.files:
        return tuple(read_clip(path) for path in load.files)
    return tuple(speech_like(float(length), seed + at) for at, length in enumerate(load.clip_s))


def _stream(seed: int, server: LoadedServer, phase: str, draw: str) -> np.random.Generator:
    """The random stream of one kind of draw: independent of every other."""
    key = (_SERVERS.index(server), _PHASES.index(phase), _DRAWS.index(draw))
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _count(rate_rps: float, duration_s: float) -> int:
    return math.floor(rate_rps * duration_s + 0.5)


def _check_rate(server: str, rate_rps: float, arrivals: str) -> None:
    if not (math.isfinite(rate_rps) and rate_rps > 0):
        raise ValueError(f"{server}.rate_rps: {rate_rps} is not above 0")
    if arrivals not in ("poisson", "constant"):
        raise ValueError(f"{server}.arrivals: {arrivals!r}; allowed: poisson, constant")


def _fingerprint(request: Request) -> bytes:
    if isinstance(request, LlmRequest):
        return json.dumps(["llm", request.due_s, request.prompt, request.output_tokens]).encode()
    return json.dumps(["stt", request.due_s, request.clip.sha256]).encode()


def without_none(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """For `asdict`: what is None is left out, at every depth."""
    return {key: value for key, value in pairs if value is not None}
