"""Steps whose update is left out: their numbers are not finite, or far above what they were. Both are counted."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnbackprop.experiment import Experiment

from .loss_scale import all_finite
from .spike_window import SPIKES, SPIKES_IN_A_ROW

SKIPPED, IN_A_ROW = "skipped", "skipped_in_a_row"  # metrics


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Skipped:
    """How many updates were left out, in all and on end, as int32 scalars."""

    total: jax.Array
    in_a_row: jax.Array

    @classmethod
    def none(cls) -> "Skipped":
        return cls(jnp.int32(0), jnp.int32(0))

    def after(self, bad: jax.Array) -> "Skipped":
        return Skipped(self.total + bad.astype(jnp.int32), jnp.where(bad, self.in_a_row + 1, 0))


def leaves_out(state: Any) -> bool:
    """Whether a step may leave its update out."""
    return any(part is not None for part in (state.loss_scale, state.skipped, state.spikes))


def unless_left_out(
    experiment: Experiment, before: Any, after: Any, loss: jax.Array, gradient: Any, norm: jax.Array
) -> tuple[Any, jax.Array]:
    """(the train state after the step, whether its update was made): else the state is the one before, with half the
    loss scale if the gradient is not finite, and with new counts.

    Where there is a loss scale, a gradient that overflows is its business; only a loss that is not finite is counted.

    Args:
      experiment: says what may be left out.
      before, after: the state before the update and after it.
      loss, gradient: of the step.
      norm: the gradient's.
    """
    finite, loss_finite = all_finite(gradient), jnp.isfinite(loss)
    scale, skipped, spikes = before.loss_scale, before.skipped, before.spikes
    made = jnp.bool_(True) if scale is None and skipped is None else finite if skipped is None else finite & loss_finite
    if spikes is not None:
        spikes, is_left_out = spikes.look(loss, norm, experiment.skip_spikes)
        made &= ~is_left_out
    others = {
        "step": after.step,
        "loss_scale": None if scale is None else scale.after(finite),
        "skipped": None if skipped is None else skipped.after(~(loss_finite & (finite | (scale is not None)))),
        "spikes": spikes,
    }
    new, old = (dataclasses.replace(state, **others) for state in (after, before))
    return jax.tree.map(lambda a, b: jnp.where(made, a, b), new, old), made


def skip_metrics(state: Any) -> dict[str, jax.Array]:
    """The counts of a train state, if its experiment counts."""
    skipped = {} if state.skipped is None else {SKIPPED: state.skipped.total, IN_A_ROW: state.skipped.in_a_row}
    if state.spikes is None:
        return skipped
    windows = list(state.spikes.values()) if isinstance(state.spikes, dict) else [state.spikes]  # one of each update
    totals, rows = (jnp.stack([getattr(w, name) for w in windows]) for name in ("total", "in_a_row"))
    return skipped | {SPIKES: jnp.sum(totals), SPIKES_IN_A_ROW: jnp.max(rows)}
