"""What a model is, from its files: shape, weights, quantisation; Whisper's dimensions."""

from __future__ import annotations

from objectives.models.config import UnsupportedShapeError, cannot_tell
from objectives.models.hub import hub_cache, hub_entry, hub_folder, is_hub_name
from objectives.models.layers import AttentionLayers
from objectives.models.shape import ModelShape
from objectives.models.weight_files import weight_bytes
from objectives.models.whisper import (
    WHISPER_NAMES,
    WHISPER_SIZES,
    canonical_name,
    nearest_whisper,
    whisper_dims,
)

__all__ = [
    "WHISPER_NAMES",
    "WHISPER_SIZES",
    "AttentionLayers",
    "ModelShape",
    "UnsupportedShapeError",
    "cannot_tell",
    "canonical_name",
    "hub_cache",
    "hub_entry",
    "hub_folder",
    "is_hub_name",
    "nearest_whisper",
    "weight_bytes",
    "whisper_dims",
]
