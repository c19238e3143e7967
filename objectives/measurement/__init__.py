"""From samples to figures: quantiles with intervals, capacity, and the doubts about them."""

from __future__ import annotations

from objectives.measurement.capacity import Capacity, capacity, confirm
from objectives.measurement.quantiles import intervals_overlap, quantile
from objectives.measurement.summary import Measurement, summarise

__all__ = [
    "Capacity",
    "Measurement",
    "capacity",
    "confirm",
    "intervals_overlap",
    "quantile",
    "summarise",
]
