"""Both servers at once, each request sent when it is due, whatever became of those before it.

The loop is open: nobody waits for an answer before the next request goes out, and there is no
limit on connections, so a slow server meets the queue that it would meet in production. One
event loop and one monotonic clock serve both servers.

The client measures itself, too: how late it sent (`Sample.lag_s`), and the processor time it
took. The garbage collector rests during the window. Readings of the metrics page are kept as
text and understood afterwards.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from objectives.load.exchange import Call, Target, call
from objectives.load.profile import LlmRequest, Trace
from objectives.load.samples import ClientCost, Driven, Phase, Sample, Span
from objectives.units import MIB
from objectives.vllm import compare_pages

CHECK_EVERY_S = 0.5
"""Seconds between two calls of `check`."""

_IDLE_CONNECTION_S = 2.0
"""Idle connections are closed after this: before uvicorn's 5 s, so none is used as it closes."""

_READ_BUFFER_BYTES = MIB
"""A streamed event of a long answer must fit; aiohttp's own 64 KiB is too small for some."""

_PAGE_TIMEOUT_S = 2.0


def drive(
    trace: Trace,
    *,
    llm: Target | None,
    stt: Target | None,
    check: Callable[[], None],
    on_phase: Callable[[str], None] = lambda name: None,
) -> Driven:
    """Send a trace, and keep what is seen of every request.

    First the warm-up, until all of it is answered or given up; then the window. A phase ends when
    its time is over and nothing is under way, or `drain_s` later: what is not done then has
    failed as "unfinished".

    Args:
        trace: What to send, and when.
        llm: Where prompts go; None leaves them out.
        stt: Where clips go; None leaves them out.
        check: Called about twice a second, between two requests, so it must be quick. If it raises,
            everything under way is given up and its error comes out of here, unchanged.
        on_phase: Called with "warmup", "measure" and "drain" as each begins.

    Returns:
        Every sample, in order of when it was due.

    Raises:
        ValueError: Neither target is given, or there is nothing in the window to send to them.
        RuntimeError: Called from inside a running event loop.
    """
    run = _LoadRun(trace=trace, llm=llm, stt=stt, check=check, on_phase=on_phase)
    if not run.calls("measure"):
        raise ValueError("there is nothing to send: no request of the window has a target")
    return asyncio.run(run.watched())


