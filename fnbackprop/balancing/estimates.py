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
    """How many standard errors the half of an interval has, with so many degrees of freedom.

    That is t = sqrt(freedom) tan(angle), where Student's distribution has the probability `CONFIDENCE` of at most |t|;
    by bisection, for every run asks for it and importing `scipy.special` takes a tenth of a second.
    """
    low, high = 0.0, math.pi / 2
    while low < (angle := (low + high) / 2) < high:
        low, high = (low, angle) if _probability_within(angle, freedom) > CONFIDENCE else (angle, high)
    return math.sqrt(freedom) * math.tan(angle)


def _probability_within(angle: float, freedom: int) -> float:
    """Of at most |t| by Student's distribution: a sum of powers of the cosine.

    Source: M. Abramowitz and I. Stegun, Handbook of Mathematical Functions, 1964, 26.7.3 and 26.7.4.
    """
    sine, cosine, odd = math.sin(angle), math.cos(angle), freedom % 2
    term = total = cosine if odd else 1.0
    for power in range(2 + odd, freedom - 1, 2):
        term *= (power - 1) / power * cosine**2
        total += term
    if not odd:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if freedom > 1 else 0.0))


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
