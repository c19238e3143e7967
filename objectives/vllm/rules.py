"""What changed from one vLLM version to the next, where memory is concerned.

Every rule names the version it holds from. Defaults are those of the OpenAI server, not of the
offline `LLM` class. Between two releases the newer rule is assumed from the first release that
was seen with it, and `objectives.memory.predict` keeps a margin that covers being one release off.

Sources: vLLM `engine/arg_utils.py` (`get_batch_defaults`), `config/cache.py`, `envs.py`,
`v1/worker/gpu_worker.py`, `v1/worker/cpu_worker.py`, `platforms/cpu.py`,
`v1/core/kv_cache_utils.py`, and their history. `tests/benchmarks/vllm_conformance` holds these
rules against the wheels; what it found is in `docs/vllm-versions.md`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from objectives.units import GIB, DeviceKind

NEWEST = (0, 33, 0)
"""The newest version whose rules were read; what is newer, or says no number, is taken as this."""


def parse_version(text: str) -> tuple[int, int, int]:
    """The release a version belongs to: "0.19.2rc1.dev134+gfe9c3d6c5" is (0, 19, 2).

    A version without a number ("dev") is taken as the newest known.
    """
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if found is None:
        return NEWEST
    return int(found[1]), int(found[2]), int(found[3] or 0)


@dataclass(frozen=True)
class VllmRules:
    """The rules of one version, as the engine prints it, on one kind of device."""

    version: str
    device_kind: DeviceKind = "cuda"

    @cached_property
    def release(self) -> tuple[int, int, int]:
        """The release that the version belongs to."""
        return parse_version(self.version)

    def since(self, major: int, minor: int, patch: int = 0) -> bool:
        """Whether a rule that holds from this release on holds here."""
        return self.release >= (major, minor, patch)

    @property
    def default_utilization(self) -> float:
        """`--gpu-memory-utilization` where it is not given: 0.9, and 0.92 from 0.20 on."""
        return 0.92 if self.since(0, 20) else 0.9

    def default_max_num_seqs(self, total_bytes: int, device_name: str = "", tp: int = 1) -> int:
        """`--max-num-seqs` where it is not given.

        An A100 is treated as a smaller card from 0.9 on; a GB10, whose memory is the machine's,
        from 0.33 on; the CPU backend multiplies by `tp`.
        """
        if self.device_kind == "cpu":
            return 128 * tp if self.since(0, 10) else 32 if self.since(0, 9, 2) else 256
        if not self.since(0, 8):
            return 256
        large = not self.since(0, 8, 4) or self._is_large(total_bytes, device_name)
        return 1024 if large else 256

    def default_batched_tokens(self, total_bytes: int, device_name: str = "", tp: int = 1) -> int:
        """`--max-num-batched-tokens` where it is not given, before a short model shortens it."""
        if self.device_kind == "cpu":
            return 2048 * (tp if self.since(0, 10) else 1)
        if not self.since(0, 8):
            return 2048
        if total_bytes >= 160 * GIB and self.since(0, 28):
            return 16384
        return 8192 if self._is_large(total_bytes, device_name) else 2048

    def _is_large(self, total_bytes: int, device_name: str) -> bool:
        name = device_name.lower()
        if not self.since(0, 8, 5):
            return "h100" in name or "h200" in name or (not name and total_bytes >= 70 * GIB)
        is_slow = ("a100" in name and self.since(0, 9)) or ("gb10" in name and self.since(0, 33))
        return total_bytes >= 70 * GIB and not is_slow

    @property
    def whole_prompts(self) -> bool:
        """V0 profiles a whole longest prompt, unless it is over 32 Ki tokens and cut in chunks."""
        return self.device_kind == "cuda" and not self.since(0, 8)

    @property
    def default_block_tokens(self) -> int:
        """`--block-size` where it is not given."""
        return 128 if self.device_kind == "cpu" and self.since(0, 12) else 16

    @property
    def sampler_copies(self) -> float:
        """Copies of the logits, in 32 bits, that the sampler's warm-up holds at its peak.

        9.65 with the sorting sampler; 4.2 with the top-k/top-p kernel that came with 0.17.
        """
        return 4.2 if self.since(0, 17) else 9.65

    @property
    def graphs_in_budget(self) -> bool:
        """CUDA graphs are estimated and taken from the KV cache's share from 0.20 on."""
        return self.device_kind == "cuda" and self.since(0, 20)

    @property
    def charges_neighbours(self) -> bool:
        """Every other process counts against the fraction, which caps the whole device.

        V1 until 0.9.0, V0 until 0.6.4. Later versions count only their own growth since start.
        """
        if self.device_kind == "cpu":
            return False
        return not self.since(0, 6, 5) or (self.since(0, 8) and not self.since(0, 9, 1))

    @property
    def checks_start(self) -> bool:
        """The start is refused where less is free than the fraction asks for.

        From 0.9.1 on a GPU; from 0.20 on a CPU.
        """
        return self.since(0, 20) if self.device_kind == "cpu" else self.since(0, 9, 1)

    @property
    def utilization_counts(self) -> bool:
        """The fraction sizes the cache; older CPU builds took a size, or a default, instead."""
        return self.device_kind == "cuda" or self.since(0, 20)

    def cpu_cache_bytes(self, node_total_bytes: int) -> int:
        """KV cache of an older CPU build that was given no size: 4 GiB, then half of the node."""
        return node_total_bytes // 2 if self.since(0, 13) else 4 * GIB

    @property
    def holds_null_block(self) -> bool:
        """One block serves no request, and the start counts that: from 0.29 on."""
        return self.since(0, 29)

    @property
    def tokens_from_concurrency(self) -> bool:
        """The printed size is concurrency times length, not blocks times tokens: from 0.20 on."""
        return self.since(0, 20)

    @property
    def windows_save_memory(self) -> bool:
        """Windowed layers beside full ones have blocks of their own: from 0.10 on.

        Before, every layer of such a model kept every token.
        """
        return self.since(0, 10)

    @property
    def caches_hybrid_prefixes(self) -> bool:
        """Prefixes are cached where it is not asked for, also of models with recurrent layers.

        From 0.28 on. A sequence then keeps two states instead of one (`mamba_cache_mode` "align").
        """
        return self.since(0, 28)

    @property
    def checks_state_blocks(self) -> bool:
        """The start is refused where running sequences could outnumber the blocks for states.

        From 0.20 on, on a GPU with CUDA graphs; before, fewer graphs were captured.
        """
        return self.device_kind == "cuda" and self.since(0, 20)

    @property
    def raises_steps_to_items(self) -> bool:
        """A step that nobody asked for is as long as one image or video, where it is read whole.

        From 0.22 on (`_get_min_mm_batched_tokens`).
        """
        return self.since(0, 22)

    @property
    def batches_in_flight(self) -> int:
        """Steps whose tokens a windowed layer must still hold: two with asynchronous scheduling."""
        return 2 if self.device_kind == "cuda" and self.since(0, 26) else 1
