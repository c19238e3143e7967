"""The default sampler's model: a Gaussian process, and the gain that it expects of a point."""

from __future__ import annotations

from study.samplers.bayesian.chooser import ModelChooser

__all__ = ["ModelChooser"]
