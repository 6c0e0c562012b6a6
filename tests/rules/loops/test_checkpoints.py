"""The stack of checkpoints, and the binomial schedule by which the backward pass places further ones."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.rules.loops.checkpoints import Checkpoints, next_checkpoint, schedule


def pushed(slots, steps):
    kept = Checkpoints.empty([jnp.zeros(2)], slots)
    for step in steps:
        kept = kept.push([jnp.full(2, 10.0 * step)], jnp.int32(step))
    return kept


def test_last_in_first_out():
    kept = pushed(4, [0, 3, 5])
    (carry,), step = kept.top()
    assert int(step) == 5 and int(kept.used) == 3
    np.testing.assert_array_equal(carry, [50.0, 50.0])
    (carry,), step = kept.pop().top()
    assert int(step) == 3
    np.testing.assert_array_equal(carry, [30.0, 30.0])


@pytest.mark.parametrize(("slots", "steps", "left", "stride"), [
    (4, [0, 1, 2, 3], [0, 2], 2),
    (5, [0, 1, 2, 3, 4], [0, 2, 4], 2),
    (4, [0, 1, 2], [0, 1, 2], 1),
])  # fmt: skip
def test_every_other_one_is_dropped_when_all_slots_are_taken(slots, steps, left, stride):
    kept, found = pushed(slots, steps).thinned(jnp.int32(1))
    assert int(found) == stride and int(kept.used) == len(left)
    np.testing.assert_array_equal(kept.steps[: len(left)], left)
    np.testing.assert_array_equal(kept.carries[0][: len(left), 0], [10.0 * step for step in left])


def forward_steps(slots, total):
    """How many steps the backward pass takes forward to reverse so many, from a checkpoint at the start."""
    table, stack, count = schedule(slots), [0], 0
    for t in reversed(range(total)):
        while stack[-1] != t:
            end = stack[-1] + int(next_checkpoint(table, jnp.int32(slots - len(stack)), jnp.int32(t - stack[-1])))
            count += end - stack[-1]
            stack.append(end)
            assert len(stack) <= slots + 1 and end <= t
        stack.pop()
    return count


@pytest.mark.parametrize("slots", [1, 2, 3, 5])
def test_no_step_is_repeated_more_often_than_the_schedule_says(slots):
    """With c checkpoints and r repeats binomial(c + r, c) steps are reversed, so all are with that r, and no fewer."""
    for total in (1, 2, 3, 6, 10, 20):
        repeats = next(r for r in range(total) if math.comb(slots + r, slots) >= total)
        assert forward_steps(slots, total) <= repeats * total
