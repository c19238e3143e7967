"""From samples to figures: quantiles with intervals, capacity, and the doubts about them."""

from __future__ import annotations

from objectives.measurement.capacity import Capacity, capacity, confirm
from objectives.measurement.quantiles import Summary, intervals_overlap, quantile
from objectives.measurement.summary import Measurement, Quantile, Served, summarise

__all__ = [
    "Capacity",
    "Measurement",
    "Quantile",
    "Served",
    "Summary",
    "capacity",
    "confirm",
    "intervals_overlap",
    "quantile",
    "summarise",
]
