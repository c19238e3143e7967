"""Which device a study runs on, and whether its memory is back after a trial."""

from __future__ import annotations

import time

from objectives.device.cpu import CpuNode
from objectives.device.cuda import CudaDevice, all_devices, visible_devices
from objectives.device.nvml import NoNvmlError
from objectives.device.state import Activity, Device, DeviceState
from objectives.errors import OrphanError, UsageError
from objectives.units import gib

__all__ = [
    "Activity",
    "Device",
    "DeviceState",
    "open_device",
    "wait_for_memory",
]

_ALLOWED = "auto, cpu, cuda, cuda:N, GPU-UUID"
_LOOK_S = 0.1


def open_device(spec: str) -> Device:
    """The device that a person means.

    Args:
        spec: `cpu`; `cuda` for the first usable GPU, `cuda:N` for the N-th, both among those that
            `CUDA_VISIBLE_DEVICES` leaves; a GPU's UUID or the beginning of one, hidden or not;
            `auto` for the first usable GPU, or the CPU if there is none.

    Returns:
        The device. What was looked at and not taken stands in its `passed_over`.

    Raises:
        UsageError: It is not there, cannot be shared by two servers, or the words mean nothing.
    """
    if spec == "cpu":
        return CpuNode()
    if spec == "auto":
        return _first_usable() or _cpu_instead()
    if spec == "cuda":
        device = _first_usable()
        if device is None:
            raise UsageError(f"device cuda: {_why_none()}; allowed here: cpu")
        return device
    if spec.startswith("cuda:") and spec.removeprefix("cuda:").isdecimal():
        return _numbered(int(spec.removeprefix("cuda:")))
    if spec.startswith("GPU-"):
        return _named(spec)
    if spec.startswith("MIG-"):
        raise UsageError(f"device {spec}: a MIG slice; only whole devices are supported")
    raise UsageError(f"device: {spec!r} found; allowed: {_ALLOWED}")


def wait_for_memory(
    device: Device, baseline: DeviceState, *, tolerance_bytes: int, deadline_s: float
) -> DeviceState:
    """Wait until no more memory is in use than before, or others are known to hold the rest.

    It is for the time after servers are gone, so any process that the driver still lists is
    somebody else's.

    Args:
        device: What was used.
        baseline: As it was before.
        tolerance_bytes: So much more than before counts as back.
        deadline_s: Seconds to wait.

    Returns:
        The state with which the memory was back.

    Raises:
        OrphanError: It is not back; names the bytes, and the processes that were not there before.
    """
    deadline = time.monotonic() + deadline_s
    while True:
        state = device.read()
        missing = state.used_bytes - baseline.used_bytes
        if missing - _grown(baseline, state) <= tolerance_bytes:
            return state
        if time.monotonic() >= deadline:
            raise OrphanError(_still_held(device, baseline, state, waited_s=deadline_s))
        time.sleep(_LOOK_S)


def _grown(baseline: DeviceState, state: DeviceState) -> int:
    """By how many bytes processes grew that were there before, as far as the driver tells."""
    grown = 0
    for pid, held in state.by_pid.items():
        before = baseline.by_pid.get(pid)
        if held is not None and before is not None:
            grown += max(0, held - before)
    return grown


def _first_usable() -> CudaDevice | None:
    """The first GPU that two servers can share; None if there is none."""
    try:
        devices, passed_over = visible_devices()
    except NoNvmlError:
        return None
    for device in devices:
        reason = device.refusal()
        if reason is None:
            device.passed_over = tuple(passed_over)
            return device
        passed_over.append(f"cuda:{device.index} {device.name}: {reason}")
    return None


def _why_none() -> str:
    """Why there is no GPU to use, in a line."""
    try:
        devices, reasons = visible_devices()
    except NoNvmlError as error:
        return f"no NVIDIA driver ({error})"
    reasons += [f"cuda:{device.index} {device.name}: {device.refusal()}" for device in devices]
    return "; ".join(reasons) or "no NVIDIA GPU is visible"


def _cpu_instead() -> CpuNode:
    device = CpuNode()
    device.passed_over = (_why_none(),)
    return device


def _numbered(number: int) -> CudaDevice:
    devices, broken = _or_usage_error(f"cuda:{number}")
    if number >= len(devices):
        seen = ", ".join(f"cuda:{place} {one.name}" for place, one in enumerate(devices))
        raise UsageError(
            f"device cuda:{number} is not there; visible: {seen or 'none'}"
            + "".join(f"; {line}" for line in broken)
        )
    return _shareable(devices[number])


def _named(uuid: str) -> CudaDevice:
    try:
        devices, _ = all_devices()
    except NoNvmlError as error:
        raise UsageError(f"device {uuid}: no NVIDIA driver ({error})") from error
    matches = [device for device in devices if device.uuid.startswith(uuid)]
    if len(matches) != 1:
        seen = ", ".join(device.uuid for device in devices) or "none"
        raise UsageError(f"device {uuid}: {len(matches)} devices have this UUID; there are: {seen}")
    return _shareable(matches[0])


def _or_usage_error(spec: str) -> tuple[list[CudaDevice], list[str]]:
    try:
        return visible_devices()
    except NoNvmlError as error:
        raise UsageError(f"device {spec}: no NVIDIA driver ({error}); allowed here: cpu") from error


def _shareable(device: CudaDevice) -> CudaDevice:
    reason = device.refusal()
    if reason is not None:
        raise UsageError(f"device cuda:{device.index} ({device.name}): {reason}")
    return device


def _still_held(
    device: Device, baseline: DeviceState, state: DeviceState, *, waited_s: float
) -> str:
    missing = state.used_bytes - baseline.used_bytes
    stayed = [pid for pid in state.by_pid if pid not in baseline.by_pid]
    who = f"; held by process {', '.join(map(str, sorted(stayed)))}" if stayed else ""
    return f"{device.name}: {gib(missing)} are not back after {waited_s:.0f} s{who}"
