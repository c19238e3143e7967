"""How the fake servers are told to misbehave: environment variables.

`FAKE_VLLM_<NAME>` and `FAKE_WHISPER_<NAME>` concern one server, `FAKE_<NAME>` both. The knobs
that both have (each is off unless it is set):

    START_S=seconds           until it listens (default 0.05)
    CRASH_AT_START=code       ends with that exit code before it listens; negative: by that signal
    HANG=1                    never listens
    HEALTH_S=seconds          every answer of /health takes so long
    PORT_IN_USE_ONCE=file     the first start fails as if the port were taken, and makes the file
    CRASH_AFTER_REQUESTS=n    ends when request n + 1 comes, with CRASH_CODE (default 1)
    DIE_AFTER_S=seconds       ends so long after it began to listen, with CRASH_CODE
    FAIL_EVERY=n              every n-th request is answered with 500
    DEAF=1                    ignores SIGTERM
    STOP_S=seconds            takes so long to obey SIGTERM
    CHILD=kind,kind           starts children, deaf unless CHILD_OBEYS=1: `outlives` (same group),
                              `session` (its own session), `double_fork` (orphaned at once, own
                              session), `cleared` (own session and an empty environment)
    SHARED_MEMORY_BYTES=n     makes a /dev/shm/psm_* segment and never unlinks it
    RESIDENT_BYTES=n          holds so much real memory
    REFUSE=cause              says why it cannot start, in the real server's words, and exits 1
    LEDGER=folder             the fake device's memory: who starts writes there what it takes, and
                              what living others took is not free
    DEVICE_TOTAL_BYTES=n      of the fake device (default 11.63 GiB: an RTX 3060)
    DEVICE_FREE_BYTES=n       before this server starts (default: total less the ledger)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

GIB = 1 << 30


class Knobs:
    """The knobs of one fake server."""

    def __init__(self, server: str, environment: Mapping[str, str] = os.environ) -> None:
        self._server = server
        self._environment = environment

    def text(self, name: str) -> str | None:
        own = self._environment.get(f"FAKE_{self._server}_{name}")
        return own if own is not None else self._environment.get(f"FAKE_{name}")

    def number(self, name: str, default: float = 0.0) -> float:
        value = self.text(name)
        return default if value is None else float(value)

    def whole(self, name: str, default: int = 0) -> int:
        value = self.text(name)
        return default if value is None else int(float(value))

    def is_on(self, name: str) -> bool:
        return self.text(name) not in (None, "", "0")


class FakeDevice:
    """Memory of a device that is not there; a folder is its ledger, one file a living process."""

    def __init__(self, knobs: Knobs) -> None:
        ledger = knobs.text("LEDGER")
        self._ledger = None if ledger is None else Path(ledger)
        self.total_bytes = knobs.whole("DEVICE_TOTAL_BYTES", int(11.63 * GIB))
        self._free_bytes = knobs.whole("DEVICE_FREE_BYTES", -1)

    @property
    def free_bytes(self) -> int:
        if self._free_bytes >= 0:
            return self._free_bytes
        return self.total_bytes - sum(self._taken().values())

    def take(self, size_bytes: int) -> None:
        if self._ledger is not None:
            self._ledger.mkdir(parents=True, exist_ok=True)
            (self._ledger / str(os.getpid())).write_text(str(size_bytes))

    def _taken(self) -> dict[int, int]:
        if self._ledger is None or not self._ledger.is_dir():
            return {}
        files = {int(file.name): file for file in self._ledger.iterdir() if file.name.isdigit()}
        return {
            pid: int(file.read_text() or 0)
            for pid, file in files.items()
            if Path(f"/proc/{pid}").exists()
        }
