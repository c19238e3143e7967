"""Both servers at once, each request sent when it is due: against real servers on real sockets.

Nothing here asserts how quick the machine is: times of the client are compared with what the
servers themselves wrote down, on the same clock.
"""

import asyncio
import gc
import io
import json
import threading
import time
import wave
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
from aiohttp import web

from objectives.errors import ServerDiedError
from objectives.load.client import drive
from objectives.load.exchange import Target
from objectives.load.profile import LlmLoad, LoadProfile, SttLoad, plan
from objectives.measurement.summary import summarise

PROFILE = LoadProfile(
    seed=3,
    llm=LlmLoad(rate_rps=20.0, prompt_tokens=(4, 9), output_tokens=3, vocab_size=500),
    stt=SttLoad(rate_rps=10.0, clip_s=(0.1, 0.2)),
    warmup_s=0.2,
    measure_s=0.6,
    drain_s=30.0,
    timeout_s=30.0,
)
LLM_ONLY = replace(PROFILE, stt=None, warmup_s=0.0, measure_s=0.3)
STT_ONLY = replace(PROFILE, llm=None, warmup_s=0.0, measure_s=0.3)
NO_TRACE_LEFT_S = 5.0


@dataclass
class Servers:
    """Both servers in one, with knobs; what came in is written down."""

    token_s: float = 0.0
    tokens_per_event: int = 1
    text: str = "x"
    status: int = 200
    refusal: str = '{"error": {"message": "no room", "type": "cuda_out_of_memory"}}'
    stream: str = "whole"  # whole, no usage, cut, broken, error, empty, hang
    transcript: str = '{"text": "so", "usage": {"type": "tokens", "output_tokens": 4}}'
    metrics: bool = True
    hold_until: int = 0  # answers begin only when so many requests are inside at once
    hold_until_read: bool = False  # ... and the metrics page has been read meanwhile
    most_at_once: int = 0
    at_once: int = 0
    seen: list[dict] = field(default_factory=list)
    page_reads: int = 0
    url: str = ""

    def app(self):
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/completions", self.complete)
        app.router.add_post("/v1/audio/transcriptions", self.transcribe)
        app.router.add_get("/metrics", self.page)
        return app

    def note(self, request, **more):
        entry = {
            "path": request.path,
            "at_s": time.monotonic(),
            "authorization": request.headers.get("Authorization"),
            **more,
        }
        self.seen.append(entry)
        return entry

    def of(self, path):
        return [entry for entry in self.seen if entry["path"] == path]

    async def complete(self, request):
        body = await request.json()
        entry = self.note(request, body=body)
        if self.status != 200:
            return web.Response(status=self.status, text=self.refusal)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self.answer(request, body, entry)
        finally:
            self.at_once -= 1

    async def answer(self, request, body, entry):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if self.stream == "hang":
            await asyncio.sleep(3600)
        await self.hold()
        count = 0 if self.stream == "empty" else body["max_tokens"]
        for _ in range(0, count, self.tokens_per_event):
            await asyncio.sleep(self.token_s * self.tokens_per_event)
            await self.event(response, {"choices": [{"text": self.text}]})
        entry["done_s"] = time.monotonic()
        if self.stream == "broken":
            await response.write(b"data: {half an obj\n\n")
        if self.stream == "error":
            await self.event(response, {"error": {"message": "engine died", "code": 500}})
        if self.stream != "no usage":
            usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": count}
            await self.event(response, {"choices": [], "usage": usage})
        if self.stream == "cut":
            request.transport.close()
            return response
        await response.write(b": a comment\n\ndata: [DONE]\n\n")
        return response

    async def hold(self):
        if self.at_once >= self.hold_until and not self.hold_until_read:
            self.hold_until = 0
        while self.hold_until:
            await asyncio.sleep(0.005)

    async def event(self, response, content):
        await response.write(f"data: {json.dumps(content)}\n\n".encode())

    async def transcribe(self, request):
        form = await request.post()
        raw = form["file"].file.read()
        with wave.open(io.BytesIO(raw)) as reader:
            audio_s = reader.getnframes() / reader.getframerate()
        fields = {key: value for key, value in form.items() if key != "file"}
        self.note(request, fields=fields, audio_s=audio_s, file_type=form["file"].content_type)
        return web.Response(
            status=self.status,
            text=self.transcript if self.status == 200 else self.refusal,
            headers={"Server-Timing": "queue;dur=1.50, infer;dur=20"},
        )

    async def page(self, request):
        self.note(request)
        if not self.metrics:
            raise web.HTTPNotFound
        self.page_reads += 1
        if self.at_once >= self.hold_until:
            self.hold_until = 0
        return web.Response(
            text=f"vllm:num_requests_running {self.at_once}\nvllm:num_requests_waiting 0\n"
            f"vllm:num_preemptions_total {self.page_reads}\n"
            f"vllm:generation_tokens_total {10 * self.page_reads}\n"
        )

    @contextmanager
    def running(self):
        """Serve on a free port of the loopback, in a thread of its own."""
        ready, stop = threading.Event(), asyncio.Event()
        loops = []

        async def serve():
            runner = web.AppRunner(self.app(), shutdown_timeout=0.1, handler_cancellation=True)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            loops.append(asyncio.get_running_loop())
            ready.set()
            await stop.wait()
            await runner.cleanup()

        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        assert ready.wait(10)
        try:
            yield self
        finally:
            loops[0].call_soon_threadsafe(stop.set)
            thread.join(10)
            assert not thread.is_alive()


