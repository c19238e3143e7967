"""Which allocator of torch a server is given on a GPU: a default of ours, and where it is not.

Expandable segments keep a server's own memory from falling to pieces, which counts on a shared
card. It is also a difference from a production that does not set it; so it is a default that any
choice of a person's stands before, and it is left out where it breaks a server.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from objectives.candidate import ServerSettings
from objectives.device import Device

OLD_NAME, NEW_NAME = "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"
"""torch 2.10 and newer read the second before the first; vLLM's own guards read the first."""

EXPANDABLE = "expandable_segments:True"

_DOES_NOT_BEAR = frozenset(
    {
        *("enable-sleep-mode", "enable-cumem-allocator"),  # vLLM's own pool: asserted to 0.19
        *("kv-transfer-config", "kv-offloading-size"),  # a KV connector: refused by 0.33
    }
)
"""vLLM's options that it fails with (device_allocator/cumem.py; config/vllm.py)."""


def allocator_environment(
    settings: ServerSettings, device: Device, exported: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What torch's allocator is told on a GPU, before the settings' own variables.

    Args:
        settings: The server's; a choice in their `env` stands alone.
        device: Where it computes; on a CPU nothing is told.
        exported: The study's own environment, whose choice is handed on; default: as it is.
    """
    exported = os.environ if exported is None else exported
    if device.kind != "cuda" or settings.env.keys() & {OLD_NAME, NEW_NAME}:
        return {}
    chosen = {name: exported[name] for name in (OLD_NAME, NEW_NAME) if name in exported}
    if chosen:
        return chosen
    given = {
        key.replace("_", "-") for key, value in settings.args.items() if value not in (None, False)
    }
    helps = device.maps_memory and not given & _DOES_NOT_BEAR
    return {OLD_NAME: EXPANDABLE} if helps else {}
