"""The largest and the smallest eigenvalue of a symmetric operator, by the recurrence of Lanczos.

Three vectors are in memory, whatever the number of steps. They lose their orthogonality, which repeats eigenvalues that
have been found, and shifts none: the ends of the spectrum and their residuals stay right (C. Paige, 1972).
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.linalg import eigh_tridiagonal

from .vectors import add, dot, norm, scale

Product = Callable[..., Any]
"""`product(vector, *operands) -> vector`: a symmetric operator; what it reads besides the vector are its operands."""

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
    """The recurrence of one operator.

    Args:
      product: the operator, compiled: it is called on arrays.
    """

    def __init__(self, product: Product):
        def after(image: Any, previous: Any, current: Any, beta: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
            image = add(image, previous, -beta)
            alpha = dot(image, current)
            rest = add(image, current, -alpha)
            length = norm(rest)
            return scale(rest, 1 / jnp.where(length == 0, 1, length)), alpha, length

        self._product = product
        self._after = jax.jit(after, donate_argnums=0)
        self._add = jax.jit(add, donate_argnums=0)
        self._begun = jax.jit(_begun)
        self._normalised = jax.jit(lambda vector: scale(vector, 1 / norm(vector)))

    def _step(self, previous: Any, current: Any, beta: jax.Array, operands: Sequence[Any]) -> tuple[Any, ...]:
        return current, *self._after(self._product(current, *operands), previous, current, beta)

    def ends(
        self,
        start: Any,
        *operands: Any,
        tolerance: float = TOLERANCE,
        first: int = FIRST_STEPS,
        most: int = MOST_STEPS,
        said: Callable[[str], None] = lambda text: None,
    ) -> Spectrum:
        """The ends of the spectrum: extended until both residuals are within the tolerance, or for `most` steps.

        Args:
          start: a random vector, of any length: a pytree of arrays.
          *operands: handed to the operator.
          tolerance: of the residuals; the largest one's relative to itself, the smallest one's to the larger of both.
          first, most: the least and the largest number of steps.
          said: is told after each step how far it is.
        """
        diagonal: list[float] = []
        beside: list[float] = []
        found = Spectrum(UNKNOWN, UNKNOWN, False, 0, np.zeros(0))
        for alpha, beta in self._recurrence(start, operands):
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

    def vector(self, start: Any, spectrum: Spectrum, *operands: Any) -> Any:
        """The unit vector of the largest eigenvalue: the recurrence runs again, and its vectors are added up."""
        previous, current, beta = self._begun(start)
        total = optax.tree.zeros_like(start)
        for coefficient in spectrum.coefficients:
            total = self._add(total, current, jnp.asarray(coefficient, beta.dtype))
            previous, current, _, beta = self._step(previous, current, beta, operands)
        return self._normalised(total)

    def _recurrence(self, start: Any, operands: Sequence[Any]) -> Iterator[tuple[float, float]]:
        previous, current, beta = self._begun(start)
        while True:
            previous, current, alpha, beta = self._step(previous, current, beta, operands)
            yield float(alpha), float(beta)


def _begun(start: Any) -> tuple[Any, Any, jax.Array]:
    length = norm(start)
    return optax.tree.zeros_like(start), scale(start, 1 / length), jnp.zeros_like(length)


def _ends(diagonal: Sequence[float], beside: Sequence[float], tolerance: float) -> Spectrum:
    values, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside[:-1]))
    residuals = np.abs(beside[-1] * vectors[-1])
    largest = Eigenvalue(float(values[-1]), float(residuals[-1]))
    smallest = Eigenvalue(float(values[0]), float(residuals[0]))
    return Spectrum(largest, smallest, largest.is_within(tolerance), len(diagonal), vectors[:, -1])