def send(
    servers,
    profile=PROFILE,
    *,
    trace=None,
    check=lambda: None,
    on_phase=lambda name: None,
    **target,
):
    aim = Target(url=servers.url, model="m", api_key="secret", **target)
    return drive(trace or plan(profile), llm=aim, stt=aim, check=check, on_phase=on_phase)


@pytest.fixture(scope="module")
def run():
    phases = []
    with Servers(token_s=0.004).running() as servers:
        driven = send(servers, on_phase=phases.append, pages_every_s=0.1)
    return servers, driven, phases


class TestACalmRun:
    def test_every_request_of_the_trace_is_answered_and_kept(self, run):
        _, driven, _ = run
        trace = plan(PROFILE)
        assert len(driven.warmup) == len(trace.warmup)
        assert [sample.due_s for sample in driven.samples] == [r.due_s for r in trace.measure]
        assert [sample.failure for sample in (*driven.warmup, *driven.samples)] == [None] * 24
        assert driven.trace_sha256 == trace.sha256

    def test_the_servers_saw_what_the_trace_says(self, run):
        servers, _, _ = run
        trace = plan(PROFILE)
        prompts = [r for r in (*trace.warmup, *trace.measure) if hasattr(r, "prompt")]
        bodies = [entry["body"] for entry in servers.of("/v1/completions")]
        assert sorted(body["prompt"] for body in bodies) == sorted(list(r.prompt) for r in prompts)
        for body in bodies:
            assert body["max_tokens"] == body["min_tokens"] == 3
            assert (body["ignore_eos"], body["temperature"], body["model"]) == (True, 0, "m")
            assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
        clips = servers.of("/v1/audio/transcriptions")
        assert {entry["audio_s"] for entry in clips} == {0.1, 0.2}
        assert clips[0]["fields"] == {"model": "m", "response_format": "json"}
        assert clips[0]["file_type"] == "audio/wav"

    def test_every_request_carries_the_key(self, run):
        servers, _, _ = run
        assert {entry["authorization"] for entry in servers.seen} == {"Bearer secret"}

    def test_times_follow_one_another_as_they_must(self, run):
        _, driven, _ = run
        for sample in driven.of("llm"):
            assert sample.due_s <= sample.sent_s < sample.first_s < sample.last_s <= sample.done_s
            assert (sample.events, sample.output_tokens, sample.asked_tokens) == (3, 3, 3)
            assert sample.ttft_s >= 0.004, "the server slept so long before the first token"
            assert sample.tpot_s > 0
        for sample in driven.of("stt"):
            assert sample.due_s <= sample.sent_s < sample.done_s
            assert (sample.text, sample.output_tokens) == ("so", 4)
            assert (sample.queue_s, sample.infer_s) == (0.0015, 0.02)
            assert sample.infer_rtf == pytest.approx(0.02 / sample.audio_s)

    def test_client_and_server_agree_on_one_clock(self, run):
        """Nothing arrived before it was sent."""
        servers, driven, _ = run
        (window,) = [span for span in driven.spans if span.phase == "measure"]
        arrived = sorted(entry["at_s"] for entry in servers.of("/v1/completions"))
        sent = sorted(window.start_s + sample.sent_s for sample in driven.of("llm"))
        for sent_s, arrived_s in zip(sent, arrived[-len(sent) :], strict=True):
            assert sent_s <= arrived_s

    def test_phases_follow_one_another_and_are_announced(self, run):
        _, driven, phases = run
        assert phases == ["warmup", "measure", "drain"]
        assert [span.phase for span in driven.spans] == phases
        ends = [span.end_s for span in driven.spans]
        assert all(span.start_s <= span.end_s for span in driven.spans)
        assert all(end <= span.start_s for end, span in zip(ends, driven.spans[1:], strict=False))
        assert driven.spans[1].end_s - driven.spans[1].start_s >= PROFILE.measure_s

    def test_nothing_of_the_window_is_sent_before_the_warm_up_is_answered(self, run):
        _, driven, _ = run
        warmup, window = driven.spans[0], driven.spans[1]
        last = max(sample.done_s for sample in driven.warmup)
        assert warmup.start_s + last <= window.start_s

    def test_the_client_says_what_it_cost(self, run):
        _, driven, _ = run
        assert driven.client.wall_s >= PROFILE.measure_s
        assert 0 < driven.client.cpu_s <= driven.client.process_cpu_s

    def test_the_metrics_page_is_read_before_during_and_after(self, run):
        servers, driven, _ = run
        assert driven.pages.taken == servers.page_reads >= 3
        assert driven.pages.preemptions == servers.page_reads - 1
        assert driven.pages.output_tokens == 10 * (servers.page_reads - 1)

    def test_its_samples_make_a_measurement(self, run):
        _, driven, _ = run
        seen = summarise(driven)
        assert seen.llm.requests == 12
        assert seen.stt.requests == 6
        assert seen.llm.failed == seen.stt.failed == 0


