"""The constraints of a trial: arithmetic, no I/O.

Every trial carries the same constraints in the same order, each graded in its own unit: GiB short,
seconds over, a share of requests. What the prediction said is kept until the trial knows better:
a measured trial worked, so none of its constraints stays above 0; a trial that ended infeasible
has at least the constraint of its cause above 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from objectives.units import GIB, is_number

MEMORY_CONSTRAINTS = ("start_memory_gib", "kv_cache_gib", "device_memory_gib")
"""In the order in which vLLM meets them."""

CONSTRAINTS = (
    *("bounds", *MEMORY_CONSTRAINTS, "placement_gib"),
    *("start_refused", "time_budget_s", "failed_share"),
)
"""What every trial carries; hard objectives of a service add one each."""


FAILED_SHARE_ALLOWED = 0.05
"""More failed requests than this share, and what was measured are the survivors' latencies."""

LEAST_EXCESS = 1.0 / 1024
"""What an excess is where only its sign is known: a MiB, a millisecond."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A hard objective of the service: a value must not be above `most`, or below `least`."""

    objective: str
    most: float | None = None
    least: float | None = None

    @property
    def constraint(self) -> str:
        """The constraint's name."""
        return f"slo_{self.objective}"

    def excess(self, value: float) -> float:
        """How far `value` is on the wrong side, in its own unit; <= 0 on the right one."""
        if self.most is not None:
            return value - self.most
        assert self.least is not None
        return self.least - value


def names(limits: Sequence[Limit] = ()) -> tuple[str, ...]:
    """The constraints of every trial of a study, in order."""
    return (*CONSTRAINTS, *(limit.constraint for limit in limits))


def satisfied(order: Sequence[str], known: Mapping[str, float]) -> dict[str, float]:
    """The constraints of a trial that worked, by what is known of each; the same order.

    None is above 0: a trial that worked has refuted whatever was predicted against it.
    """
    return {name: min(0.0, known.get(name, 0.0)) for name in order}


def violated(
    order: Sequence[str], known: Mapping[str, float], shown: Mapping[str, float], own: str
) -> dict[str, float]:
    """The constraints of a trial that cannot work; the same order.

    Args:
        order: The constraints' names.
        known: What was predicted, and what the stages saw.
        shown: What the trial's end showed; stands before what was known.
        own: The constraint of the cause; ends above 0 if it is one of `order`.
    """
    both = {**known, **shown}
    values = {name: both.get(name, 0.0) for name in order}
    if own in values:
        values[own] = max(values[own], known.get(own, 0.0), LEAST_EXCESS)
    return values


def memory_excess_gib(figures: Mapping[str, object]) -> float | None:
    """GiB short, from the figures of a diagnosis; None where they do not say.

    `needed_bytes` less `free_bytes` or `available_bytes`, or the allocation that failed less what
    was free.
    """

    def number(*keys: str) -> float | None:
        values = map(figures.get, keys)
        return next((float(value) for value in values if is_number(value)), None)

    needed = number("needed_bytes", "requested_bytes", "tried_bytes")
    had = number("available_bytes", "free_bytes")
    if needed is not None and had is not None and needed > had:
        return (needed - had) / GIB
    if had is not None and had < 0:
        return -had / GIB
    return None
