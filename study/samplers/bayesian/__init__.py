"""The default sampler's model: a Gaussian process, and the gain that it expects of a point."""

from __future__ import annotations

from study.samplers.bayesian.chooser import ModelChooser, Settings
from study.samplers.bayesian.gaussian_process import Prior

__all__ = [
    "ModelChooser",
    "Prior",
    "Settings",
]
