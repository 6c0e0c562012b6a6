"""Spikes: a loss, a gradient or an update that is far above what it was over the last steps."""

import dataclasses
import math
from collections import deque
from collections.abc import Mapping

import numpy as np

WINDOW, LEAST = 128, 32  # values that are remembered, and how many there must be before any is judged
THRESHOLD = 8.0  # robust standard deviations
SMALLEST_MAD = 0.01  # of logarithms: what hardly moves at all is not a spike when it moves by 8 %


class Series:
    """The logarithms of one quantity over the last steps; what was flagged is left out, or it would hide the next."""

    def __init__(self):
        self._values: deque[float] = deque(maxlen=WINDOW)

    def z(self, value: float) -> float:
        """How far a new value is above the median, in 1.4826 times the median absolute deviation; then remember it.

        0 while too few are known; infinite if it is not finite.
        """
        if not math.isfinite(value):
            return math.inf
        log = math.log(max(value, 1e-300))
        if len(self._values) < LEAST:
            self._values.append(log)
            return 0.0
        known = np.array(self._values)
        median = float(np.median(known))
        deviation = max(1.4826 * float(np.median(np.abs(known - median))), SMALLEST_MAD)
        found = (log - median) / deviation
        if found <= THRESHOLD:
            self._values.append(log)
        return found


@dataclasses.dataclass(frozen=True)
class Spike:
    """A step at which something was far above what it was.

    Attributes:
      step: its number.
      z: of each quantity that was, in robust standard deviations.
      first: the quantity that fired first, at this step or one just before.
      first_step: when.
      layer: in which the gradient rose most; empty if not known.
    """

    step: int
    z: Mapping[str, float]
    first: str
    first_step: int
    layer: str

    def __str__(self) -> str:
        names = ", ".join(f"{name} ({z:.0f} deviations)" for name, z in self.z.items())
        where = f", most in {self.layer}" if self.layer else ""
        before = f"; {self.first} first, at step {self.first_step}" if self.first_step < self.step else ""
        return f"a spike at step {self.step}: {names}{where}{before}"


class SpikeWatch:
    """Looks at the quantities of one step after the other.

    Args:
      together: spikes of several quantities within so many steps are of one origin.
    """

    def __init__(self, together: int = 10):
        self._together = together
        self._series: dict[str, Series] = {}
        self._layers: dict[str, Series] = {}
        self._first: tuple[str, int] | None = None
        self._last = -math.inf

    def add(
        self, step: int, quantities: Mapping[str, float], layers: Mapping[str, float] | None = None
    ) -> Spike | None:
        """The spike of this step, if there is one.

        Args:
          step: its number.
          quantities: by name, those that come first in a chain of causes first.
          layers: the gradient norm of each layer.
        """
        zs = {name: self._series.setdefault(name, Series()).z(value) for name, value in quantities.items()}
        of_layers = {name: self._layers.setdefault(name, Series()).z(value) for name, value in (layers or {}).items()}
        fired = {name: z for name, z in zs.items() if z > THRESHOLD}
        if not fired:
            return None
        if self._first is None or step - self._last > self._together:
            self._first = next(iter(fired)), step
        self._last = step
        worst = max(of_layers, key=lambda name: of_layers[name], default="")
        layer = worst if worst and of_layers[worst] > THRESHOLD else ""
        return Spike(step, fired, *self._first, layer)
