"""What engines know of devices: which of them they run on, and how large torch calls each.

A driver's total less its own reserve is not always what CUDA calls the total; where a driver says
nothing of its reserve the two are some percent apart. A live check asks torch, once for each device
and driver, and the answer is kept beside the engines.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from objectives.device import Device, hold_device
from objectives.errors import DeviceBusyError, EngineError, UsageError
from objectives.servers import Engine, study_home, write_whole
from objectives.units import ServerName
from study.engines.check import check_engine, gpu_of
from study.engines.find import find_engine, missing_recipe
from study.engines.recipes import refusal

_ASKED: tuple[ServerName, ...] = ("vllm",)
"""Whose engine tells the total: it is vLLM that takes a share of it."""


def objection_of(configured: str | None = None) -> Callable[[Device], str | None]:
    """Why vLLM's engine does not run on a GPU, None where it does or nobody knows.

    Args:
        configured: The engine as `find_engine` takes it.
    """

    def objection(device: Device) -> str | None:
        gpu = gpu_of(device)
        try:
            engine = find_engine("vllm", configured, device)
        except UsageError:  # said later, whichever device is taken
            return None
        except EngineError:  # none is built: could one be?
            return refusal(missing_recipe("vllm", device), gpu)
        return next(iter(engine.problems("vllm", device.kind, gpu=gpu)), None)

    return objection


def keep_total(device: Device, seen: Mapping[str, object]) -> None:
    """Keep what torch saw of a device, for every study to come."""
    total, driver = seen.get("total_bytes"), device.describe().get("driver")
    is_it = seen.get("uuid") in (None, device.uuid)
    if device.kind == "cuda" and isinstance(total, int) and driver and is_it:
        kept = {"uuid": device.uuid, "driver": driver, "total_bytes": total}
        write_whole(_place(device), json.dumps(kept))


def with_known_total(device: Device) -> Device:
    """The device, told what torch called its total under this driver, if it was ever asked."""
    if device.kind == "cuda":
        try:
            kept = json.loads(_place(device).read_text())
            if kept["driver"] == device.describe().get("driver"):
                device.cuda_total_bytes = int(kept["total_bytes"])
        except (OSError, ValueError, KeyError, TypeError):  # never asked, or unreadable
            return device
    return device


def asked_of(engine: Engine, device: Device, *, log: Callable[[str], None]) -> Device:
    """The device, told what torch calls its total: the engine is asked where nobody ever was.

    What else the live check finds is logged, before a trial finds it. Nothing is asked while
    another study measures on the device.
    """
    if device.kind != "cuda" or with_known_total(device).cuda_total_bytes is not None:
        return device
    try:
        with hold_device(device, study="checks its engine"):
            log(f"asking engine {engine.name} what it sees of the device, once for this driver")
            report = check_engine(engine, device, roles=_ASKED)
    except DeviceBusyError as error:
        log(f"not asked what the engine sees of the device: {error}")
        return device
    for problem in report.problems:
        log(f"check: {problem}")
    keep_total(device, report.facts["seen"] or {})
    return with_known_total(device)


def _place(device: Device) -> Path:
    digest = hashlib.sha256(device.uuid.encode()).hexdigest()[:16]
    return study_home() / "devices" / f"{digest}.json"
