"""Where an iteration with a linear optimizer becomes unstable.

Along a direction of curvature c, an optimizer whose update is -sum_k h[k] g[t-k] moves a parameter x by
x[t+1] = x[t] - c sum_k h[k] x[t-k]. Its powers z^t solve z - 1 + c H(z) = 0 with H(z) = sum_k h[k] z^-k, so it loses
its stability where one of these leaves the unit circle: at the smallest c > 0 that is (1 - z) / H(z) for some |z| = 1.
Mostly that is z = -1, where x jumps from side to side, and then c H(-1) = 2. At a learning rate of 1 this is c = 2 for
gradient descent, 2 (1 + b) for heavy ball, 2 (1 + b) / (1 + 2 b) for Nesterov's momentum and 2 (1 + b) / (1 - b) for an
exponential average.
"""

from typing import NamedTuple

import numpy as np

POINTS = 4097  # on the half circle


class Critical(NamedTuple):
    """The smallest curvature at which an iteration is unstable, and the angle of its oscillation, pi for z = -1."""

    curvature: float
    angle: float


def critical_curvature(impulse: np.ndarray) -> Critical:
    """The critical curvature of an optimizer from its impulse response h[0], h[1], ...; infinite if there is none.

    >>> round(critical_curvature(0.1 * 0.9 ** np.arange(400)).curvature, 6)  # an exponential average
    38.0
    """
    angles = np.linspace(0, np.pi, POINTS)[1:]
    needed = _curvatures(impulse, angles)
    imaginary = needed.imag
    found = []
    for i in np.flatnonzero(imaginary[:-2] * imaginary[1:-1] < 0):  # the last is real by itself
        angle = _crossing(impulse, angles[i], angles[i + 1])
        curvature = _curvatures(impulse, np.array([angle]))[0].real
        if curvature > 0:
            found.append(Critical(float(curvature), float(angle)))
    if needed[-1].real > 0 and np.isfinite(needed[-1].real):
        found.append(Critical(float(needed[-1].real), np.pi))
    return min(found, default=Critical(np.inf, np.pi))


def _curvatures(impulse: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """(1 - z) / H(z) on the unit circle: the curvature for which z solves the iteration, if it is real."""
    z = np.exp(1j * angles)
    response = np.polynomial.polynomial.polyval(1 / z, np.asarray(impulse, float))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (1 - z) / response


def _crossing(impulse: np.ndarray, low: float, high: float) -> float:
    """The angle between two at which the curvature is real, by bisection."""
    sign = np.sign(_curvatures(impulse, np.array([low]))[0].imag)
    for _ in range(60):
        middle = (low + high) / 2
        if np.sign(_curvatures(impulse, np.array([middle]))[0].imag) == sign:
            low = middle
        else:
            high = middle
    return (low + high) / 2
