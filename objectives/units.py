"""Units and types that every room shares; it imports none of them."""

from __future__ import annotations

from typing import Literal

GIB = 1 << 30
MIB = 1 << 20

DeviceKind = Literal["cuda", "cpu"]
ServerName = Literal["vllm", "whisper"]
"""What an environment can run, and what a parameter can be bound to."""
Scalar = bool | int | float | str
"""A parameter's or an option's value."""


def gib(value_bytes: float) -> str:
    """Bytes as people read them: "5.82 GiB"."""
    return f"{value_bytes / GIB:.2f} GiB"
