"""Numbers with their uncertainty."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.98


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and an interval that holds the true one, mostly: with a confidence of 98 % where it is statistical.

    An end that is infinite is not known.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of_mean(cls, samples: Sequence[float]) -> "Estimate":
        """Of the mean of independent samples, by Student's distribution."""
        array = np.asarray(samples, float)
        mean = float(array.mean())
        if len(array) < 2:
            return cls(mean, -math.inf, math.inf)
        half = quantile(len(array) - 1) * float(array.std(ddof=1)) / len(array) ** 0.5
        return cls(mean, mean - half, mean + half)

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def times(self, factor: float) -> "Estimate":
        low, high = sorted((self.low * factor, self.high * factor))
        return Estimate(self.value * factor, low, high)


UNKNOWN = Estimate(math.nan, -math.inf, math.inf)


def quantile(freedom: int) -> float:
    """How many standard errors the half of an interval has, with so many degrees of freedom."""
    from scipy.special import stdtrit  # a fifth of a second, which not every run has to wait for

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def difference(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """(mean, standard error) of the differences of two series on the same data.

    Neighbours may be correlated: by their correlation r there are fewer independent ones, n (1 - r) / (1 + r).
    """
    apart = np.asarray(one, float) - np.asarray(other, float)
    mean, count = float(apart.mean()), len(apart)
    rest = apart - mean
    variance = float(np.mean(rest**2))
    if count < 2 or variance == 0 or not np.isfinite(variance):
        return mean, 0.0 if np.isfinite(mean) else math.nan
    correlation = min(max(float(np.mean(rest[1:] * rest[:-1])) / variance, 0.0), 0.95)
    independent = max(count * (1 - correlation) / (1 + correlation), 2.0)
    return mean, math.sqrt(variance / (independent - 1))
