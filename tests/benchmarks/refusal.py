"""How long it takes to refuse a candidate that cannot fit, against launching it.

    python -m tests.benchmarks.refusal

Builds the settings from a command line's options and predicts, 1,000 times, over candidates that
are all refused, with a calibration as large as a long study's; prints the median, the 99th
percentile, and how many refusals go into one launch that fails.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator

from objectives.memory import (
    Calibration,
    DeviceMemory,
    EngineKey,
    Prediction,
    ServerModel,
    Start,
    WhisperModel,
    predict_vllm,
)
from objectives.models import WHISPER_NAMES, ModelShape
from objectives.units import GIB
from objectives.vllm import VllmRules, VllmSettings
from tests.objectives.models.published_shapes import QWEN2_5_7B_AWQ

TOTAL = round(11.63 * GIB)
VERSION = "0.11.0"
LAUNCH_S = 45.0
"""A start of vLLM until it says that no cache blocks are left, on a calm machine."""


def calibration(starts: int) -> Calibration:
    """As many lessons as a long study keeps: eight of each of several settings."""
    key = EngineKey(version=VERSION, model="awq", device="GPU-1", device_kind="cuda")
    return Calibration(
        starts=tuple(
            Start(
                key=key,
                max_num_seqs=8 << (at // 8 % 6),
                step_tokens=2048,
                enforce_eager=False,
                max_model_len=2048,
                kv_cache_dtype="auto",
                inside_bytes=round(5.442 * GIB),
                rounding_bytes=GIB // 200,
            )
            for at in range(starts)
        )
    )


def candidates(count: int) -> Iterator[tuple[float, str]]:
    """Points of the seeds' space that have no block of cache."""
    whispers = list(WHISPER_NAMES)[:3]
    for at in range(count):
        yield 0.30 + 0.16 * at / count, whispers[at % 3]


def refuse(shape: ModelShape, known: Calibration, utilization: float, whisper: str) -> Prediction:
    """What a trial does before it launches anything."""
    args = {"gpu-memory-utilization": utilization, "max-model-len": 2048, "max-num-seqs": 32}
    rules = VllmRules(VERSION)
    server = ServerModel(
        shape=shape,
        settings=VllmSettings.from_args(args, rules, device_total_bytes=TOTAL),
        rules=rules,
        name="awq",
        device="GPU-1",
    )
    speech = WhisperModel(name=whisper).expect("cuda", known, "GPU-1")
    memory = DeviceMemory(total_bytes=TOTAL, free_bytes=9 * GIB, whisper=speech)
    return predict_vllm(server, memory, known)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--starts", type=int, default=48, help="lessons in the calibration")
    args = parser.parse_args()
    shape, known = ModelShape.from_config(QWEN2_5_7B_AWQ), calibration(args.starts)
    taken_s = []
    for utilization, whisper in candidates(args.count):
        began = time.perf_counter()
        prediction = refuse(shape, known, utilization, whisper)
        taken_s.append(time.perf_counter() - began)
        assert prediction.certain, prediction.evidence
    median = statistics.median(taken_s)
    last = sorted(taken_s)[int(0.99 * len(taken_s))]
    print(f"{args.count} refusals: median {median * 1e3:.3f} ms, 99th {last * 1e3:.3f} ms")
    print(f"one failed launch of {LAUNCH_S:.0f} s pays for {LAUNCH_S / median:,.0f} of them")


if __name__ == "__main__":
    main()
