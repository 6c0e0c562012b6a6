"""The noise of the gradient: how much batches differ, and the batch size at which this no longer matters.

The noise scale is tr(S) / |G|^2 with the covariance S of one example's gradient and the true gradient G: with a batch
of that size, half of the squared norm of the gradient is noise. Source: S. McCandlish et al., An Empirical Model of
Large-Batch Training, 2018. It is a ratio of means: a mean of ratios is biased.
"""

import dataclasses
import math

import numpy as np

from .estimates import Estimate, quantile


@dataclasses.dataclass(frozen=True)
class GradientProducts:
    """What the noise scale is made of: of the gradients g_i of some batches, and their sum.

    Attributes:
      squares: |g_i|^2, (batches,).
      with_sum: <g_i, sum of all>, (batches,).
      of_sum: |sum of all|^2.
      size: examples in a batch.
    """

    squares: np.ndarray
    with_sum: np.ndarray
    of_sum: float
    size: int

    def without(self, i: int) -> "GradientProducts":
        """The same without one batch."""
        rest = np.arange(len(self.squares)) != i
        of_sum = self.of_sum - 2 * self.with_sum[i] + self.squares[i]
        return GradientProducts(self.squares[rest], self.with_sum[rest], float(of_sum), self.size)

    def parts(self) -> tuple[float, float]:
        """Unbiased estimates of (tr(S), |G|^2)."""
        count = len(self.squares)
        within = (float(self.squares.sum()) - self.of_sum / count) / (count - 1)  # the variance of a batch's gradient
        return within * self.size, self.of_sum / count**2 - within / count


@dataclasses.dataclass(frozen=True)
class NoiseScale:
    """The noise scale in examples.

    Attributes:
      examples: the estimate; where the true gradient cannot be told from zero, only its lower end is known.
      batch: examples in a batch.
    """

    examples: Estimate
    batch: int

    @property
    def is_bound(self) -> bool:
        return math.isinf(self.examples.high)

    @property
    def efficiency(self) -> float:
        """The progress of a step relative to one without noise, at the best rate for either: 1 / (1 + scale / batch).

        Together with the curvature along the gradient this gives the best rate of one step, which knows of no other.
        """
        value = self.examples.low if self.is_bound else self.examples.value
        return 1 / (1 + max(value, 0.0) / self.batch)


def noise_scale(products: GradientProducts) -> NoiseScale | None:
    """The noise scale with the interval of its jackknife; None if the batches do not differ at all."""
    count = len(products.squares)
    trace, signal = products.parts()
    if trace <= 1e-6 * products.size * float(products.squares.mean()):
        return None
    left_out = [products.without(i).parts() for i in range(count)]
    traces, signals = (np.array(values) for values in zip(*left_out, strict=True))
    steps = quantile(count - 1)
    highest = signal + steps * _jackknife_error(signals)
    lowest = signal - steps * _jackknife_error(signals)
    if lowest <= 0 or np.any(signals <= 0):
        bound = trace / highest if highest > 0 else 0.0
        value = trace / signal if signal > 0 else math.inf
        return NoiseScale(Estimate(value, bound, math.inf), products.size)
    error = _jackknife_error(np.log(traces / signals))
    value = trace / signal
    return NoiseScale(Estimate(value, value * math.exp(-steps * error), value * math.exp(steps * error)), products.size)


def _jackknife_error(left_out: np.ndarray) -> float:
    """The standard error of an estimate from those without one sample each."""
    count = len(left_out)
    return float(math.sqrt((count - 1) / count * np.sum((left_out - left_out.mean()) ** 2)))
