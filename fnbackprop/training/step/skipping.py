"""Steps whose numbers are not finite: their update is left out, and they are counted."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from .loss_scale import all_finite

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


def unless_nonfinite(before: Any, after: Any, loss: jax.Array, gradient: Any) -> Any:
    """The train state after the update if gradient and loss are finite; else the one before, with half the loss scale.

    Where there is a loss scale, a gradient that overflows is its business; only a loss that is not finite is counted.
    """
    finite, loss_finite = all_finite(gradient), jnp.isfinite(loss)
    scale, skipped = before.loss_scale, before.skipped
    others = {
        "step": after.step,
        "loss_scale": None if scale is None else scale.after(finite),
        "skipped": None if skipped is None else skipped.after(~(loss_finite & (finite | (scale is not None)))),
    }
    new, old = (dataclasses.replace(state, **others) for state in (after, before))
    kept = finite if skipped is None else finite & loss_finite
    return jax.tree.map(lambda a, b: jnp.where(kept, a, b), new, old)


def skip_metrics(state: Any) -> dict[str, jax.Array]:
    """The counts of a train state, if its experiment counts."""
    return {} if state.skipped is None else {SKIPPED: state.skipped.total, IN_A_ROW: state.skipped.in_a_row}
