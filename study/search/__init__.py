"""The loop around the trials: what is queued, when to stop, progress, lineage."""

from __future__ import annotations

from study.search.lineage import ATTR, chain, lineage_for, verify_lineage
from study.search.live import Live
from study.search.loop import Search, run_search
from study.search.metrics_file import write_metrics
from study.search.progress import Holding, Lines, Progress, setting
from study.search.queue import retry_stale

__all__ = [
    "ATTR",
    "Holding",
    "Lines",
    "Live",
    "Progress",
    "Search",
    "chain",
    "lineage_for",
    "retry_stale",
    "run_search",
    "setting",
    "verify_lineage",
    "write_metrics",
]
