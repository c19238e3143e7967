"""Which wordings name which cause? Tables of rules, and how a line finds its own."""

from __future__ import annotations

from objectives.diagnosis.rules.device import CUDA, DEVICE, GPU, LIBRARIES
from objectives.diagnosis.rules.rule_book import (
    HOST,
    OUT_OF_DEVICE_MEMORY,
    OUT_OF_DEVICE_MEMORY_HINTS,
    QUIET_LEVELS,
    REFUSALS,
    SIZES,
    Rank,
    RuleBook,
    figures_of,
)
from objectives.diagnosis.rules.start import (
    ARCHITECTURE,
    ARGPARSE,
    ARGUMENTS,
    DISTRIBUTED,
    HARMLESS,
    HUNG,
    MODEL,
    PORT,
    SOURCE_CODE,
)
from objectives.diagnosis.rules.tools import BUILD_TOOLS, ENVIRONMENT

__all__ = [
    "ARCHITECTURE",
    "ARGPARSE",
    "ARGUMENTS",
    "BUILD_TOOLS",
    "CUDA",
    "DEVICE",
    "DISTRIBUTED",
    "ENVIRONMENT",
    "GPU",
    "HARMLESS",
    "HOST",
    "HUNG",
    "LIBRARIES",
    "MODEL",
    "OUT_OF_DEVICE_MEMORY",
    "OUT_OF_DEVICE_MEMORY_HINTS",
    "PORT",
    "QUIET_LEVELS",
    "REFUSALS",
    "SIZES",
    "SOURCE_CODE",
    "Rank",
    "RuleBook",
    "figures_of",
]
