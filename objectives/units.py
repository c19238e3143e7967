"""Units and types that every room shares; it imports none of them."""

from __future__ import annotations

from typing import Literal, TypeGuard

GIB = 1 << 30
MIB = 1 << 20

DeviceKind = Literal["cuda", "cpu"]
ServerName = Literal["vllm", "whisper"]
"""What an environment can run, and what a parameter can be bound to."""
Scalar = bool | int | float | str
"""A parameter's or an option's value."""


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is an int or a float; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def gib(value_bytes: float) -> str:
    """Bytes as people read them: "5.82 GiB"."""
    return f"{value_bytes / GIB:.2f} GiB"