@dataclass(kw_only=True)
class _LoadRun:
    """One run through the phases of a trace."""

    trace: Trace
    llm: Target | None
    stt: Target | None
    check: Callable[[], None]
    on_phase: Callable[[str], None]
    longest_check_s: float = 0.0
    spans: list[Span] = field(default_factory=list)
    begun: tuple[str, float] | None = None

    def calls(self, phase: Phase) -> list[Call]:
        """The requests of a phase that have a target, ready to go."""
        requests = self.trace.warmup if phase == "warmup" else self.trace.measure
        aimed = [(one, self.llm if isinstance(one, LlmRequest) else self.stt) for one in requests]
        return [call(request, phase, target) for request, target in aimed if target is not None]

    async def watched(self) -> Driven:
        """The phases, with `check` beside; the first of the two to end decides."""
        phases = asyncio.create_task(self._phases())
        watching = asyncio.create_task(self._watch())
        try:
            # Not gather(): an error of `check` must cancel the requests under way, not wait for
            # them.
            await asyncio.wait({phases, watching}, return_when=asyncio.FIRST_COMPLETED)
            return watching.result() if watching.done() else phases.result()
        finally:
            await _give_up([phases, watching])

    async def _watch(self) -> Driven:
        """Call `check` until cancelled; it never returns, but may raise."""
        while True:
            began = time.monotonic()
            self.check()
            self.longest_check_s = max(self.longest_check_s, time.monotonic() - began)
            await asyncio.sleep(CHECK_EVERY_S)

    async def _phases(self) -> Driven:
        profile = self.trace.profile
        warmup_calls, calls = self.calls("warmup"), self.calls("measure")
        async with _session() as session:
            warmup: list[Sample] = []
            if warmup_calls:
                self._begin("warmup")
                warmup = await self._phase(session, warmup_calls, profile.warmup_s)
            pages = _Pages(session, self.llm)
            await pages.read()
            with _collector_at_rest():
                self.longest_check_s = 0.0
                self._begin("measure")
                cost = _Meter()
                reading = asyncio.create_task(pages.keep_reading())
                try:
                    samples = await self._phase(
                        session, calls, profile.measure_s, lambda: self._begin("drain")
                    )
                finally:
                    await _give_up([reading])
                client = cost.stop(self.longest_check_s)
            self._end()
            await pages.read()
        return Driven(
            trace_sha256=self.trace.sha256,
            seed=profile.seed,
            measure_s=profile.measure_s,
            warmup=tuple(warmup),
            samples=tuple(samples),
            client=client,
            spans=tuple(self.spans),
            pages=compare_pages(pages.texts, missed=pages.missed),
        )

    async def _phase(
        self,
        session: aiohttp.ClientSession,
        calls: Sequence[Call],
        duration_s: float,
        on_drain: Callable[[], None] = lambda: None,
    ) -> list[Sample]:
        """Send every call when it is due; wait for the answers; give up those that do not come."""
        began, profile = time.monotonic(), self.trace.profile

        def clock() -> float:
            return time.monotonic() - began

        tasks: list[asyncio.Task[None]] = []
        try:
            for one in calls:
                await asyncio.sleep(max(0.0, one.sample.due_s - clock()))
                tasks.append(asyncio.create_task(one.make(session, clock, profile.timeout_s)))
            await asyncio.sleep(max(0.0, duration_s - clock()))
            on_drain()
            await asyncio.wait(tasks, timeout=profile.drain_s)
        finally:
            await _give_up(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()  # a request keeps its failures on its sample; this is a fault of ours
        for one in calls:
            if one.sample.done_s is None:
                one.sample.fail("unfinished", f"not done {profile.drain_s:g} s after the phase")
        return [one.sample for one in calls]

    def _begin(self, name: str) -> None:
        """A phase begins where the one before ends."""
        self._end()
        self.begun = (name, time.monotonic())
        self.on_phase(name)

    def _end(self) -> None:
        if self.begun is not None:
            name, start_s = self.begun
            self.spans.append(Span(phase=name, start_s=start_s, end_s=time.monotonic()))
            self.begun = None


@dataclass
class _Pages:
    """Readings of the language model's metrics page: text, in order of time."""

    session: aiohttp.ClientSession
    target: Target | None
    texts: list[str] = field(default_factory=list)
    missed: int = 0

    async def read(self) -> None:
        """One reading, if readings are wanted; one that does not come is counted."""
        if self.target is None or self.target.pages_every_s is None:
            return
        url = f"{self.target.url.rstrip('/')}/metrics"
        with suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with (
                asyncio.timeout(_PAGE_TIMEOUT_S),
                self.session.get(url, headers=self.target.headers) as response,
            ):
                text = await response.text(errors="replace")
                if response.status == 200:
                    self.texts.append(text)
                    return
        self.missed += 1

    async def keep_reading(self) -> None:
        """Read again and again, until cancelled."""
        while self.target is not None and self.target.pages_every_s is not None:
            await asyncio.sleep(self.target.pages_every_s)
            await self.read()


class _Meter:
    """What the client costs, from its making until it is stopped."""

    def __init__(self) -> None:
        self._began = (time.monotonic(), time.thread_time(), time.process_time())

    def stop(self, longest_check_s: float) -> ClientCost:
        wall, thread, process = self._began
        return ClientCost(
            cpu_s=time.thread_time() - thread,
            process_cpu_s=time.process_time() - process,
            wall_s=time.monotonic() - wall,
            longest_check_s=longest_check_s,
        )


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_CONNECTION_S),
        timeout=aiohttp.ClientTimeout(total=None),  # each request has a deadline of its own
        read_bufsize=_READ_BUFFER_BYTES,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def _give_up(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel what is not done, and wait until it has gone."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """No garbage collection inside: a full one takes longer than a request may be late."""
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()
