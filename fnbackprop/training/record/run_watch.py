"""What a run says about its own course: spikes while it goes, and at its end whether the loss still falls."""

from collections import deque
from typing import Any

from fnbackprop.balancing.progress import WINDOW, progress_in_words
from fnbackprop.balancing.spikes import SpikeWatch

from ..step.step_metrics import LAYER_NORMS

# A spike of the update comes before one of the loss: in this order they are looked at.
QUANTITIES = {"update_ratio": "update", "gradient_norm": "gradient", "loss": "loss"}


class RunWatch:
    """Looks at the metrics of every step."""

    def __init__(self):
        self._spikes = SpikeWatch()
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._said: int | None = None  # the step at which the last spike that was told began

    def look(self, row: dict[str, Any]) -> str | None:
        """A line if a spike begins at this step, with the layer where the gradient rose most."""
        self._losses.append(row["loss"])
        norms = row.get(LAYER_NORMS)
        layers = {} if norms is None else {name: float(x) for name, x in zip(norms.names, norms.values, strict=True)}
        quantities = {word: row[name] for name, word in QUANTITIES.items() if name in row}
        spike = self._spikes.add(row["step"], quantities, layers)
        if spike is None or spike.first_step == self._said:
            return None
        self._said = spike.first_step
        return str(spike)

    def in_words(self) -> str:
        """Whether the loss still falls, or ""."""
        return progress_in_words(list(self._losses))
