"""A Gaussian process in numpy: what a few measurements say about all other points.

One output, inputs given as squared distances by parameter, a Matern 5/2 kernel with a length a
parameter, noise; hyperparameters at their posterior mode. C. E. Rasmussen, C. K. I. Williams,
"Gaussian Processes for Machine Learning" (2006), equations in brackets. Optuna's own GP sampler
needs PyTorch, which the study's process does not load.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from study.results import Floats

_ROOT5 = math.sqrt(5.0)
_JITTER = 1e-8


@dataclass(frozen=True, kw_only=True)
class Prior:
    """What is believed of a standardised output before the first measurement.

    Attributes:
        length: Typical distance over which it changes; 1 is a parameter's whole range.
        scale: Typical variance.
        noise: Typical variance of a single measurement.
        length_spread: Of its natural logarithm; likewise of the other two.
    """

    length: float = 1.5
    length_spread: float = 1.0
    scale: float = 1.0
    scale_spread: float = 1.0
    noise: float = 0.01
    noise_spread: float = 1.5

    def mode(self, parameters: int) -> Floats:
        """Logarithms of lengths, scale and noise: (parameters + 2,)."""
        logs = [math.log(self.length)] * parameters
        return np.array([*logs, math.log(self.scale), math.log(self.noise)])

    def spread(self, parameters: int) -> Floats:
        """Of each logarithm: (parameters + 2,)."""
        return np.array([self.length_spread] * parameters + [self.scale_spread, self.noise_spread])


@dataclass
class Gaussian:
    """A Gaussian process over points that are known by their distances.

    Attributes:
        least: Deviation of values that are all the same.
        theta: Logarithms of lengths, scale and noise; None before the first fit.
    """

    prior: Prior = field(default_factory=Prior)
    least: float = 0.0
    theta: Floats | None = None
    _values: Floats = field(default_factory=lambda: np.zeros(0))
    _mean: float = 0.0
    _deviation: float = 0.0
    _weights: Floats = field(default_factory=lambda: np.zeros(0))
    _whitener: Floats = field(default_factory=lambda: np.zeros((0, 0)))

    def fit(self, squares: Floats, values: Floats, counts: Floats, *, steps: int) -> None:
        """Learn from measurements.

        Args:
            squares: (n, n, parameters) squared distances between the points.
            values: (n,) what was measured, a mean where a point was measured several times.
            counts: (n,) how often each was measured.
            steps: How many steps towards better hyperparameters; 0 keeps those of before.
        """
        self._mean = float(values.mean())
        self._deviation = float(values.std())
        if self._deviation <= 1e-9 * max(1.0, abs(self._mean)):
            self._deviation = self.least
        self._values = values
        standard = (values - self._mean) / (self._deviation or 1.0)
        if self.theta is None:
            self.theta = self.prior.mode(squares.shape[2])
        if steps and self._deviation:
            self.theta = self._climbed(squares, standard, counts, steps)
        noise = math.exp(self.theta[-1]) / counts + _JITTER
        covariance = _kernel(squares, self.theta) + np.diag(noise)
        self._whitener = np.linalg.inv(np.linalg.cholesky(covariance))
        self._weights = self._whitener.T @ (self._whitener @ standard)  # (2.25), alpha

    def predict(self, squares: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation, without noise, at other points.

        Args:
            squares: (points, n, parameters) squared distances to the points of `fit`.
        """
        assert self.theta is not None
        kernel = _kernel(squares, self.theta)
        mean = self._mean + self._deviation * (kernel @ self._weights)  # (2.25)
        explained = np.square(self._whitener @ kernel.T).sum(axis=0)
        left = np.maximum(math.exp(self.theta[-2]) - explained, 1e-10)  # (2.26)
        return mean, self._deviation * np.sqrt(left)

    def left_out(self) -> tuple[Floats, Floats]:
        """What the other points of `fit` say of each: mean, deviation with noise (5.12)."""
        precision = np.square(self._whitener).sum(axis=0)
        mean = self._values - self._deviation * self._weights / precision
        return mean, self._deviation / np.sqrt(precision)

    def _climbed(self, squares: Floats, values: Floats, counts: Floats, steps: int) -> Floats:
        """The best hyperparameters met on `steps` steps uphill (Rprop; M. Riedmiller, 1993)."""
        assert self.theta is not None
        theta, best, height = self.theta.copy(), self.theta, -math.inf
        stride, last = np.full(len(theta), 0.2), np.zeros(len(theta))
        for _ in range(steps):
            value, slope = self._posterior(theta, squares, values, counts)
            if value > height:
                best, height = theta.copy(), value
            turned = slope * last
            stride = np.clip(
                np.where(turned > 0, 1.2, np.where(turned < 0, 0.5, 1)) * stride, 1e-3, 0.5
            )
            last = np.where(turned < 0, 0.0, slope)
            theta = theta + np.sign(last) * stride
            if stride.max() < 0.01:
                break
        return best

    def _posterior(
        self, theta: Floats, squares: Floats, values: Floats, counts: Floats
    ) -> tuple[float, Floats]:
        """Log posterior of the hyperparameters, up to a constant, and its gradient."""
        kernel, radial = _kernel_and_slope(squares, theta)
        noise = math.exp(theta[-1]) / counts
        factor = np.linalg.cholesky(kernel + np.diag(noise + _JITTER))
        whitener = np.linalg.inv(factor)
        inverse = whitener.T @ whitener
        weights = inverse @ values
        off = (theta - self.prior.mode(squares.shape[2])) / self.prior.spread(squares.shape[2])
        height = -0.5 * values @ weights - np.log(np.diag(factor)).sum() - 0.5 * off @ off  # (2.30)
        pull = np.outer(weights, weights) - inverse  # (5.9)
        lengths = 0.5 * np.einsum("ij,ijk->k", pull * radial, squares) * np.exp(-2 * theta[:-2])
        rest = [0.5 * (pull * kernel).sum(), 0.5 * (np.diag(pull) * noise).sum()]
        slope = np.concatenate([lengths, rest]) - off / self.prior.spread(squares.shape[2])
        return float(height), slope


def _kernel(squares: Floats, theta: Floats) -> Floats:
    """Matern 5/2 (4.17): (a, b)."""
    far = squares @ np.exp(-2 * theta[:-2])
    root = _ROOT5 * np.sqrt(far)
    kernel: Floats = math.exp(theta[-2]) * (1 + root + 5 / 3 * far) * np.exp(-root)
    return kernel


def _kernel_and_slope(squares: Floats, theta: Floats) -> tuple[Floats, Floats]:
    """The kernel, and what its slope by a log length is, over that parameter's scaled square."""
    far = squares @ np.exp(-2 * theta[:-2])
    root = _ROOT5 * np.sqrt(far)
    fade = math.exp(theta[-2]) * np.exp(-root)
    return (1 + root + 5 / 3 * far) * fade, 5 / 3 * (1 + root) * fade
