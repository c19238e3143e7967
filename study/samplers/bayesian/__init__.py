"""The default sampler's model: a Gaussian process, and the gain that it expects of a point."""

from __future__ import annotations

from study.samplers.bayesian.chooser import ChooserOptions, ModelChooser
from study.samplers.bayesian.gaussian_process import Prior

__all__ = [
    "ChooserOptions",
    "ModelChooser",
    "Prior",
]
