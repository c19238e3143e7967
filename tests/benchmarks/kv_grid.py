"""How well the KV cache is predicted: a grid of real starts of the CPU engine.

    python -m tests.benchmarks.kv_grid [--engine PYTHON] [--starts N]

Three architectures (many heads, grouped heads, one head for keys and values) x utilisation x
longest request x type of the cache, some of which cannot start. The first start of each
architecture teaches the predictor; every later one is predicted first, then really started.
Printed: predicted against logged KV cache, the mean error, and the table of launches by
prediction. A false prune (refused by arithmetic, started in truth) is the one thing that must
never be seen; with one, the exit code is 1.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from objectives.device import Device, open_device
from objectives.diagnosis import diagnose
from objectives.errors import NotReadyError, ServerDiedError
from objectives.memory import (
    Calibration,
    DeviceMemory,
    Prediction,
    ServerModel,
    predict_vllm,
)
from objectives.models import ModelShape
from objectives.servers import Engine, Launch, Port, http_ready, locate_interpreter, probe, serve
from objectives.units import GIB
from objectives.vllm import StartupFacts, VllmRules, VllmSettings, read_startup
from study.engines import build_engine
from study.setup import DummyLlm, dummy_llm

_COMMON = {"vocab": 2048, "max_position": 65536}
ARCHITECTURES = {
    "many heads": DummyLlm(
        layers=8, hidden=256, heads=16, kv_heads=16, head_dim=128, intermediate=512, **_COMMON
    ),
    "grouped heads": DummyLlm(
        layers=12, hidden=256, heads=16, kv_heads=4, head_dim=64, intermediate=512, **_COMMON
    ),
    "one head": DummyLlm(
        layers=16, hidden=256, heads=8, kv_heads=1, head_dim=128, intermediate=768, **_COMMON
    ),
}
SHARES_GIB = (0.5, 1.1, 1.6, 2.4)
"""Of the node, as utilisations: the first does not hold the process itself."""
LENGTHS = (2048, 49152)
DTYPES = ("auto", "fp8_e5m2")
TOO_MUCH = 0.97
"""More than a running machine has free: the start check must refuse it."""


@dataclass(frozen=True)
class Case:
    """One setting of the grid."""

    architecture: str
    utilisation: float
    length: int
    dtype: str

    def options(self) -> dict[str, str | int | float | bool | None]:
        return {
            "gpu-memory-utilization": self.utilisation,
            "max-model-len": self.length,
            "max-num-seqs": 16,
            "kv-cache-dtype": self.dtype,
            "enforce-eager": True,
        }


def grid(total_bytes: int) -> list[Case]:
    """Every case; per architecture the one that teaches comes first."""
    utilisations = [round(share * GIB / total_bytes, 4) for share in SHARES_GIB]
    cases: list[Case] = []
    for name in ARCHITECTURES:
        teacher = Case(name, utilisations[2], LENGTHS[0], DTYPES[0])
        rest = [Case(name, *c) for c in itertools.product(utilisations, LENGTHS, DTYPES)]
        rest = [case for case in rest if case.dtype == "auto" or case.utilisation > 0.06]
        cases += [teacher, *(case for case in rest if case != teacher)]
        cases.append(Case(name, TOO_MUCH, LENGTHS[0], DTYPES[0]))
    return cases


def predicted(
    case: Case, shape: ModelShape, engine: Engine, device: Device, known: Calibration
) -> Prediction:
    state = device.read()
    rules = VllmRules(engine.vllm_version or "", "cpu")
    server = ServerModel(
        shape=shape,
        settings=VllmSettings.from_args(
            case.options(), rules, device_total_bytes=state.total_bytes
        ),
        rules=rules,
        name=case.architecture,
        device=device.uuid,
    )
    memory = DeviceMemory(
        total_bytes=state.total_bytes, free_bytes=state.free_bytes, free_margin_bytes=GIB // 8
    )
    return predict_vllm(server, memory, known)


def start(case: Case, engine: Engine, device: Device, folder: Path) -> tuple[StartupFacts, str]:
    """Really start it: what its log says, and "ok" or why it did not start."""
    model = dummy_llm(engine, ARCHITECTURES[case.architecture])
    log = folder / "vllm.log"
    options = [
        word
        for key, value in case.options().items()
        for word in ([f"--{key}"] if value is True else [f"--{key}", str(value)])
    ]
    cause = "ok"
    with Port() as port:
        argv = [*engine.vllm_command(), "--model", str(model), "--load-format", "dummy"]
        argv += ["--host", "127.0.0.1", "--port", str(port.number)]
        argv += ["--distributed-executor-backend", "uni", *options]
        env = {
            **engine.environment("cpu", role="vllm", offline=True),
            **device.environment(),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
        launch = Launch(name="vllm", argv=tuple(argv), env=env, log=log)
        try:
            with serve(launch, url=port.url, ready=http_ready(port.url), ready_s=300):
                pass
        except (ServerDiedError, NotReadyError):
            with log.open(errors="replace") as lines:
                cause = diagnose(lines).cause
    with log.open(errors="replace") as lines:
        return read_startup(lines), cause


def main() -> int:
    """Exit 1 after a false prune."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", help="an interpreter with vLLM's CPU build")
    parser.add_argument("--starts", type=int, help="at most so many")
    args = parser.parse_args()
    engine = (
        probe(locate_interpreter(args.engine)) if args.engine else build_engine("cpu", log=print)
    )
    device = open_device("cpu")
    device.settle()
    table: Counter[tuple[str, str]] = Counter()
    errors: list[float] = []
    known = Calibration()
    print(f"node {device.total_bytes / GIB:.2f} GiB, vLLM {engine.vllm_version}")
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(grid(device.total_bytes)[: args.starts], 1):
            shape = ModelShape.from_config(ARCHITECTURES[case.architecture].config())
            began = time.monotonic()
            forecast = predicted(case, shape, engine, device, known)
            predict_s = time.monotonic() - began
            facts, cause = start(case, engine, device, Path(folder))
            said = "refused" if forecast.certain else ("fits" if forecast.fits else "in margin")
            table[said, "started" if cause == "ok" else "refused"] += 1
            line = f"{number:3} {case.architecture:14} u={case.utilisation:.4f} "
            line += f"len={case.length:6} {case.dtype:9} {said:9} ({forecast.cause}) -> {cause}"
            logged = facts.available_kv_bytes
            if cause == "ok" and logged is not None and facts.kv_cache_tokens is not None:
                tokens = forecast.footprint.capacity.tokens
                error = abs(tokens - facts.kv_cache_tokens) / facts.kv_cache_tokens
                calibrated = forecast.footprint.parts.weights.source == "calibrated"
                if calibrated:
                    errors.append(error)
                line += f"  tokens {tokens} / {facts.kv_cache_tokens} = {100 * error:.2f} %"
                line += "" if calibrated else " (a priori)"
                total = forecast.footprint.memory.total_bytes
                known = known.learn(forecast.server, facts, total_bytes=total)
            print(f"{line}  [{1000 * predict_s:.1f} ms]", flush=True)
    print("\npredicted      started  refused")
    for said in ("fits", "in margin", "refused"):
        print(f"{said:12} {table[said, 'started']:9} {table[said, 'refused']:8}")
    if errors:
        print(f"\nKV cache after one start: mean error {100 * statistics.fmean(errors):.3f} %,")
        print(f"largest {100 * max(errors):.3f} %, over {len(errors)} starts")
    print(f"false prunes: {table['refused', 'started']}")
    return 1 if table["refused", "started"] else 0


if __name__ == "__main__":
    sys.exit(main())
