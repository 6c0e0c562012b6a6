"""`watch=N`: the sizes of cotangents along the model, every N steps, into the metrics.

A program of its own computes them before the step, so that the step's numbers are the same whether it is watched or
not. It leaves out the gradient with respect to the parameters, and its numbers leave the device in one copy.
"""

from typing import Any

import jax
import numpy as np

from fnbackprop.experiment import Experiment
from fnbackprop.tracing.watching import Watched, watch

from .record.run_log import RunLog
from .step.loss_gradient import first_microbatch, loss_in_precision
from .step.mixed_precision import precision_of
from .step.state import TrainState
from .step.step_metrics import WATCHED


class WatchSteps:
    """Watches a run, before the steps that are multiples of `every`."""

    def __init__(self, experiment: Experiment, every: int, log: RunLog, update: str = ""):
        self._loss = loss_in_precision(experiment, precision_of(experiment.precision))
        self._every, self._log, self._accumulate = every, log, experiment.accumulate
        self._update = f"{update}/" if update else ""
        self._sizes, self._is_empty = jax.jit(self._watched), False

    def before_step(self, step: int, state: TrainState, batch: Any) -> None:
        if step % self._every or self._is_empty:
            return
        if self._accumulate > 1:  # one microbatch, as the step has it
            batch = first_microbatch(batch, self._accumulate)
        sizes = as_metrics(jax.device_get(self._sizes(state, batch)), self._update)
        if not sizes:
            self._is_empty = True
            self._log.say("watch: nothing to see, for the loss has no scan and no named value: fb.name(x, 'hidden')")
        self._log.add_watched(step, sizes)

    def _watched(self, state: TrainState, batch: Any) -> Watched:
        key = jax.random.fold_in(state.key, state.step)
        scale = None if state.loss_scale is None else state.loss_scale.value

        def loss(params: Any) -> jax.Array:
            value = self._loss(params, batch, key, state.model_state)[0]
            return value if scale is None else value * scale.astype(value.dtype)

        found = watch(loss, state.params, has_aux=False)
        if scale is None:
            return found
        return found._replace(cotangents={name: x / scale for name, x in found.cotangents.items()})


def as_metrics(found: Watched, update: str = "") -> dict[str, float]:
    """Each size with a name of its own: "watch/cotangent/carry/3" is of the fourth step of the scan. Of one of several
    updates, its name comes before that of the value."""
    metrics = {}
    for kind, group in (("value", found.values), ("cotangent", found.cotangents)):
        for name, sizes in group.items():
            for place, size in np.ndenumerate(np.asarray(sizes)):
                metrics["/".join([WATCHED + kind, update + name, *map(str, place)])] = float(size)
    return metrics
