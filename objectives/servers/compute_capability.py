"""Which compiled kernels run on which NVIDIA GPU, under which driver: pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

Capability = tuple[int, int]
"""Compute capability, (major, minor): (8, 6) of an RTX 3060."""

LEAST_DRIVER = {13: 580, 12: 525, 11: 450}
"""A CUDA major version and the first driver that runs it, whatever its minor version.

Source: NVIDIA, CUDA Compatibility, "Minor Version Compatibility".
"""
LAST_LEGACY_DRIVER = 580
"""The last driver for GPUs before Turing. Source: NVIDIA's notice on Maxwell, Pascal and Volta."""
LEAST_CURRENT: Capability = (7, 5)
"""The oldest GPU of the drivers after it."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What a GPU and its driver can run; what the driver does not tell is None, and no objection.

    Attributes:
        name: As the driver calls it.
        capability: Its compute capability.
        driver: The driver's version: 550.163.01.
        cuda: The newest CUDA that the driver runs, (major, minor).
        legacy: A GPU of the machine, this or another, that drivers after 580 leave out.
    """

    name: str = "the GPU"
    capability: Capability | None = None
    driver: str | None = None
    cuda: tuple[int, int] | None = None
    legacy: str | None = None

    def driver_problem(self, major: int) -> str | None:
        """Why this driver does not run a CUDA of that major version, and the way out, else None.

        The driver's CUDA version decides, for a compatibility library may raise it; the driver's
        own number only where there is no other.
        """
        least, number = LEAST_DRIVER.get(major), (self.driver or "").partition(".")[0]
        if self.cuda is not None:
            runs = self.cuda[0] >= major
        else:
            runs = least is None or not number.isdecimal() or int(number) >= least
        if runs:
            return None
        can = f"runs CUDA {dotted(self.cuda)} and older, " if self.cuda else ""
        return f"driver {self.driver or '(untold)'} {can}not CUDA {major}: {self._update(least)}"

    def _update(self, least: int | None) -> str:
        if least is None:
            return "update the driver"
        if self.legacy is None:
            return f"update the driver to {least} or newer"
        return (
            f"update the driver to {max(least, LAST_LEGACY_DRIVER)}, not to 590 or newer, which "
            f"leave out the {self.legacy}"
        )


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
