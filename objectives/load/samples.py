"""What was seen of every request: kept whole, so that every summary can be derived again.

Times are seconds from the beginning of the request's phase, on one monotonic clock for both
servers. What did not happen is None. Latencies count from when a request was *due*: if the
sender or the server stalls, the requests behind the stall are late, and that is the truth that a
user meets (no coordinated omission). A sample is written as its request goes on, so that one which
is given up keeps what it had; after its phase it stays as it is.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from objectives.load.profile import LoadedServer, without_none
from objectives.vllm import Pages

Phase = Literal["warmup", "measure"]
FailureKind = Literal["oom", "http", "timeout", "unfinished", "connection", "answer"]
"""507 from the server / another status / over `timeout_s` / not done when draining ended /
no or a broken connection / an answer that is none."""

MESSAGE_CHARS = 300


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a request has no latency; the message is one line, the status HTTP's, if one came."""

    kind: FailureKind
    message: str
    status: int | None = None


@dataclass(kw_only=True)
class Sample:
    """One request, from due to done.

    Attributes:
        phase: "warmup" samples are in no summary.
        first_s: When the first event with a choice came, even one with an empty text.
        last_s: When the last such event came.
        done_s: When the answer was complete.
        events: How many such events came: vLLM may put several tokens into one.
        prompt_tokens: Tokens of the prompt as sent.
        asked_tokens: Tokens that were to be generated.
        output_tokens: Tokens that were generated, in the server's words.
        audio_s: Seconds of sound sent.
        queue_s: Seconds it waited inside the server, in the server's words.
        infer_s: Seconds it was computed, in the server's words.
        text: The transcript.
    """

    server: LoadedServer
    phase: Phase
    due_s: float
    sent_s: float | None = None
    first_s: float | None = None
    last_s: float | None = None
    done_s: float | None = None
    events: int = 0
    prompt_tokens: int | None = None
    asked_tokens: int | None = None
    output_tokens: int | None = None
    audio_s: float | None = None
    queue_s: float | None = None
    infer_s: float | None = None
    text: str | None = None
    failure: Failure | None = None

    def fail(self, kind: FailureKind, message: str, status: int | None = None) -> None:
        """Note why there is no answer: the first reason stands, and the request is never done."""
        self.done_s = None
        if self.failure is None:
            line = " ".join(message.split())[:MESSAGE_CHARS]
            self.failure = Failure(kind=kind, message=line, status=status)

    @property
    def answered(self) -> bool:
        """True if the whole answer came and was one."""
        return self.failure is None and self.done_s is not None

    @property
    def lag_s(self) -> float | None:
        """How late the client itself was: its own share of every latency."""
        return None if self.sent_s is None else self.sent_s - self.due_s

    @property
    def ttft_s(self) -> float | None:
        """Time to first token, from due."""
        return None if self.first_s is None else self.first_s - self.due_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None where no two events tell them apart."""
        if self.first_s is None or self.last_s is None or self.events < 2:
            return None
        if self.output_tokens is None or self.output_tokens < 2:
            return None
        return (self.last_s - self.first_s) / (self.output_tokens - 1)

    @property
    def latency_s(self) -> float | None:
        """End to end, from due until the answer was complete."""
        return self.done_s - self.due_s if self.answered and self.done_s is not None else None

    @property
    def rtf(self) -> float | None:
        """Real-time factor as the user meets it: latency over the length of the sound."""
        latency_s = self.latency_s
        return None if latency_s is None or not self.audio_s else latency_s / self.audio_s

    @property
    def infer_rtf(self) -> float | None:
        """Real-time factor of the computation alone, queue left out."""
        return None if self.infer_s is None or not self.audio_s else self.infer_s / self.audio_s

    def record(self) -> dict[str, object]:
        """The sample as JSON can hold it; what is None is left out."""
        return asdict(self, dict_factory=without_none)


@dataclass(frozen=True, kw_only=True)
class Span:
    """One stretch of time; of the load: "warmup", "measure" (the window) or "drain"."""

    phase: str
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class ClientCost:
    """What the measuring itself took, from the beginning of the window until it was drained.

    Attributes:
        cpu_s: CPU seconds of the thread that sent and received.
        process_cpu_s: CPU seconds of the whole study process, telemetry included.
        wall_s: Seconds.
        longest_check_s: The longest call of `check`: requests due meanwhile had to wait for it.
    """

    cpu_s: float = 0.0
    process_cpu_s: float = 0.0
    wall_s: float = 0.0
    longest_check_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Driven:
    """Everything that was seen while a trace was sent.

    Attributes:
        measure_s: Length of the window as planned.
        warmup: Samples of the warm-up, in order of when they were due.
        samples: Samples of the window, likewise.
        spans: When each phase was, on `time.monotonic()`.
        pages: What the language model's metrics page said; None if it was not read.
    """

    trace_sha256: str
    seed: int
    measure_s: float
    warmup: tuple[Sample, ...]
    samples: tuple[Sample, ...]
    client: ClientCost
    spans: tuple[Span, ...]
    pages: Pages | None = None

    def of(self, server: LoadedServer) -> tuple[Sample, ...]:
        """The window's samples of one server."""
        return tuple(sample for sample in self.samples if sample.server == server)

    def jsonl(self) -> str:
        """Every sample, warm-up first, one JSON object a line."""
        lines = [json.dumps(sample.record()) for sample in (*self.warmup, *self.samples)]
        return "".join(f"{line}\n" for line in lines)
