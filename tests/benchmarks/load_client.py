"""What the load client costs, and how late it sends, against a server that does nothing.

Run by hand, from the repository's root:

    python tests/benchmarks/load_client.py --rates 5 20 80 --seconds 10

The server is a process of its own on the same machine. Every rate is driven by the client of
`objectives.load.client` and by a bare one: sockets and nothing else, the least that sending so many
requests can cost in this language. Figures of one machine at one moment: read the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from objectives.load import LlmLoad, LoadProfile, Target, Trace, call, drive, plan
from objectives.measurement import quantile, summarise

TOKENS = 32
_EVENT = b'data: {"id":"cmpl-1","choices":[{"index":0,"text":"x","finish_reason":null}]}\n\n'
_USAGE = json.dumps({"choices": [], "usage": {"completion_tokens": TOKENS}})
_END = f"data: {_USAGE}\n\ndata: [DONE]\n\n".encode()
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """32 events, five milliseconds apart."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    writer.write(_HEAD)
    for _ in range(TOKENS):
        await asyncio.sleep(0.005)
        writer.write(_EVENT)
    writer.write(_END)
    await writer.drain()
    writer.close()


def _serve(ready: Connection) -> None:
    async def forever() -> None:
        server = await asyncio.start_server(_answer, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(forever())


@contextmanager
def trivial_server() -> Iterator[int]:
    """The port of a server in a process of its own; gone afterwards."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(theirs,), daemon=True
    )
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


async def _bare(trace: Trace, port: int) -> tuple[list[float], float]:
    """Send the trace with sockets alone: lags in seconds, CPU seconds of this thread."""
    target = Target(url="", model="m")
    bodies = [(request.due_s, call(request, "measure", target).body) for request in trace.measure]
    lags_s: list[float] = []
    cpu_s, began = time.thread_time(), time.monotonic()

    async def one(due_s: float, body: bytes) -> None:
        lags_s.append(time.monotonic() - began - due_s)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        while await reader.read(65536):
            pass
        writer.close()

    tasks = []
    for due_s, body in bodies:
        await asyncio.sleep(max(0.0, due_s - (time.monotonic() - began)))
        tasks.append(asyncio.create_task(one(due_s, body)))
    await asyncio.gather(*tasks)
    return lags_s, time.thread_time() - cpu_s


def measure(rate_rps: float, seconds: float, port: int) -> dict[str, float]:
    """One rate with both clients; milliseconds of CPU a request, and of lag."""
    load = LlmLoad(rate_rps=rate_rps, prompt_tokens=64, output_tokens=TOKENS, vocab_size=32_000)
    trace = plan(LoadProfile(seed=1, llm=load, warmup_s=1.0, measure_s=seconds))
    lags_s, bare_cpu_s = asyncio.run(_bare(trace, port))
    target = Target(url=f"http://127.0.0.1:{port}", model="m")
    driven = drive(trace, llm=target, stt=None, check=lambda: None)
    seen = summarise(driven)
    if seen.llm is None or seen.llm.failed or not lags_s:
        raise SystemExit(f"the trivial server did not answer: {seen.doubts}")
    count = len(trace.measure)
    return {
        "requests": count,
        "cpu_ms": 1000 * driven.client.cpu_s / count,
        "bare_cpu_ms": 1000 * bare_cpu_s / count,
        "lag_p50_ms": 1000 * (seen.client.lag_s.p50 or 0.0),
        "lag_p95_ms": 1000 * (seen.client.lag_s.p95 or 0.0),
        "bare_lag_p50_ms": 1000 * (quantile(sorted(lags_s), 0.50) or 0.0),
        "bare_lag_p95_ms": 1000 * (quantile(sorted(lags_s), 0.95) or 0.0),
        "busy_percent": 100 * driven.client.cpu_s / driven.client.wall_s,
    }


def main() -> int:
    """Print one line a rate."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rates", type=float, nargs="+", default=[5.0, 20.0, 80.0])
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    print("rate  requests  CPU ms/request (bare, ratio)   lag p50/p95 ms (bare)        core busy")
    with trivial_server() as port:
        for rate in args.rates:
            row = measure(rate, args.seconds, port)
            print(
                f"{rate:4.0f}  {row['requests']:8.0f}  {row['cpu_ms']:8.2f} "
                f"({row['bare_cpu_ms']:.2f}, {row['cpu_ms'] / row['bare_cpu_ms']:.1f}x)"
                f"           {row['lag_p50_ms']:6.2f} / {row['lag_p95_ms']:6.2f} "
                f"({row['bare_lag_p50_ms']:.2f} / {row['bare_lag_p95_ms']:.2f})"
                f"   {row['busy_percent']:5.1f} %"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
