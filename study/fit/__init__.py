"""Will it fit? A model, a device and a utilisation, answered by arithmetic."""

from __future__ import annotations

from study.fit.text import render_candidates

__all__ = [
    "render_candidates",
]
