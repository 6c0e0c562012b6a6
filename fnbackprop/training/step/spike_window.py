"""Spikes within a compiled step: the rule of `balancing/spikes.py`, whose memory is a part of the train state."""

import dataclasses

import jax
import jax.numpy as jnp

from fnbackprop.balancing.spikes import LEAST, SMALLEST_MAD, THRESHOLD, WINDOW

SPIKES, SPIKES_IN_A_ROW = "skipped_spikes", "skipped_spikes_in_a_row"  # metrics
QUANTITIES = 2  # the loss and the gradient's norm


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SpikeWindow:
    """What loss and gradient norm were over the last steps, and how many updates were left out.

    Attributes:
      logarithms: (2, WINDOW) in float32, of the loss and of the gradient's norm; the oldest is overwritten.
      seen: how many of each have been remembered, (2,).
      total, in_a_row: the updates that were left out, in all and on end, int32 scalars.
    """

    logarithms: jax.Array
    seen: jax.Array
    total: jax.Array
    in_a_row: jax.Array

    @classmethod
    def empty(cls) -> "SpikeWindow":
        logarithms = jnp.zeros((QUANTITIES, WINDOW), jnp.float32)
        return cls(logarithms, jnp.zeros(QUANTITIES, jnp.int32), jnp.int32(0), jnp.int32(0))

    def look(self, loss: jax.Array, norm: jax.Array, most: int) -> tuple["SpikeWindow", jax.Array]:
        """(the window after a step, whether the step's update is to be left out).

        What spikes is left out of the window, or it would hide the next. If more than `most` steps on end spike, that
        is the level now: the update is made, and the window begins anew. Numbers that are not finite are not looked at,
        nor losses that are not positive, which have no logarithm.
        """
        values = jnp.stack([loss.astype(jnp.float32), norm.astype(jnp.float32)])
        usable = jnp.isfinite(values) & (values > 0)
        logs = jnp.log(jnp.where(usable, values, 1))
        far = usable & (self._deviations(logs) > THRESHOLD)
        is_spike = jnp.any(far)
        left_out = is_spike & (self.in_a_row < most)
        is_level = is_spike & ~left_out
        is_new = usable & ~far
        place = jax.nn.one_hot(self.seen % WINDOW, WINDOW, dtype=bool) & is_new[:, None]
        after = SpikeWindow(
            jnp.where(place, logs[:, None], self.logarithms),
            jnp.where(is_level, 0, self.seen + is_new.astype(jnp.int32)),
            self.total + left_out.astype(jnp.int32),
            jnp.where(left_out, self.in_a_row + 1, 0),
        )
        return after, left_out

    def _deviations(self, logs: jax.Array) -> jax.Array:
        """How far each new logarithm is above the median, in robust standard deviations; 0 while too few are known."""
        known = jnp.arange(WINDOW, dtype=jnp.int32)[None] < self.seen[:, None]
        count = jnp.minimum(self.seen, WINDOW)
        median = _median(self.logarithms, known, count)
        absolute = _median(jnp.abs(self.logarithms - median[:, None]), known, count)
        deviation = jnp.maximum(1.4826 * absolute, SMALLEST_MAD)
        return jnp.where(count < LEAST, 0, (logs - median) / deviation)


def _median(values: jax.Array, known: jax.Array, count: jax.Array) -> jax.Array:
    """The median of the known values in each row."""
    ordered = jnp.sort(jnp.where(known, values, jnp.inf), axis=1)
    middle = jnp.stack([jnp.maximum(count - 1, 0) // 2, count // 2], axis=1)
    found = jnp.take_along_axis(ordered, jnp.minimum(middle, WINDOW - 1), axis=1)
    return jnp.where(count == 0, 0, jnp.mean(found, axis=1))
