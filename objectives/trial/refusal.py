"""Whether a server that ended refuses the candidate, or would refuse whatever it is given. Pure.

A card or a version does not take every option: an fp8 cache, bfloat16, an attention backend. That
is the candidate's fault where what varies is at fault, and the samplers shall learn it from one
start. Where nothing that varies is, the bench is at fault, and the message names the key to change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from objectives.causes import REFUSALS, remedy_of
from objectives.errors import BenchError, InfeasibleError, RefusedSettingError
from objectives.kinds import ServerKind
from objectives.space import Binding, SearchSpace, point_key
from objectives.units import Scalar

REFUSED = 1.0
"""Excess of `start_refused`; a setting that servers started with has minus that."""

_PLAIN_WORDS = frozenset({"auto", "true", "false", "none", "default"})
"""Values that a line also has for other reasons."""

_ALLOWED_INSTEAD = re.compile(
    r"(?:choose from|should be|must be (?:one of|in)|"
    r"(?:supported|allowed|available|valid)[\w ]*(?:\bare\b|:))"
    r".*?(?=\[type=|input_value|\bgot\b|$)",
    re.IGNORECASE,
)
"""What a line offers instead of the value that it refuses."""


def judge_refusal(
    reason: InfeasibleError | BenchError,
    kind: ServerKind,
    *,
    space: SearchSpace,
    params: Mapping[str, Scalar],
    worked: Sequence[Mapping[str, Scalar]] = (),
) -> InfeasibleError | BenchError:
    """The candidate's fault where a server refuses what varies; else `reason`, and its key.

    Args:
        reason: Why the server ended, its log's line in its message.
        kind: The server that ended.
        space: What varies.
        params: The candidate's point.
        worked: Points of this study at which all servers came up.
    """
    if not isinstance(reason, BenchError) or reason.cause not in REFUSALS:
        return reason
    line = _ALLOWED_INSTEAD.sub("", str(reason))
    own = _own(kind, space, params)
    named = {name: v for name, v in own.items() if _is_named(space[name].binding, v, line)}
    started = {point_key(_own(kind, space, point)) for point in worked}
    # With these very settings it came up before: then it is not they that it refuses.
    if not named and (not started or point_key(own) in started):
        searched = {space[name].binding for name in own}
        keys = [
            f"{binding}: {value}"
            for binding, value in _said(kind)
            if binding not in searched and _is_named(binding, value, line)
        ]
        told = f"{reason}; the configuration has {', '.join(keys)}" if keys else str(reason)
        return type(reason)(told, cause=reason.cause)
    what = ", ".join(f"{name} {value}" for name, value in (named or own).items())
    return RefusedSettingError(
        "start_refused",
        str(reason),
        remedy=f"Leave out of the search space, or bind to others with `when`, what does not start "
        f"here: {what}. {remedy_of(reason.cause, {}, kind.family)}",
        excess={"start_refused": REFUSED},
    )


def _own(kind: ServerKind, space: SearchSpace, point: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """What of a point is the server's."""
    return {name: v for name, v in point.items() if space[name].binding.server == kind.name}


def _said(kind: ServerKind) -> Iterator[tuple[Binding, Scalar]]:
    """Every option and variable that a configuration gives a server."""
    for key, value in kind.settings.args.items():
        if value is not None:
            yield Binding(server=kind.name, kind="args", key=key), value
    for key, text in kind.settings.env.items():
        yield Binding(server=kind.name, kind="env", key=key), text


def _is_named(binding: Binding, value: Scalar, line: str) -> bool:
    """Whether a line has an option's or a variable's name, or its value where that is a word."""
    if not binding.key:
        return False  # models have names like "small" and "base"
    name = "[-_]".join(map(re.escape, re.split("[-_]", binding.key)))
    patterns = [rf"(?<![\w-])(?:--)?(?:no[-_])?{name}(?![\w-])"]
    word = str(value).lower()
    if isinstance(value, str) and re.search("[a-z]", word) and len(word) > 2:
        # fp8 is in fp8e4nv, bfloat16 in "Bfloat16 is only supported on ..."
        patterns += [] if word in _PLAIN_WORDS else [rf"(?<![a-z0-9]){re.escape(word)}"]
    return any(re.search(pattern, line, re.IGNORECASE) for pattern in patterns)
