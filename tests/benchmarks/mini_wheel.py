"""A wheel that has of vLLM only what the conformance run looks at, in words of our own."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from tests.benchmarks.vllm_conformance.checks import (
    METRICS,
    VARIABLES,
    passed_options,
)

VERSION = "0.33.0"

_OPTIONS = "\n".join(
    f'    group.add_argument("--{name.removeprefix("no-")}", '
    + ("action=argparse.BooleanOptionalAction)" if name.startswith("no-") else "type=str)")
    for name in sorted(passed_options() - {"enable-prefix-caching"})
)
_METRICS = "\n".join(f'Gauge(name="vllm:{names[0]}")' for names in METRICS.values())
_VARIABLES = "\n".join(f'    "{name}": lambda: os.getenv("{name}"),' for name in VARIABLES)

SOURCES: Mapping[str, str] = {
    "vllm/entrypoints/openai/api_server.py": """
logger.info("vLLM server version %s, serving model %s", VERSION, model)
if __name__ == "__main__":
    main()
""",
    "vllm/entrypoints/common/cli_args.py": """
class FrontendArgs:
    api_key: list[str] | None = None
    quiet: bool = False

    def add(parser):
        for key, value in get_kwargs(FrontendArgs).items():
            parser.add_argument(*flags, f"--{key.replace('_', '-')}", **value)
""",
    "vllm/engine/arg_utils.py": f"""
def add_cli_args(parser):
    group.add_argument("--enable-prefix-caching", **{{**kwargs["enable_prefix_caching"], "a": 1}})
    group.add_argument("--block-size", "-bs", **kwargs["block_size"])
    group.add_argument("--grpc", action="store_true")
{_OPTIONS}

def get_batch_defaults(world_size):
    is_gb10 = current_platform.is_device_capability((12, 1))
    if device_memory >= 160 * GiB_bytes:
        default_max_num_batched_tokens = {{UsageContext.OPENAI_API_SERVER: 16384}}
        default_max_num_seqs = {{UsageContext.OPENAI_API_SERVER: 1024}}
    elif device_memory >= 70 * GiB_bytes and "a100" not in device_name and not is_gb10:
        default_max_num_batched_tokens = {{UsageContext.OPENAI_API_SERVER: 8192}}
        default_max_num_seqs = {{UsageContext.OPENAI_API_SERVER: 1024}}
    else:
        default_max_num_batched_tokens = {{UsageContext.OPENAI_API_SERVER: 2048}}
        default_max_num_seqs = {{UsageContext.OPENAI_API_SERVER: 256}}
""",
    "vllm/config/cache.py": """
CacheDType = Literal["auto", "fp8", "fp8_e5m2"]

class CacheConfig:
    gpu_memory_utilization: float = Field(default=0.92, gt=0, le=1)
    enable_prefix_caching: bool | None = None
    block_size: int = 16
""",
    "vllm/config/parallel.py": """
def check(size, gpus):
    raise ValueError(f"World size ({size}) is larger than the number of available GPUs ({gpus}).")
""",
    "vllm/envs.py": f"""
variables = {{
{_VARIABLES}
    "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS": lambda: bool(
        int(os.getenv("VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS", "1"))
    ),
}}
""",
    "vllm/platforms/interface.py": """
class Platform:
    @classmethod
    def device_id_to_physical_device_id(cls, device_id: int) -> int:
        entries = os.environ[cls.device_control_env_var].split(",")
        return cls.device_control_id_to_physical_device_id(entries[device_id])
""",
    "vllm/platforms/cuda.py": """
class NvmlCudaPlatform:
    @classmethod
    def device_control_id_to_physical_device_id(cls, device_id):
        try:
            return int(device_id)
        except ValueError:
            return pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(device_id))
""",
    "vllm/device_allocator/cumem.py": "assert isinstance(tag, str)\n",
    "vllm/v1/kv_cache_interface.py": "tokens = window + max_in_flight_tokens\n",
    "vllm/v1/attention/backends/triton_attn.py": """
raise ValueError(f"FP8 KV cache is not supported on {device}; native FP8 (fp8e4nv) requires SM89+")
""",
    "vllm/v1/core/kv_cache_utils.py": """
def check(available, needed, length):
    usable = available - _pool_bytes_per_block(config, groups)
    if usable <= 0:
        raise ValueError("No available memory for the cache blocks.")
    raise ValueError(
        f"To serve at least one request with the model's max seq len ({length}), "
        f"({needed} GiB KV cache is needed, which is larger than the available KV cache "
        f"memory ({available} GiB)."
    )

tokens = int(max_concurrency * max_model_len)
logger.info(
    "%s KV cache size: %s tokens, Maximum concurrency for %s tokens per request: %.2fx", *figures
)
""",
    "vllm/v1/metrics/loggers.py": _METRICS,
    "vllm/v1/sample/ops/topk_topp_sampler.py": "from vllm.v1.sample.ops import topk_topp_triton\n",
    "vllm/v1/worker/utils.py": """
def request_memory(init_snapshot: MemorySnapshot, cache_config: CacheConfig) -> int:
    wanted = math.ceil(init_snapshot.total_memory * cache_config.gpu_memory_utilization)
    if init_snapshot.free_memory < wanted:
        raise ValueError(
            f"Free memory on device {init_snapshot.device_} ({format_gib(1)}/{format_gib(2)} GiB) "
            "on startup is less than desired GPU memory utilization (0.9, 2 GiB)."
        )
    return wanted
""",
    "vllm/v1/worker/gpu_worker.py": """
assert before > after, f"Error in memory profiling. Initial free memory {before} GiB"
raise RuntimeError(f"CUDA out of memory occurred when warming up sampler with {n} dummy requests.")
logger.info("Model loading took %s GiB memory and %.6f seconds", size, seconds)
logger.info("Available KV cache memory: %s GiB", size)
logger.info("Graph capturing finished in %.0f secs, took %.2f GiB", seconds, size)
logger.info("Estimated CUDA graph memory: %.2f GiB total", size)
logger.info(
    f"Free memory on device ({free}/{total} GiB) on startup. Desired GPU memory utilization is "
    f"({share}, {size} GiB). Actual usage is {a} GiB for weight, {b} GiB for peak activation."
)
""",
}


def write_wheel(folder: Path, changes: Mapping[str, tuple[str, str]] | None = None) -> Path:
    """Write it.

    Args:
        folder: Where.
        changes: Path in the wheel to a part of its text, and what stands there instead; a whole
            file is left out where the part is empty.
    """
    changes = changes or {}
    wheel = folder / f"vllm-{VERSION}-cp38-abi3-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("vllm/_C.abi3.so", b"\x7fELF")
        for path, text in SOURCES.items():
            part, instead = changes.get(path, ("\n", "\n"))
            if part and part not in text:
                raise ValueError(f"{path} has no {part!r}")
            if part:
                archive.writestr(path, text.replace(part, instead))
    return wheel
