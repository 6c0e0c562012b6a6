"""Checkpoints of a loop whose number of steps is not known beforehand: at most K carries, kept in stacks.

Forward, a carry is kept at every stride of steps; when all K slots are taken, every other one is dropped and the stride
doubles. Backward, further checkpoints go into the slots that have become free, placed by the binomial schedule, which
needs the fewest steps again.

    Stumm & Walther, New algorithms for optimal online checkpointing, SIAM J. Sci. Comput. 32 (2010)
    Griewank & Walther, Algorithm 799: revolve, ACM Trans. Math. Softw. 26 (2000)
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from ...jaxprs.avals import zeros_like_stack

REPEATS = 48  # columns of the schedule's table


class Checkpoints(NamedTuple):
    """K carries, stacked (and one slot more, for what is not kept), each with its step; `used` are in use."""

    carries: list[Any]
    steps: Any
    used: Any

    @staticmethod
    def empty(carry: list[Any], slots: int) -> "Checkpoints":
        stacks = [zeros_like_stack(x, slots + 1) for x in carry]
        return Checkpoints(stacks, jnp.zeros(slots + 1, jnp.int32), jnp.int32(0))

    @property
    def slots(self) -> int:
        return self.steps.shape[0] - 1

    def push(self, carry: list[Any], step: Any) -> "Checkpoints":
        pairs = zip(self.carries, carry, strict=True)
        carries = [lax.dynamic_update_index_in_dim(stack, x, self.used, 0) for stack, x in pairs]
        steps = lax.dynamic_update_index_in_dim(self.steps, step, self.used, 0)
        return Checkpoints(carries, steps, self.used + jnp.int32(1))

    def top(self) -> tuple[list[Any], Any]:
        """The last checkpoint's carry and step."""
        last = self.used - jnp.int32(1)
        carry = [lax.dynamic_index_in_dim(stack, last, 0, keepdims=False) for stack in self.carries]
        return carry, lax.dynamic_index_in_dim(self.steps, last, 0, keepdims=False)

    def pop(self) -> "Checkpoints":
        return self._replace(used=self.used - jnp.int32(1))

    def thinned(self, stride: Any) -> tuple["Checkpoints", Any]:
        """Every other checkpoint, and twice the stride, if all slots are taken; else the same."""
        slots, full = self.slots, self.used >= self.slots
        order = jnp.minimum(jnp.arange(slots + 1, dtype=jnp.int32) * (1 + full.astype(jnp.int32)), jnp.int32(slots))
        carries = [stack[order] for stack in self.carries]
        used = jnp.where(full, jnp.int32((slots + 1) // 2), self.used)
        return Checkpoints(carries, self.steps[order], used), jnp.where(full, 2 * stride, stride)


@lru_cache(maxsize=8)
def schedule(slots: int) -> np.ndarray:
    """Row c, column r: the most steps that c checkpoints reverse with r repeats, binomial(c + r, c), at most 2**30."""
    rows = [[min(math.comb(c + r, c), 2**30) for r in range(REPEATS)] for c in range(slots + 1)]
    return np.array(rows, np.int32)


def next_checkpoint(table: np.ndarray, free: Any, distance: Any) -> Any:
    """How far from the last checkpoint the next one lies, for `distance` steps up to the one to be reversed.

    With c checkpoints (the last one among them) and the fewest repeats r that suffice, the steps before the next
    checkpoint may take c of them and r - 1 repeats.
    """
    own = free + jnp.int32(1)
    row = lax.dynamic_index_in_dim(jnp.asarray(table), own, 0, keepdims=False)
    repeats = jnp.sum(row < distance + 1).astype(jnp.int32)
    reach = row[jnp.clip(repeats - 1, 0, REPEATS - 1)]
    reach = jnp.where(repeats >= REPEATS, (distance + 1) // 2, reach)  # beyond the table: halve
    return jnp.where(free > 0, jnp.clip(reach, 1, distance), distance)
