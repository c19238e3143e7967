"""Which compiled kernels run on which NVIDIA GPU: pure."""

from __future__ import annotations

from collections.abc import Collection

Capability = tuple[int, int]
"""Compute capability, (major, minor): (8, 6) of an RTX 3060."""


def supports(architectures: Collection[str], capability: Capability) -> bool:
    """Whether kernels built for `architectures` run on a device of `capability`.

    A binary (`sm_XY`) runs on its own major version from its minor version on; PTX (`compute_XY`)
    on everything newer; `sm_XYa` on exactly XY; `sm_XYf` as `sm_XY` (its family).
    An empty list says nothing, and is no objection.

    Source: CUDA C++ Programming Guide, "Binary Compatibility" and "PTX Compatibility".
    """
    built = [_parsed(architecture) for architecture in architectures]
    return not built or any(_runs(*parts, capability) for parts in built if parts)


def _parsed(architecture: str) -> tuple[str, Capability, str] | None:
    kind, _, number = architecture.partition("_")
    digits = number.rstrip("af")
    if kind not in ("sm", "compute") or not digits.isdigit() or len(digits) < 2:
        return None
    return kind, (int(digits[:-1]), int(digits[-1])), number[len(digits) :]


def _runs(kind: str, built: Capability, suffix: str, capability: Capability) -> bool:
    if suffix == "a":
        return built == capability
    if kind == "compute":
        return built <= capability
    return built[0] == capability[0] and built[1] <= capability[1]


def spoken(architectures: Collection[str]) -> str:
    """The architectures as a person reads them: `7.5, 8.0, 9.0`."""
    built = {parts[1] for architecture in architectures if (parts := _parsed(architecture))}
    return ", ".join(dotted(capability) for capability in sorted(built)) or "no GPU that it names"


def dotted(capability: Capability) -> str:
    """As people write it: `8.6`."""
    return f"{capability[0]}.{capability[1]}"


def sm(capability: Capability) -> str:
    """As compilers write it: `sm_86`."""
    return f"sm_{capability[0]}{capability[1]}"
