"""Write made-up tables for samplers: `python -m tests.benchmarks.synthetic_tables FOLDER`.

Each table is a device of its own: what it has, how fast it is and how noisy it measures are drawn
by its seed. Two kinds, so that no sampler wins by knowing one structure:

shared     utilisation, Whisper's size, max-num-seqs, max-model-len: what people search first
other      utilisation, Whisper's size and precision, max-num-batched-tokens, eager or not:
           categories without an order, a latency that falls and rises again, no max-num-seqs
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

REPLICATES = 3
SIZES = ("tiny", "base", "small", "medium", "large")
WER = (7.6, 5.0, 3.4, 2.9, 2.4)
GIB = (0.4, 0.6, 1.2, 2.8, 5.5)
WORK = (1.0, 1.9, 4.5, 13.0, 25.0)
"""Of each Whisper size: word error rate in percent, weights, time of a clip over tiny's."""

Point = dict[str, Any]
Outcome = tuple[dict[str, float], dict[str, float]]
"""Objectives and constraints (excess in GiB) of a point, without noise."""


class Device:
    """A device's constants, drawn by seed."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.total_gib = float(rng.choice([12, 16, 24]))
        self.weights_gib = self.total_gib * rng.uniform(0.3, 0.46)
        self.neighbours_gib = self.total_gib * rng.uniform(0.04, 0.2)
        self.cache_gib_per_request = self.total_gib * rng.uniform(0.004, 0.012)
        self.stt_ms = rng.uniform(25, 90)
        self.llm_ms = rng.uniform(250, 900)
        self.batch_cost = rng.uniform(0.02, 0.06)
        self.batch_power = rng.uniform(0.6, 1.1)
        self.contention = rng.uniform(0.05, 0.5)
        self.noise = rng.uniform(0.015, 0.06)
        self.sizes = SIZES[: int(rng.integers(3, 6))]
        self.utils = [round(u, 2) for u in np.linspace(0.3, 0.7, int(rng.integers(6, 11)))]

    def cache_gib(self, util: float) -> float:
        """What is left for the KV cache."""
        return util * self.total_gib - self.weights_gib

    def excess(self, cache_gib: float, util: float, whisper_gib: float) -> dict[str, float]:
        """Both constraints: a block of cache, and room on the device."""
        used = util * self.total_gib + whisper_gib + self.neighbours_gib
        return {"kv_cache": 0.1 - cache_gib, "device_memory": used - 0.97 * self.total_gib}

    def latencies(self, work: float, load: float) -> tuple[float, float]:
        """Whisper's and vLLM's milliseconds, each slowed down by the other."""
        batch = self.batch_cost * load**self.batch_power
        stt = self.stt_ms * work * (1 + self.contention * batch)
        return stt, self.llm_ms * (1 + batch) * (1 + 0.3 * self.contention * np.log(work))


def shared(device: Device) -> tuple[Mapping[str, Sequence[Any]], Callable[[Point], Outcome]]:
    """What people search first: three ordered numbers, and Whisper's size."""
    levels = {
        "vllm_memory_util": device.utils,
        "whisper_model_size": device.sizes,
        "max_num_seqs": (2, 4, 8, 16, 32),
        "max_model_len": (1024, 2048, 4096),
    }

    def outcome(point: Point) -> Outcome:
        size = SIZES.index(point["whisper_model_size"])
        util, seqs = point["vllm_memory_util"], point["max_num_seqs"]
        cache = device.cache_gib(util) - 0.01 * seqs
        room = max(cache, 0.0) / device.cache_gib_per_request / (point["max_model_len"] / 2048)
        capacity = max(1.0, min(seqs, room))
        stt, llm = device.latencies(WORK[size] * (1 + device.contention * (util - 0.3)), capacity)
        llm *= 1 + 0.05 * max(0.0, seqs - room) / seqs  # requests that wait
        return _named(stt, llm, capacity, WER[size]), device.excess(cache, util, GIB[size])

    return levels, outcome


def other(device: Device) -> tuple[Mapping[str, Sequence[Any]], Callable[[Point], Outcome]]:
    """Another structure: categories without an order, and a latency with its best in between."""
    precisions = {"float32": (2.0, 1.8, 0.0), "float16": (1.0, 1.0, 0.0), "int8": (0.6, 0.75, 0.4)}
    levels = {
        "vllm_memory_util": device.utils,
        "whisper_model_size": device.sizes,
        "compute_type": tuple(precisions),
        "max_num_batched_tokens": (512, 1024, 2048, 4096, 8192),
        "enforce_eager": (False, True),
    }

    def outcome(point: Point) -> Outcome:
        size = SIZES.index(point["whisper_model_size"])
        memory, work, worse = precisions[point["compute_type"]]
        util, eager = point["vllm_memory_util"], point["enforce_eager"]
        octave = np.log2(point["max_num_batched_tokens"] / 2048)
        graphs = 0.0 if eager else 0.02 * device.total_gib
        cache = device.cache_gib(util) - 0.012 * device.total_gib * 2**octave / 2 - graphs
        capacity = float(np.clip(cache / device.cache_gib_per_request, 1.0, 48.0))
        stt, llm = device.latencies(WORK[size] * work * (1 + 0.06 * 2**octave), capacity)
        llm *= (1.25 if eager else 1.0) * (1 + 0.08 * (octave - 0.5) ** 2)
        constraints = device.excess(cache, util, memory * GIB[size])
        return _named(stt, llm, capacity, WER[size] + worse), constraints

    return levels, outcome


KINDS = {"shared": shared, "other": other}


def _named(stt: float, llm: float, capacity: float, wer: float) -> dict[str, float]:
    return {
        "stt_latency_ms": stt,
        "llm_latency_ms": llm,
        "concurrent_capacity": round(capacity, 1),
        "wer": wer,
    }


def write(path: Path, kind: str, seed: int) -> None:
    """One table, `REPLICATES` rows a point; the same for the same kind and seed."""
    device, rng = Device(seed), np.random.default_rng([seed, 1])
    levels, outcome = KINDS[kind](device)
    lines = []
    for values in itertools.product(*levels.values()):
        point = dict(zip(levels, values, strict=True))
        figures, constraints = outcome(point)
        violated = [name for name, excess in constraints.items() if excess > 0]
        for _ in range(REPLICATES):
            line = {f"param:{name}": value for name, value in point.items()}
            for name, figure in figures.items():
                noisy = np.exp(device.noise * rng.normal()) if name.endswith("_ms") else 1.0
                line[f"value:{name}"] = "" if violated else f"{figure * noisy:.2f}"
            line |= {f"constraint:{name}": f"{e:.4f}" for name, e in constraints.items()}
            line["state"] = "PRUNED" if violated else "COMPLETE"
            lines.append({**line, "cause": violated[0] if violated else "", "duration_s": "60.0"})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the tables, and say where they are."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.synthetic_tables")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], metavar="N")
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    for kind, seed in itertools.product(KINDS, args.seeds):
        path = args.folder / f"{kind}_{seed}.csv"
        write(path, kind, seed)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
