"""Where a server computes, by what the driver says of the device: its processes, its free memory.

A process list proves it where it has our process ids. A container may list the host's, or none;
then the memory of this very device must fall, while the server starts, by what it loads.
"""

from __future__ import annotations

from objectives.device import Device
from objectives.errors import BenchError
from objectives.kinds.kind import Proof, Up
from objectives.units import gib

_ROUNDED = 0.98
"""Of what a server says it loaded, what must be seen: logs round, others let go of a little."""


def prove_by_driver(name: str, device: Device, server: Up, least_bytes: int | None) -> Proof:
    """See that a server is on a GPU.

    Args:
        name: The server's.
        device: Where it shall be.
        server: It, and the device before its launch.
        least_bytes: What it holds at least, by its own word; None where it does not say.

    Returns:
        How it was proven, a doubt where it cannot be, or the failure where it is elsewhere.
    """
    least = None if least_bytes is None else int(_ROUNDED * least_bytes)
    now = device.read()
    for pid in sorted(now.by_pid.keys() & set(server.members())):
        held = now.by_pid[pid]
        # A number of another namespace may be one of ours by chance: what it holds tells.
        if held is None or least is None or held >= least:
            return Proof(said=f"the driver lists its process {pid} on {device.spoken}")
    unlisted = f"the driver does not list {name} among the device's processes"
    if least is None or server.before is None:
        return Proof(doubts=(f"{unlisted}, and what it holds there is not known",))
    fell = server.before.free_bytes - now.free_bytes
    if fell >= least:
        said = f"free memory of {device.spoken} fell by {gib(fell)} as it loaded"
        return Proof(said=f"{said} {gib(least_bytes or 0)}")
    return Proof(
        failure=BenchError(
            f"{name} is not on {device.spoken}: {unlisted}, and free memory there fell by "
            f"{gib(max(0, fell))} while it loaded {gib(least_bytes or 0)}"
        )
    )
