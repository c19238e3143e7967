"""Processes that we own: engines that launch them, guards that end them, neighbours beside them."""

from __future__ import annotations

from objectives.servers.compute_capability import (
    LEAST_CURRENT,
    Capability,
    Gpu,
    dotted,
    sm,
)
from objectives.servers.engine import (
    ROLES,
    Engine,
    locate_interpreter,
    probe,
    see,
    study_home,
    write_whole,
)
from objectives.servers.http_get import http_json, http_ready
from objectives.servers.inherited import PRIVATE_VARIABLES, inherited
from objectives.servers.neighbours import (
    Command,
    Hold,
    Neighbour,
    Present,
    Running,
    present,
    unseen,
)
from objectives.servers.ports import Port
from objectives.servers.server import Launch, Server, end_leftovers, serve

__all__ = [
    "LEAST_CURRENT",
    "PRIVATE_VARIABLES",
    "ROLES",
    "Capability",
    "Command",
    "Engine",
    "Gpu",
    "Hold",
    "Launch",
    "Neighbour",
    "Port",
    "Present",
    "Running",
    "Server",
    "dotted",
    "end_leftovers",
    "http_json",
    "http_ready",
    "inherited",
    "locate_interpreter",
    "present",
    "probe",
    "see",
    "serve",
    "sm",
    "study_home",
    "unseen",
    "write_whole",
]
