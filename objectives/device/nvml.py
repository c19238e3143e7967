"""NVML, NVIDIA's management library, asked in a way that takes no for an answer.

Much of NVML is optional: WSL, containers, vGPUs and consumer cards each leave something out. What
is left out is None here. What means that the device is broken is a `BenchError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml

from objectives.errors import BenchError

_NOT_TOLD = frozenset(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_NO_DATA,
        pynvml.NVML_ERROR_NOT_READY,
        pynvml.NVML_ERROR_INVALID_ARGUMENT,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        pynvml.NVML_ERROR_DEPRECATED,
        pynvml.NVML_ERROR_INSUFFICIENT_SIZE,
        pynvml.NVML_ERROR_UNKNOWN,
    }
)
"""Answers that mean "this driver does not tell", not "this device is broken"."""


class NoNvmlError(Exception):
    """There is no NVIDIA driver to talk to; the message says which part is missing."""


def start() -> None:
    """Open the library; calling it again is cheap. It stays open until the process ends.

    An open library also keeps the driver loaded between servers.

    Raises:
        NoNvmlError: No library, no driver, or the two do not fit each other.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NoNvmlError(str(error)) from error


def query(function: Callable[..., Any], *args: object) -> Any:  # noqa: ANN401 - NVML is untyped
    """What NVML answers, or None where this driver or device does not tell.

    Raises:
        BenchError: The device is lost, needs a reset, or the driver is broken.
    """
    try:
        return function(*args)
    except pynvml.NVMLLibraryMismatchError:  # the driver is older than the function
        return None
    except pynvml.NVMLError as error:
        if error.value in _NOT_TOLD:
            return None
        raise fault(function.__name__, error) from error


def refusal_code(function: Callable[..., Any], *args: object) -> int | None:
    """The code by which NVML refuses to answer; None where it answers."""
    try:
        function(*args)
    except pynvml.NVMLError as error:
        return int(error.value)
    return None


def fault(what: str, error: pynvml.NVMLError) -> BenchError:
    """A broken device or driver, in NVML's words."""
    return BenchError(f"{what}: {error}", cause="device_fault")
