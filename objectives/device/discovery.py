"""Which device a study runs on, and whether its memory is back after a trial."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

from objectives.device.cpu import CpuNode
from objectives.device.cuda import CudaDevice, all_devices, visible_devices
from objectives.device.nvml import NoNvmlError
from objectives.device.state import Device, DeviceState
from objectives.errors import BenchError, OrphanError, UsageError
from objectives.units import MIB, gib

_ALLOWED = "auto, cpu, cuda, cuda:N, GPU-UUID"
_LOOK_S = 0.1
_ALIKE, _ALIKE_BYTES = 0.05, 256 * MIB
"""So far, as a share or in bytes, may memory that is missing be off what a server held."""

Objection = Callable[[CudaDevice], str | None]
"""Says why a GPU is not the one to take; None where nothing speaks against it."""


def open_device(spec: str, objection: Objection = lambda device: None) -> Device:
    """The device that a person means.

    Args:
        spec: `cpu`; `cuda` for the first usable GPU, `cuda:N` for the N-th, both among those that
            `CUDA_VISIBLE_DEVICES` leaves; a GPU's UUID or the beginning of one, hidden or not;
            `auto` for the first usable GPU, or the CPU if there is none.
        objection: Why a GPU that nobody named is not the one to take, else None: an engine that
            does not run on it. Where all are objected to, the first is taken all the same.

    Returns:
        The device. What was looked at and not taken stands in its `passed_over`, what a person
        should know of the choice in its `notes`.

    Raises:
        UsageError: It is not there, cannot be shared by two servers, or the words mean nothing.
        BenchError: It is there, and no longer answers.
    """
    if spec == "cpu":
        return CpuNode()
    if spec in ("auto", "cuda"):
        return _first_usable(objection, or_cpu=spec == "auto")
    if spec.startswith("cuda:") and spec.removeprefix("cuda:").isdecimal():
        return _numbered(int(spec.removeprefix("cuda:")))
    if spec.startswith("GPU-"):
        return _named(spec)
    if spec.startswith("MIG-"):
        raise UsageError(f"device {spec}: a MIG slice; only whole devices are supported")
    raise UsageError(f"device: {spec!r} found; allowed: {_ALLOWED}")


def cards_here() -> list[tuple[str, str | None]]:
    """Name and compute capability of every GPU of the machine; none where there is no driver."""
    try:
        return [(device.name, device.compute_capability) for device in all_devices()[0]]
    except NoNvmlError:
        return []


@dataclass(frozen=True, kw_only=True)
class Own:
    """What a trial had of a device, by which its leftovers are told from other people's memory.

    Attributes:
        pids: Of all its processes, those that ended too.
        is_listed: Whether the driver lists processes by these numbers.
        held_bytes: What each of its tenants held last, as far as it is known.
    """

    pids: frozenset[int] = frozenset()
    is_listed: bool = False
    held_bytes: tuple[int, ...] = ()


def wait_for_memory(
    device: Device, baseline: DeviceState, own: Own, *, tolerance_bytes: int, deadline_s: float
) -> str | None:
    """Wait until no more memory is in use than before, or others are known to hold the rest.

    Up to `tolerance_bytes` more than in `baseline`, before, count as back.

    Args:
        device: What was used.
        baseline: It, before.
        own: What the trial had of it, whose servers are gone.
        tolerance_bytes: See above.
        deadline_s: Seconds to wait.

    Returns:
        None if it is back; else a sentence about memory that others took, or may have taken.

    Raises:
        OrphanError: A process of ours is still listed; or the driver lists none of ours by their
            numbers, and what is missing is as much as tenants of ours held.
    """
    deadline = time.monotonic() + deadline_s
    while True:
        state = device.read()
        missing = state.used_bytes - baseline.used_bytes
        ours = own.pids & (state.by_pid.keys() - baseline.by_pid.keys())
        unexplained = missing - _grown(baseline, state, own)
        if unexplained <= tolerance_bytes:
            return None
        if time.monotonic() >= deadline:
            break
        time.sleep(_LOOK_S)
    said = f"{device.name}: {gib(missing)} are not back after {deadline_s:.0f} s"
    if ours:
        raise OrphanError(f"{said}; held by process {', '.join(map(str, sorted(ours)))}")
    if not own.is_listed and _is_sum(unexplained, own.held_bytes):
        raise OrphanError(f"{said}; as much as was held by servers of the trial")
    return said


def _grown(baseline: DeviceState, state: DeviceState, own: Own) -> int:
    """By how many bytes processes of others grew or came, as far as the driver tells.

    One that came counts where the driver lists ours by their numbers: else it may be ours.
    """
    grown = 0
    for pid, held in state.by_pid.items():
        is_known = pid in baseline.by_pid
        before = baseline.by_pid[pid] if is_known else 0
        counts = is_known or (own.is_listed and pid not in own.pids)
        if counts and held is not None and before is not None:
            grown += max(0, held - before)
    return grown


def _is_sum(size_bytes: int, held_bytes: Sequence[int]) -> bool:
    """Whether a size is what some of the tenants held together, as nearly as drivers count."""
    return any(
        abs(sum(some) - size_bytes) <= max(_ALIKE_BYTES, _ALIKE * size_bytes)
        for count in range(1, len(held_bytes) + 1)
        for some in combinations(held_bytes, count)
    )


def _first_usable(objection: Objection, *, or_cpu: bool) -> Device:
    """The first GPU that two servers can share; where there is none, the CPU or a refusal."""
    try:
        devices, passed_over = visible_devices()
    except NoNvmlError as error:
        devices, passed_over = [], [f"no NVIDIA driver ({error})"]
    except BenchError as error:
        devices, passed_over = [], [str(error)]
    refused = [(device, _refusal(device)) for device in devices]
    objected = [(device, reason or objection(device)) for device, reason in refused]
    sharable = [device for device, reason in refused if reason is None]
    chosen = next((device for device, reason in objected if reason is None), None)
    if chosen is None and sharable:  # better an engine's own reason than none at all
        chosen = sharable[0]
    for device, reason in objected:
        if device is chosen:
            break
        passed_over.append(f"cuda:{device.index} {device.name}: {reason}")
    if chosen is not None:
        chosen.passed_over = tuple(passed_over)
        return chosen
    why_none = "; ".join(passed_over) or "no NVIDIA GPU is visible"
    if not or_cpu:
        raise UsageError(f"device cuda: {why_none}; allowed here: cpu")
    node = CpuNode()
    node.passed_over = (why_none,)
    return node


def _refusal(device: CudaDevice) -> str | None:
    """Why it cannot be shared; that it no longer answers is a reason, too."""
    try:
        return device.refusal()
    except BenchError as error:
        return str(error)


def _numbered(number: int) -> CudaDevice:
    try:
        devices, broken = visible_devices()
    except NoNvmlError as error:
        reason = f"no NVIDIA driver ({error}); allowed here: cpu"
        raise UsageError(f"device cuda:{number}: {reason}") from error
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


def _shareable(device: CudaDevice) -> CudaDevice:
    reason = device.refusal()
    if reason is not None:
        raise UsageError(f"device cuda:{device.index} ({device.name}): {reason}")
    return device
