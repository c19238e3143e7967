"""What of a launch is private, and what of it may be stored."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from objectives.evidence import Invocation
from objectives.servers import PRIVATE_VARIABLES, Launch

_KEY_ENDS = "_API_KEY"
_PLUMBING = ("PATH", "PYTHONSAFEPATH", "PYTHONUNBUFFERED", "VLLM_CACHE_ROOT")
_PLUMBING_ENDS = ("_CACHE_DIR",)


def new_key() -> str:
    """A key that only this trial's client and servers know."""
    return secrets.token_urlsafe(24)


def shown(launch: Launch, inherited: Mapping[str, str]) -> Invocation:
    """A launch as it may be stored: without keys, and only what makes a difference.

    Args:
        launch: What was started.
        inherited: The study's own environment, which needs no repeating.
    """
    env = {
        name: value
        for name, value in launch.env.items()
        if name not in {*PRIVATE_VARIABLES, *_PLUMBING}
        and not name.endswith((_KEY_ENDS, *_PLUMBING_ENDS))
        and inherited.get(name) != value
    }
    return Invocation(argv=launch.argv, env=env)