def test_a_slow_server_does_not_slow_the_arrivals():
    """Open loop: no answer begins before the last request has come, and the last one comes."""
    with Servers(hold_until=6).running() as servers:
        driven = send(servers, LLM_ONLY)
    assert servers.most_at_once == len(driven.samples) == 6
    assert all(sample.answered for sample in driven.samples)


def test_a_stalled_client_counts_its_delay_into_the_latency():
    """The stall happens in `check`; what was due meanwhile is late, and says so."""
    stalls = iter([0.0, 0.3])

    def check():
        time.sleep(next(stalls, 0.0))

    with Servers().running() as servers:
        driven = send(servers, replace(LLM_ONLY, measure_s=0.9), check=check)
    assert driven.client.longest_check_s >= 0.3
    late = max(driven.samples, key=lambda sample: sample.lag_s)
    assert late.lag_s > 0.1
    assert late.latency_s > late.lag_s
    assert late.ttft_s > late.lag_s


def test_the_first_event_counts_even_with_an_empty_text():
    with Servers(text="", token_s=0.002).running() as servers:
        driven = send(servers, LLM_ONLY)
    assert all(sample.first_s is not None for sample in driven.samples)


def test_several_tokens_in_one_event_are_all_counted():
    with Servers(tokens_per_event=3).running() as servers:
        driven = send(servers, LLM_ONLY)
    assert {(sample.events, sample.output_tokens) for sample in driven.samples} == {(1, 3)}
    assert all(sample.tpot_s is None for sample in driven.samples), "one event: no time between"


def test_a_server_that_does_not_count_leaves_the_count_absent():
    with Servers(stream="no usage").running() as servers:
        driven = send(servers, LLM_ONLY)
    assert {sample.output_tokens for sample in driven.samples} == {None}
    assert any("did not say how many tokens" in doubt for doubt in summarise(driven).doubts)


@pytest.mark.parametrize(
    ("knobs", "kind", "said"),
    [
        ({"status": 507}, "oom", "HTTP 507: no room"),
        ({"status": 500, "refusal": "boom\nat line 3"}, "http", "HTTP 500: boom at line 3"),
        ({"status": 400, "refusal": '{"error": "bad"}'}, "http", "HTTP 400: bad"),
        ({"stream": "cut"}, "connection", ""),
        ({"stream": "broken"}, "answer", "JSONDecodeError"),
        ({"stream": "error"}, "answer", "engine died"),
        ({"stream": "empty"}, "answer", "ended after 0 events"),
    ],
)
def test_an_answer_that_is_none_is_a_failure_with_a_reason(knobs, kind, said):
    with Servers(**knobs).running() as servers:
        driven = send(servers, LLM_ONLY)
    assert len(driven.samples) == 6, "failed requests are kept"
    for sample in driven.samples:
        assert sample.failure.kind == kind
        assert said in sample.failure.message
        assert sample.latency_s is None


@pytest.mark.parametrize(
    ("knobs", "kind"),
    [
        ({"status": 507}, "oom"),
        ({"transcript": "not json"}, "answer"),
        ({"transcript": '{"no": "text"}'}, "answer"),
        ({"transcript": "[1]"}, "answer"),
    ],
)
def test_a_transcript_that_is_none_is_a_failure_with_a_reason(knobs, kind):
    with Servers(**knobs).running() as servers:
        driven = send(servers, STT_ONLY)
    assert {sample.failure.kind for sample in driven.samples} == {kind}
    if kind == "oom":
        assert {sample.failure.status for sample in driven.samples} == {507}


def test_nobody_at_the_other_end_is_a_failure_of_the_connection():
    with Servers().running() as servers:
        pass
    driven = send(servers, LLM_ONLY, pages_every_s=0.1)
    assert {sample.failure.kind for sample in driven.samples} == {"connection"}
    assert driven.pages is None


