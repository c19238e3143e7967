"""Processes that we own: engines that launch them, guards that end them, neighbours beside them."""

from __future__ import annotations

from objectives.servers.compute_capability import Capability, dotted, sm
from objectives.servers.engine import (
    PRIVATE_VARIABLES,
    ROLES,
    Engine,
    inherited,
    locate_interpreter,
    probe,
    see,
    study_home,
    write_whole,
)
from objectives.servers.http_get import http_json, http_ready
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
    "PRIVATE_VARIABLES",
    "ROLES",
    "Capability",
    "Command",
    "Engine",
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
