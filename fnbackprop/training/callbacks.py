"""What may end a run before its last step, or ask for a checkpoint or an evaluation between those that are due."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fnbackprop.experiment import ExperimentError

from .record.metrics import curve
from .run_folder import MetricsRow
from .step.state import TrainState
from .step.step_metrics import LAYER_NORMS

Callback = Callable[[int, TrainState, Mapping[str, Any]], Any]
ASKS = ("stop", "checkpoint", "evaluate")


def ask(
    callbacks: Sequence[Callback],
    updates: int,
    state: TrainState,
    metrics: Mapping[str, Any],
    evaluation: Mapping[str, Any],
) -> set[str]:
    """What the callbacks ask for after this number of updates.

    Raises:
      ExperimentError: one of them returned something else.
    """
    if not callbacks:
        return set()
    values = {name: value for name, value in metrics.items() if name != LAYER_NORMS}
    values |= {f"evaluate/{name}": value for name, value in evaluation.items()}
    asked = set()
    for callback in callbacks:
        answer = callback(updates, state, values)
        words = [answer] if isinstance(answer, str) else list(answer or ())
        if not set(words) <= set(ASKS):
            name = getattr(callback, "__name__", repr(callback))
            raise ExperimentError(f"the callback {name} may return {', '.join(ASKS)} or None, not {answer!r}.")
        asked |= set(words)
    return asked


class Patience:
    """Counts the evaluations on end that are not the best.

    Args:
      metric: of the evaluation.
      mode: whether the highest ("max") or the lowest ("min") is best.
      most: how many may follow the best.
    """

    def __init__(self, metric: str, mode: str, most: int):
        self._metric, self._sign, self._most = metric, 1 if mode == "max" else -1, most
        self._best, self._best_at, self._since, self._seen = -math.inf, 0, 0, -1

    def look(self, updates: int, evaluation: Mapping[str, Any]) -> str:
        """Why to stop after the last evaluation, made after this number of updates; "" if there is no reason."""
        if updates != self._seen and self._metric in evaluation:
            self._seen, value = updates, self._sign * evaluation[self._metric]
            if value > self._best:
                self._best, self._best_at, self._since = value, updates, 0
            else:
                self._since += 1
        if self._since < self._most:
            return ""
        best = f"{self._sign * self._best:.4g} at step {self._best_at}"
        return f"for {self._since} evaluations without a better {self._metric} than {best}"

    def resume(self, rows: Sequence[MetricsRow]) -> str:
        """Look at all evaluations that a run has made before."""
        why = ""
        for updates, value in zip(*curve(rows, f"evaluate/{self._metric}"), strict=True):
            why = self.look(updates, {self._metric: value})
        return why
