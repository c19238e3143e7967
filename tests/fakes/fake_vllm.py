"""A real process that behaves like vLLM's OpenAI server, and has no model.

    python tests/fakes/fake_vllm.py --model M --port 8000 --gpu-memory-utilization 0.5 ...

Takes the arguments that the version it plays takes and no others, refuses what that version refuses
(`vllm_version.py`), sizes a KV cache as vLLM does, refuses to start where that does not fit, prints
what vLLM prints, and answers /health, /metrics, /v1/models and /v1/completions (as a stream, too).
Knobs, beside those of `knobs.py` (`FAKE_VLLM_<NAME>` or `FAKE_<NAME>`):

    STYLE=cpu-VERSION|gpu-VERSION   whose wording and rules (default: cpu-0.32 where
                              CUDA_VISIBLE_DEVICES is empty, else gpu-0.11)
    DEVICE_UUIDS=a,b          the machine's GPUs, in the order of their PCI buses (default: two)
    DEVICE_CAPABILITY=8.6     compute capability of them all
    NO_FLASHINFER=1           FlashInfer cannot be imported
    NON_KV_BYTES=n            weights, activation and the rest (default: an RTX 3060 with a 7B AWQ)
    WEIGHTS_BYTES=n           of those, the weights (default: 95 %)
    GRAPH_BYTES=n             CUDA graphs (default 0; 0.32 takes them from the KV cache)
    BYTES_PER_TOKEN=n         of KV cache (default 57344; halved by --kv-cache-dtype fp8)
    BYTES_PER_SEQ=n           added to NON_KV_BYTES for each of --max-num-seqs (default 0)
    KV_SPREAD_BYTES=n         the KV cache comes out smaller by so much (a disturbed profile)
    REFUSE=cause              any cause of `vllm_words.Words.refuse`, `host_oom`, or `timeout_hang`
    TTFT_S, TPOT_S=seconds    to the first token, and between tokens (default 0.005 and 0.001)
    OOM_AFTER_REQUESTS=n      request n + 1 ends the engine: out of memory, /health 503, exit 1
    PREEMPT_EVERY=n           every n-th request is counted as a preemption
    LATE_TTFT_AFTER=n         from request n + 1 on, the first token takes ten times as long

The key is --api-key or VLLM_API_KEY; requests under /v1 without it get 401.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))  # also under PYTHONSAFEPATH

import behaviour
import vllm_page
from knobs import GIB, FakeDevice, Knobs
from vllm_version import Asked, Options, first_broken, release_of
from vllm_words import Sizes, Words

UUIDS = "GPU-30600000-0000-0000-0000-000000000000,GPU-1080f1f1-0000-0000-0000-000000000000"


def parse(argv: Sequence[str] | None, style: str) -> argparse.Namespace:
    """What was asked for; leaves with 2, as argparse does, over what this version does not take."""
    parser = argparse.ArgumentParser(prog="api_server.py")
    add = parser.add_argument
    add("--model", default="facebook/opt-125m")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8000)
    add("--api-key", nargs="*", default=None)
    add("--served-model-name", nargs="+", default=None)
    add("--gpu-memory-utilization", type=float, default=0.92)
    add("--kv-cache-memory-bytes", type=int, default=None)
    add("--kv-cache-dtype", default="auto")
    add("--max-model-len", type=int, default=2048)
    add("--max-num-seqs", type=int, default=256)
    add("--block-size", type=int, default=None)
    add("--tensor-parallel-size", "-tp", type=int, default=1)
    add("--enable-sleep-mode", action="store_true")
    argv = list(sys.argv[1:] if argv is None else argv)
    named = [_dashed(word) for word in argv]
    if strange := Options(release_of(style)).unknown(named):
        parser.error(f"unrecognized arguments: {' '.join(strange)}")
    known, _ = parser.parse_known_args(named)
    return known


def _dashed(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def sizes_of(options: argparse.Namespace, knobs: Knobs, device: FakeDevice, style: str) -> Sizes:
    """The arithmetic of vLLM's start."""
    utilization = options.gpu_memory_utilization
    requested = math.ceil(device.total_bytes * utilization)
    non_kv = knobs.whole("NON_KV_BYTES", int(5.442 * GIB))
    non_kv += knobs.whole("BYTES_PER_SEQ") * options.max_num_seqs
    graph = knobs.whole("GRAPH_BYTES")
    counts_graphs = style.startswith("gpu") and release_of(style) >= (0, 21, 0)
    kv = requested - non_kv - (graph if counts_graphs else 0)
    kv -= knobs.whole("KV_SPREAD_BYTES")
    explicit = options.kv_cache_memory_bytes
    per_token = knobs.whole("BYTES_PER_TOKEN", 57_344)
    if options.kv_cache_dtype.startswith("fp8"):
        per_token //= 2
    return Sizes(
        total_bytes=device.total_bytes,
        free_bytes=device.free_bytes,
        utilization=utilization,
        requested_bytes=requested,
        weights_bytes=knobs.whole("WEIGHTS_BYTES", int(0.95 * non_kv)),
        non_kv_bytes=non_kv,
        graph_bytes=graph,
        kv_bytes=kv if explicit is None else explicit,
        kv_is_explicit=explicit is not None,
        bytes_per_token=per_token,
        block_tokens=options.block_size or (128 if style.startswith("cpu") else 16),
        max_model_len=options.max_model_len,
    )


