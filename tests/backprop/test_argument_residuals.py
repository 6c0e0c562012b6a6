"""The residuals of a pullback in two lists: arguments, which may be taken out, and others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.backprop.argument_residuals import split_residuals
from fnbackprop.jaxprs.compat import NotNeeded


@pytest.fixture
def parts():
    """Arguments (a, {"b": b, "c": c}) and residuals of which a is one twice, b is one, and c is none."""
    a, b, c, other = (jnp.full(2, i, jnp.float32) for i in range(4))
    leaves, tree = jax.tree.flatten((a, {"b": b, "c": c}))
    residuals = {"first": (a, other), "second": [b, a, other]}
    return residuals, leaves, *split_residuals(residuals, leaves, tree)


def test_arguments_keep_their_trees_and_others_come_once(parts):
    residuals, (a, b, _), arguments, opaque, _ = parts
    assert arguments[0] is a and arguments[1]["b"] is b
    assert isinstance(arguments[1]["c"], NotNeeded)
    assert len(opaque) == 1 and opaque[0] is residuals["first"][1]


def test_join_puts_them_where_they_were(parts):
    residuals, _, arguments, opaque, slots = parts
    jax.tree.map(np.testing.assert_array_equal, slots.join(arguments, opaque), residuals)
    again = [np.full(2, 7.0, np.float32), arguments[1]]  # an equal value, gathered anew; here another, to be seen
    joined = slots.join(again, opaque)
    assert joined["first"][0][0] == joined["second"][1][0] == 7
    assert isinstance(joined["first"][0], jax.Array)


def test_an_argument_given_twice_is_read_from_its_first_place():
    x = jnp.ones(2)
    arguments, opaque, _ = split_residuals([x], [x, x], jax.tree.structure((0, 0)))
    assert arguments[0] is x and isinstance(arguments[1], NotNeeded) and opaque == []


def test_what_was_taken_out_is_missed(parts):
    _, _, arguments, opaque, slots = parts
    with pytest.raises(ValueError, match="args_res of the pullback has 2 leaves, but the arguments have 3: put back"):
        slots.join([None, arguments[1]], opaque)
