"""Which of several weight updates of a step broke."""

import math
from typing import Any

import jax

from fnbackprop.experiment import Experiment

from .loop import make_step
from .step.state import TrainState, part_of, with_part


def broken_update(experiment: Experiment, state: TrainState, batch: Any, backward: str) -> tuple[str, TrainState]:
    """The first update of a step whose loss or gradient is not finite, and its part of the state before it.

    Args:
      experiment: without several updates, there is one, named "".
      state: before the step.
      batch: of the step.
      backward: "manual", "fused" or "automatic".

    Returns:
      if all are finite, the first update.
    """
    first = next(iter(experiment.parts))
    before, made = part_of(state, first), int(state.step) + 1
    for update in experiment.updates:
        if made % update.every:
            continue
        part = part_of(state, update.name)
        after, metrics = jax.jit(make_step(experiment.parts[update.name], backward))(part, batch)
        if not all(math.isfinite(float(metrics[name])) for name in ("loss", "gradient_norm")):
            return update.name, part
        state = with_part(state, update.name, after)
    return first, before