def why_not(sizes: Sizes, is_cpu: bool) -> str | None:
    """The cause for which vLLM would refuse to start with these sizes."""
    if sizes.kv_is_explicit:
        needed = sizes.kv_bytes + (0 if is_cpu else sizes.non_kv_bytes)
        if needed > sizes.free_bytes:
            return "gpu_memory_insufficient_at_start" if is_cpu else "cuda_oom_load"
    elif sizes.requested_bytes > sizes.free_bytes:
        return "gpu_memory_insufficient_at_start"
    if sizes.kv_bytes <= 0:
        return "kv_cache_no_blocks"
    if sizes.tokens < sizes.max_model_len:
        return "kv_cache_too_small"
    return None


def made_to_fail(sizes: Sizes, cause: str) -> Sizes:
    """Figures with which a refusal that a knob ordered makes sense."""
    needed = sizes.max_model_len * sizes.bytes_per_token
    if cause == "kv_cache_no_blocks":
        return replace(sizes, kv_bytes=min(sizes.kv_bytes, -int(0.79 * GIB)))
    if cause == "kv_cache_too_small":
        return replace(sizes, kv_bytes=min(sizes.kv_bytes, needed // 2))
    if cause == "gpu_memory_insufficient_at_start":
        return replace(sizes, free_bytes=min(sizes.free_bytes, sizes.requested_bytes // 2))
    return sizes


class Engine:
    """Slots and KV cache of the fake: requests wait for both, first come first served."""

    def __init__(self, options: argparse.Namespace, sizes: Sizes, knobs: Knobs) -> None:
        self.options = options
        self.sizes = sizes
        self.knobs = knobs
        self.is_dead = False
        self.counts = vllm_page.Counts()
        self.requests = behaviour.Requests(knobs)
        self._room = threading.Condition()
        self._free_tokens = sizes.tokens
        self._tickets = itertools.count()
        self._queue: list[int] = []

    @property
    def kv_usage(self) -> float:
        return 1.0 - self._free_tokens / self.sizes.tokens

    @contextmanager
    def room(self, tokens: int) -> Iterator[None]:
        block = self.sizes.block_tokens
        needed = min(math.ceil(tokens / block) * block, self.sizes.tokens)
        ticket = next(self._tickets)
        with self._room:
            self._queue.append(ticket)
            self.counts.waiting = len(self._queue)
            self._room.wait_for(lambda: self._queue[0] == ticket and self._fits(needed))
            self._queue.pop(0)
            self.counts.waiting = len(self._queue)
            self.counts.running += 1
            self._free_tokens -= needed
            self._room.notify_all()
        try:
            yield
        finally:
            with self._room:
                self.counts.running -= 1
                self._free_tokens += needed
                self._room.notify_all()

    def _fits(self, tokens: int) -> bool:
        return tokens <= self._free_tokens and self.counts.running < self.options.max_num_seqs


class Api:
    """The routes."""

    def __init__(self, engine: Engine, words: Words, name: str) -> None:
        self._engine = engine
        self._words = words
        self._name = name
        self._knobs = engine.knobs

    def health(self, on: behaviour.Handler) -> None:
        on.answer(503 if self._engine.is_dead else 200)

    def metrics(self, on: behaviour.Handler) -> None:
        engine = self._engine
        counts = engine.counts
        counts.kv_usage = engine.kv_usage
        labels = engine.options.gpu_memory_utilization, engine.options.kv_cache_dtype
        page = vllm_page.page(self._name, counts, engine.sizes, *labels, old=self._words.is_old)
        on.answer(200, page)

    def version(self, on: behaviour.Handler) -> None:
        on.answer(200, {"version": self._words.version})

    def models(self, on: behaviour.Handler) -> None:
        length = self._engine.sizes.max_model_len
        model = {"id": self._name, "object": "model", "owned_by": "vllm", "max_model_len": length}
        on.answer(200, {"object": "list", "data": [model]})

    def completions(self, on: behaviour.Handler, body: bytes) -> None:
        asked = json.loads(body)
        prompt = asked.get("prompt", "")
        prompt_tokens = len(prompt) if isinstance(prompt, list) else max(1, len(prompt) // 4)
        output_tokens = int(asked.get("max_tokens", 16))
        if self._engine.is_dead or self._engine.requests.next_fails():
            on.answer(500, {"error": {"message": "Internal server error", "code": 500}})
        elif asked.get("model") != self._name:
            message = f"The model `{asked.get('model')}` does not exist."
            on.answer(404, _error(message, "NotFoundError", 404))
        elif prompt_tokens + output_tokens > (most := self._engine.sizes.max_model_len):
            message = f"This model's maximum context length is {most} tokens."
            on.answer(400, _error(message, "BadRequestError", 400))
        elif self._runs_out_of_memory():
            on.answer(500, _error("EngineCore encountered an issue.", "InternalServerError", 500))
            self._leave()
        else:
            self._complete(on, asked, prompt_tokens, output_tokens)

    def _runs_out_of_memory(self) -> bool:
        limit = self._knobs.text("OOM_AFTER_REQUESTS")
        if limit is None or self._engine.requests.count <= int(limit):
            return False
        self._words.out_of_memory_under_load()
        self._engine.is_dead = True
        return True

    def _leave(self) -> None:
        threading.Timer(0.3, behaviour.die, (1,)).start()

    def _complete(
        self, on: behaviour.Handler, asked: dict[str, Any], prompt_tokens: int, output_tokens: int
    ) -> None:
        counts = self._engine.counts
        begun = time.monotonic()
        every = self._knobs.whole("PREEMPT_EVERY")
        if every and self._engine.requests.count % every == 0:
            counts.preemptions += 1
        writer = _Writer(on, asked, self._name)
        with self._engine.room(prompt_tokens + output_tokens):
            time.sleep(self._ttft_s())
            counts.ttft.add(time.monotonic() - begun)
            for number in range(output_tokens):
                time.sleep(self._knobs.number("TPOT_S", 0.001) if number else 0.0)
                writer.token(number, last=number == output_tokens - 1)
        counts.prompt_tokens += prompt_tokens
        counts.output_tokens += output_tokens
        counts.e2e.add(time.monotonic() - begun)
        writer.end(prompt_tokens, output_tokens)

    def _ttft_s(self) -> float:
        limit = self._knobs.text("LATE_TTFT_AFTER")
        is_late = limit is not None and self._engine.requests.count > int(limit)
        return self._knobs.number("TTFT_S", 0.005) * (10 if is_late else 1)


class _Writer:
    """One completion, as a stream or in one piece."""

    def __init__(self, on: behaviour.Handler, asked: dict[str, Any], model: str) -> None:
        self._on = on
        self._streams = bool(asked.get("stream"))
        options = asked.get("stream_options") or {}
        self._tells_usage = bool(options.get("include_usage"))
        self._head = {"id": f"cmpl-{time.time_ns():x}", "object": "text_completion"}
        self._head |= {"created": int(time.time()), "model": model}  # type: ignore[dict-item]
        self._text: list[str] = []
        if self._streams:
            on.begin_events()

    def token(self, number: int, *, last: bool) -> None:
        self._text.append(f" t{number}")
        if self._streams:
            choice = self._choice(self._text[-1], last)
            self._on.event(json.dumps({**self._head, "choices": [choice], "usage": None}))

    def end(self, prompt_tokens: int, output_tokens: int) -> None:
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": prompt_tokens + output_tokens,
        }
        if not self._streams:
            choice = self._choice("".join(self._text), True)
            self._on.answer(200, {**self._head, "choices": [choice], "usage": usage})
            return
        if self._tells_usage:
            self._on.event(json.dumps({**self._head, "choices": [], "usage": usage}))
        self._on.end_events()

    def _choice(self, text: str, last: bool) -> dict[str, object]:
        reason = "length" if last else None
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}


def _error(message: str, kind: str, code: int) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def style_of(knobs: Knobs) -> str:
    """Kind and version that are played."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    return knobs.text("STYLE") or ("cpu-0.32" if hidden else "gpu-0.11")


def is_refused(options: argparse.Namespace, knobs: Knobs, words: Words) -> bool:
    """Whether the version refuses this start on this machine, after it said so."""
    major, minor = (knobs.text("DEVICE_CAPABILITY") or "8.6").split(".")
    asked = Asked(
        release=words.release,
        tensor_parallel_size=options.tensor_parallel_size,
        kv_cache_dtype=options.kv_cache_dtype,
        sleeps=options.enable_sleep_mode,
        environment=os.environ,
        uuids=(knobs.text("DEVICE_UUIDS") or UUIDS).split(","),
        capability=(int(major), int(minor)),
        has_flashinfer=not knobs.is_on("NO_FLASHINFER"),
    )
    found = None if words.is_cpu else first_broken(asked)
    if found is not None:
        words.broken(*found)
        while found[0].where == "hang":
            signal.pause()
    return found is not None


def start(options: argparse.Namespace, knobs: Knobs, style: str) -> tuple[Engine, Words] | None:
    """Load the model that is not there; None if it was refused, after saying why."""
    device = FakeDevice(knobs)
    sizes = sizes_of(options, knobs, device, style)
    ordered = knobs.text("REFUSE")
    sizes = made_to_fail(sizes, ordered) if ordered else sizes
    words = Words(style, options.model, sizes)
    words.hello()
    if behaviour.port_was_in_use(knobs):
        words.port_in_use(options.port)
        return None
    behaviour.misbehave_early(knobs)
    if is_refused(options, knobs, words):
        return None
    cause = ordered or why_not(sizes, words.is_cpu)
    if cause == "host_oom":
        behaviour.die(-signal.SIGKILL)
    elif cause == "timeout_hang":
        signal.pause()
    device.take(max(sizes.requested_bytes, sizes.non_kv_bytes + sizes.kv_bytes))
    time.sleep(knobs.number("START_S", 0.05))
    if cause in ("kv_cache_no_blocks", "kv_cache_too_small"):
        words.loaded() if cause == "kv_cache_no_blocks" else words.sized()
    if cause is not None:
        words.refuse(cause)
        return None
    words.sized()
    return Engine(options, sizes, knobs), words


def main(argv: Sequence[str] | None = None) -> int:
    knobs = Knobs("VLLM")
    style = style_of(knobs)
    options = parse(argv, style)
    started = start(options, knobs, style)
    if started is None:
        return 1
    engine, words = started
    name = (options.served_model_name or [options.model])[0]
    api = Api(engine, words, name)
    keys = options.api_key or [os.environ.get("VLLM_API_KEY", "")]

    handler = behaviour.handler(
        get={
            "/health": api.health,
            "/metrics": api.metrics,
            "/version": api.version,
            "/v1/models": api.models,
        },
        post={"/v1/completions": api.completions},
        api_key=keys[0] or None,
        health_s=knobs.number("HEALTH_S"),
    )
    listener = behaviour.listen(options.host, options.port, handler)
    if listener is None:
        words.port_in_use(options.port)
        return 1
    words.started(f"http://{options.host}:{options.port}")
    behaviour.serve(listener, knobs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
