"""What vLLM does and prints, by version: defaults, memory rules, log lines, metrics."""

from __future__ import annotations

from objectives.vllm.log_lines import (
    EXCEPTION,
    LogLine,
    is_banner,
    lines_of,
    process_of,
    read_line,
    starts_run,
)
from objectives.vllm.metrics import Pages, compare_pages
from objectives.vllm.rules import NEWEST, VllmRules
from objectives.vllm.settings import VllmSettings
from objectives.vllm.startup_log import StartupFacts, read_startup

__all__ = [
    "EXCEPTION",
    "NEWEST",
    "LogLine",
    "Pages",
    "StartupFacts",
    "VllmRules",
    "VllmSettings",
    "compare_pages",
    "is_banner",
    "lines_of",
    "process_of",
    "read_line",
    "read_startup",
    "starts_run",
]
