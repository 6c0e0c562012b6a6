"""The largest and the smallest eigenvalue of a symmetric operator, by the recurrence of Lanczos.

Two vectors are in memory, and the product as it is made, whatever the number of steps. They lose their orthogonality,
which repeats eigenvalues that have been found, and shifts none: the ends of the spectrum and their residuals stay right
(C. Paige, 1972).
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.linalg import eigh_tridiagonal

from .vectors import add, dot, norm, scale, times

Product = Callable[..., Any]
"""`product(vector, *operands) -> vector`: a symmetric operator; what it reads besides the vector are its operands."""

Start = Callable[[], Any]

TOLERANCE = 0.01  # of a residual, relative to the eigenvalue
FIRST_STEPS, MOST_STEPS = 20, 100
EXHAUSTED = 1e-6  # what is left of a vector, relative to the operator's size, when its space is invariant


@dataclasses.dataclass(frozen=True)
class Eigenvalue:
    """A Ritz value: an eigenvalue is no further from it than the residual."""

    value: float
    residual: float

    def is_within(self, tolerance: float, size: float | None = None) -> bool:
        """Whether the residual is small, relative to `size`; by default, to the value."""
        return self.residual <= tolerance * abs(self.value if size is None else size)


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """The ends of a spectrum.

    Attributes:
      largest, smallest: of the eigenvalues. The largest is never below its value.
      converged: whether the residual of the largest is within the tolerance; if not, it is a lower bound.
      steps: how many products were taken.
      coefficients: of the largest one's Ritz vector, (steps,).
    """

    largest: Eigenvalue
    smallest: Eigenvalue
    converged: bool
    steps: int
    coefficients: np.ndarray = dataclasses.field(repr=False)


UNKNOWN = Eigenvalue(float("nan"), float("inf"))


class Lanczos:
    """The recurrence of one operator, or of its products with a gain G on both sides, G^1/2 A G^1/2.

    With a gain, its vectors are G^1/2 q in the place of q, and their inner product is that of G^-1, the metric: so the
    operator takes them as they are, and no further vector is in memory.

    Args:
      product: the operator, which is compiled with the first part of a step.
    """

    def __init__(self, product: Product):
        def after(previous: Any, current: Any, beta: jax.Array, metric: Any, operands: Sequence[Any]) -> Any:
            image = product(current, *operands)
            return add(image if metric is None else times(inverse(metric), image), previous, -beta)

        def apart(rest: Any, current: Any, metric: Any) -> tuple[Any, jax.Array, jax.Array]:
            alpha = _inner(rest, current, metric)
            rest = add(rest, current, -alpha)
            return rest, alpha, jnp.sqrt(_inner(rest, rest, metric))

        self._after, self._apart = jax.jit(after, donate_argnums=0), jax.jit(apart, donate_argnums=0)
        self._scaled = jax.jit(lambda v, length: scale(v, 1 / jnp.where(length == 0, 1, length)), donate_argnums=0)
        self._add = jax.jit(add, donate_argnums=0)
        self._begun = jax.jit(_begun, donate_argnums=0)
        self._unit = jax.jit(_unit, donate_argnums=0)

    def _step(
        self, previous: Any, current: Any, beta: jax.Array, metric: Any, operands: Sequence[Any]
    ) -> tuple[Any, jax.Array, jax.Array]:
        """(the next vector, alpha, beta)."""
        rest = self._after(previous, current, beta, metric, operands)
        rest, alpha, beta = self._apart(rest, current, metric)
        return self._scaled(rest, beta), alpha, beta

    def ends(
        self,
        start: Start,
        *operands: Any,
        metric: Any = None,
        tolerance: float = TOLERANCE,
        first: int = FIRST_STEPS,
        most: int = MOST_STEPS,
        said: Callable[[str], None] = lambda text: None,
    ) -> Spectrum:
        """The ends of the spectrum: extended until both residuals are within the tolerance, or for `most` steps.

        Args:
          start: makes a random vector, of any length: a pytree of arrays, which is used up.
          *operands: handed to the operator.
          metric: `inverse(G)` of a gain; by default 1.
          tolerance: of the residuals; the largest one's relative to itself, the smallest one's to the larger of both.
          first, most: the least and the largest number of steps.
          said: is told after each step how far it is.
        """
        diagonal: list[float] = []
        beside: list[float] = []
        found = Spectrum(UNKNOWN, UNKNOWN, False, 0, np.zeros(0))
        for alpha, beta in self._recurrence(start, metric, operands):
            if not np.isfinite(alpha + beta):
                return dataclasses.replace(found, converged=False)
            diagonal.append(alpha)
            beside.append(beta)
            found = _ends(diagonal, beside, tolerance)
            said(f"step {found.steps}, largest so far {found.largest.value:.4g}")
            size = max(abs(found.largest.value), abs(found.smallest.value))
            done = found.steps >= first and found.converged and found.smallest.is_within(tolerance, size)
            if done or beta <= EXHAUSTED * size or found.steps >= most:
                break
        return found

    def vector(self, start: Start, spectrum: Spectrum, *operands: Any, metric: Any = None) -> Any:
        """The unit vector q of the largest eigenvalue: the recurrence runs again, and its vectors are added up."""
        previous, current, beta = self._begun(start(), metric)
        total = optax.tree.zeros_like(current)
        for coefficient in spectrum.coefficients:
            total = self._add(total, current, jnp.asarray(coefficient, beta.dtype))
            found, _, beta = self._step(previous, current, beta, metric, operands)
            previous, current = current, found
        return self._unit(total, metric)

    def _recurrence(self, start: Start, metric: Any, operands: Sequence[Any]) -> Iterator[tuple[float, float]]:
        previous, current, beta = self._begun(start(), metric)
        while True:
            found, alpha, beta = self._step(previous, current, beta, metric, operands)
            previous, current = current, found
            yield float(alpha), float(beta)


def inverse(gain: Any) -> Any:
    """1 / G, elementwise; 0 where the gain is 0."""
    return jax.tree.map(lambda g: jnp.where(g > 0, 1 / jnp.where(g > 0, g, 1), 0), gain)


def _begun(start: Any, metric: Any) -> tuple[Any, Any, jax.Array]:
    """The recurrence's first vectors, of length 1 without what a gain of zero takes away."""
    current = start if metric is None else times(jax.tree.map(jnp.sqrt, inverse(metric)), start)
    length = jnp.sqrt(_inner(current, current, metric))
    return optax.tree.zeros_like(start), scale(current, 1 / length), jnp.zeros_like(length)


def _inner(u: Any, v: Any, metric: Any) -> jax.Array:
    """The inner product of the metric. Where it is zero, so are the vectors."""
    return dot(u if metric is None else times(metric, u), v)


def _unit(vector: Any, metric: Any) -> Any:
    own = vector if metric is None else times(jax.tree.map(jnp.sqrt, metric), vector)
    return scale(own, 1 / norm(own))


def _ends(diagonal: Sequence[float], beside: Sequence[float], tolerance: float) -> Spectrum:
    values, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside[:-1]))
    residuals = np.abs(beside[-1] * vectors[-1])
    largest = Eigenvalue(float(values[-1]), float(residuals[-1]))
    smallest = Eigenvalue(float(values[0]), float(residuals[0]))
    return Spectrum(largest, smallest, largest.is_within(tolerance), len(diagonal), vectors[:, -1])