def test_over_its_time_a_request_has_failed_and_the_others_go_on():
    with Servers(stream="hang").running() as servers:
        driven = send(servers, replace(LLM_ONLY, timeout_s=0.2))
    assert {sample.failure.kind for sample in driven.samples} == {"timeout"}


def test_what_is_not_done_when_draining_ends_has_failed_as_unfinished():
    with Servers(stream="hang").running() as servers:
        driven = send(servers, replace(PROFILE, warmup_s=0.0, measure_s=0.3, drain_s=0.2))
        kinds = {sample.failure.kind for sample in driven.of("llm")}
    assert kinds == {"unfinished"}
    assert all(sample.sent_s is not None for sample in driven.samples)
    assert all(sample.answered for sample in driven.of("stt"))


def test_an_error_of_check_comes_out_unchanged_and_ends_everything():
    death = ServerDiedError("vllm", log=None, returncode=-9)
    calls = []

    def check():
        calls.append(time.monotonic())
        if len(calls) == 2:
            raise death

    with Servers(stream="hang").running() as servers:
        with pytest.raises(ServerDiedError) as raised:
            send(servers, replace(PROFILE, drain_s=3600.0, timeout_s=3600.0), check=check)
        assert raised.value is death
        assert raised.value.__cause__ is None
        until = time.monotonic() + NO_TRACE_LEFT_S
        while servers.at_once and time.monotonic() < until:
            time.sleep(0.01)
        assert servers.at_once == 0, "every connection was closed"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_comes_out_too(error):
    def check():
        raise error

    with Servers().running() as servers, pytest.raises(error):
        send(servers, check=check)


def test_check_is_asked_from_the_beginning_and_about_twice_a_second():
    calls = []
    with Servers().running() as servers:
        driven = send(servers, replace(LLM_ONLY, measure_s=1.2), check=lambda: calls.append(1))
    assert 2 <= len(calls) <= 2 * driven.client.wall_s + 2


def test_an_error_of_on_phase_comes_out_unchanged():
    def on_phase(name):
        if name == "drain":
            raise LookupError(name)

    with Servers().running() as servers, pytest.raises(LookupError, match="drain"):
        send(servers, LLM_ONLY, on_phase=on_phase)


@pytest.mark.parametrize("was_on", [True, False])
def test_the_garbage_collector_rests_in_the_window_and_is_as_before_afterwards(was_on):
    states = {}
    (gc.enable if was_on else gc.disable)()
    try:
        with Servers().running() as servers:
            send(servers, on_phase=lambda name: states.update({name: gc.isenabled()}))
            with pytest.raises(LookupError):
                send(servers, LLM_ONLY, on_phase=lambda name: {}[name])
        assert gc.isenabled() is was_on
    finally:
        gc.enable()
    assert states == {"warmup": was_on, "measure": False, "drain": False}


def test_a_server_that_is_left_out_gets_nothing():
    with Servers().running() as servers:
        aim = Target(url=servers.url + "/", model="m")
        driven = drive(plan(PROFILE), llm=None, stt=aim, check=lambda: None)
    assert {sample.server for sample in driven.samples} == {"stt"}
    assert servers.of("/v1/completions") == []
    assert {entry["authorization"] for entry in servers.seen} == {None}


def test_nothing_to_send_is_a_mistake():
    with pytest.raises(ValueError, match="nothing to send"):
        drive(plan(PROFILE), llm=None, stt=None, check=lambda: None)


def test_a_server_without_a_metrics_page_has_no_pages():
    with Servers(metrics=False).running() as servers:
        driven = send(servers, LLM_ONLY, pages_every_s=0.1)
    assert driven.pages is None
    assert all(sample.answered for sample in driven.samples)


def test_many_requests_that_are_due_together_are_inside_the_server_all_at_once():
    trace = plan(replace(LLM_ONLY, measure_s=2.0))
    at_once = [replace(request, due_s=0.0) for request in trace.measure][:40]
    profile = replace(trace.profile, measure_s=0.1, drain_s=20.0)
    trace = replace(trace, profile=profile, measure=tuple(at_once))
    with Servers(hold_until=len(at_once), hold_until_read=True).running() as servers:
        driven = send(servers, trace=trace, pages_every_s=0.1)
    assert len(at_once) > 20
    assert servers.most_at_once == len(at_once)
    assert driven.pages.most_running == len(at_once)
    assert [sample.failure for sample in driven.samples] == [None] * len(at_once)


def test_a_long_clip_is_sent_whole():
    """Beyond a megabyte aiohttp would warn about a body in one piece, and warnings are errors."""
    profile = replace(STT_ONLY, measure_s=0.1, stt=SttLoad(rate_rps=10.0, clip_s=(40.0,)))
    with Servers().running() as servers:
        driven = send(servers, profile)
    assert [entry["audio_s"] for entry in servers.seen] == [40.0]
    assert driven.samples[0].answered
