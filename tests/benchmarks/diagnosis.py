"""How long a log of 100 MB takes to be diagnosed, and how much memory; run by hand.

    python -m tests.benchmarks.diagnosis [--megabytes 100]

Prints, for logs of several kinds, CPU seconds, the ratio to plain reading of the same file by
Python line by line (so that a busy or slow machine shows in both), and the peak of resident
memory. A first number that grows with the log would be a fault: the last column repeats the peak
for a log of a tenth.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.objectives.diagnosis.failing_logs import (
    LOADED,
    OOM,
    READY,
    SIZED,
    engine_died,
    traceback,
)
from tests.paths import ROOT

_DEATH = engine_died("run_busy_loop", "execute_model", error=OOM, serving=True)
_API = "(APIServer pid=3) ERROR 03-01 10:05:00 [serving_chat.py:251] "


def _served(dice: random.Random) -> str:
    """Rates and requests: what nearly all of a large log is."""
    if dice.random() < 0.5:
        port = dice.randrange(1_024, 65_536)
        return f'INFO:     10.0.0.1:{port} - "POST /v1/chat/completions HTTP/1.1" 200 OK\n'
    return (
        f"INFO 03-01 10:05:00 [loggers.py:116] Engine 000: Avg prompt throughput:"
        f" {dice.random() * 1e4:.1f} tokens/s, Avg generation throughput: 391.9 tokens/s, Running:"
        " 69 reqs, Waiting: 12 reqs, GPU KV cache usage: 30.3%, Prefix cache hit rate: 1.8%\n"
    )


def _prompted(dice: random.Random) -> str:
    """The requests themselves, with what people ask."""
    words = " ".join(dice.choice(("why", "does", "memory", "end", "so", "soon")) for _ in range(40))
    return (
        f"INFO 03-01 10:05:00 [logger.py:41] Received request chatcmpl-{dice.random()}: prompt:"
        f" '{words}', params: SamplingParams(n=1, temperature=0.7, max_tokens=512)\n"
    )


def _chatter(dice: random.Random) -> str:
    """Lines of a script that no rule knows, and no level marks."""
    return (
        f"step {dice.randrange(10**6)}: loss {dice.random():.6f}, reward {dice.random():.6f},"
        f" tokens {dice.randrange(10**5)}, seconds {dice.random() * 9:.3f} of the epoch\n"
    )


def _refused(dice: random.Random) -> str:
    """A traceback for each request that is too long."""
    error = f"ValueError: This model's maximum context length is 4096, not {dice.randrange(9_999)}."
    return traceback("create_chat", "_validate_input", error=error, tag=_API) + "\n"


def _restarted(dice: random.Random) -> str:
    """A service that dies and is started again, day and night."""
    banner = "INFO 03-01 10:00:00 [api_server.py:1395] vLLM API server version 0.11.0"
    start = "\n".join((banner, LOADED, SIZED, engine_died("capture_model", error=OOM)))
    return start.replace("700.25", f"{dice.randrange(700)}.25") + "\n"


KINDS: dict[str, Callable[[random.Random], str]] = {
    "rates and requests": _served,
    "logged prompts": _prompted,
    "unknown chatter": _chatter,
    "refused requests": _refused,
    "endless restarts": _restarted,
}


def write(path: Path, kind: str, megabytes: float) -> None:
    """Write a log that starts well, is of `kind` for so many megabytes, and dies."""
    dice = random.Random(kind)
    with path.open("w", encoding="utf-8") as file:
        file.write("\n".join((LOADED, SIZED, READY, "")))
        while file.tell() < megabytes * 1e6:
            file.write("".join(KINDS[kind](dice) for _ in range(500)))
        file.write(_DEATH)


def measure(path: Path) -> tuple[str, float, float, float]:
    """Cause, CPU seconds of the command, of plain reading, and the command's peak MB."""
    began = time.process_time()
    with path.open(encoding="utf-8") as file:
        for _ in file:
            pass
    plain_s = time.process_time() - began
    code = (
        "import json, resource, sys, time\n"
        "from objectives.diagnosis.diagnosis import diagnose\n"
        "from objectives.vllm.log_lines import lines_of\n"
        "began = time.process_time()\n"
        "with open(sys.argv[1], 'rb') as stream:\n"
        "    cause = diagnose(lines_of(stream)).cause\n"
        "used = time.process_time() - began\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(json.dumps([cause, used, peak / 1024]))\n"
    )
    done = subprocess.run(
        (sys.executable, "-c", code, str(path)), cwd=ROOT, capture_output=True, check=True
    )
    cause, used_s, peak_mb = json.loads(done.stdout)
    return cause, used_s, plain_s, peak_mb


def rows(megabytes: float, folder: Path) -> Iterator[str]:
    """One line per kind of log."""
    for kind in KINDS:
        path = folder / "vllm.log"
        write(path, kind, megabytes / 10)
        *_, tenth_mb = measure(path)
        write(path, kind, megabytes)
        cause, used_s, plain_s, peak_mb = measure(path)
        yield (
            f"{kind:20} {used_s:6.2f} s  {used_s / plain_s:6.1f} x  {peak_mb:6.1f} MB"
            f"  {tenth_mb:6.1f} MB  {cause}"
        )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=100.0)
    args = parser.parse_args()
    print(f"{'log':20} {'CPU':>8}  {'reading':>8}  {'peak':>9}  {'of 1/10':>9}  cause")
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(args.megabytes, Path(folder)):
            print(row, flush=True)
    print(f"this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.1f} MB")


if __name__ == "__main__":
    main()
