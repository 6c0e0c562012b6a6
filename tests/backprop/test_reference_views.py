"""The views of references select and change what JAX's own reads and writes do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.backprop.reference_views import change_view, read_view, views_of
from fnbackprop.jaxprs.evaluate import bind, interpret

X = np.arange(24.0, dtype=np.float32).reshape(4, 6)
I = np.int32(1)
ROWS = np.array([2, 0, 9], np.int32)  # the last is out of bounds
SELECTIONS = {
    "all": lambda ref, i: ref.at[...],
    "an integer": lambda ref, i: ref.at[1],
    "a traced integer": lambda ref, i: ref.at[i],
    "out of bounds": lambda ref, i: ref.at[i + 7],
    "a slice": lambda ref, i: ref.at[1:3],
    "with a stride": lambda ref, i: ref.at[:, ::2],
    "none": lambda ref, i: ref.at[2:2],
    "a traced slice": lambda ref, i: ref.at[jax.ds(i, 2), 1:5:3],
    "an integer after a slice": lambda ref, i: ref.at[1:3, i],
    "rows": lambda ref, i: ref.at[ROWS],
    "pairs": lambda ref, i: ref.at[ROWS[:2], ROWS[:2]],
    "of a view": lambda ref, i: ref.at[1:].at[:, 2:4].at[i],
}


def access(selection):
    """A function of an array and an index that reads a selection of a reference, and writes the tripled part to it."""

    def function(x, i):
        ref = jax.new_ref(x)
        view = SELECTIONS[selection](ref, i)
        part = view[...]
        view[...] = 3 * part
        return part, ref[...]

    return function


def first_read(function):
    """The equation that reads the reference, and the values of its indices at (X, 1)."""
    jaxpr, found = jax.make_jaxpr(function)(X, I), []

    def apply(equation, values):
        found.append((equation, values[1:]))
        if equation.primitive.name == "get":
            raise StopIteration
        return bind(equation, values)

    with pytest.raises(StopIteration):
        interpret(jaxpr.jaxpr, jaxpr.consts, [X, I], apply)
    return found[-1]


@pytest.mark.parametrize("selection", SELECTIONS)
def test_reads_and_writes_are_those_of_jax(selection):
    views = views_of(*first_read(access(selection)))
    read, changed = jax.jit(access(selection))(X, I)
    np.testing.assert_array_equal(read_view(jnp.asarray(X), views), read)
    np.testing.assert_array_equal(change_view(jnp.asarray(X), views, lambda part: 3 * part), changed)


def test_another_shape():  # to which JAX itself cannot write
    views = views_of(*first_read(lambda x, i: jax.new_ref(x).reshape(8, 3).at[1:3][...]))
    expected = X.copy()
    expected.reshape(8, 3)[1:3] *= 3
    np.testing.assert_array_equal(read_view(jnp.asarray(X), views), X.reshape(8, 3)[1:3])
    np.testing.assert_array_equal(change_view(jnp.asarray(X), views, lambda part: 3 * part), expected)


def test_another_transformation_is_refused_by_name():
    equation, indices = first_read(lambda x, i: jax.new_ref(x).bitcast(np.int32)[...])
    with pytest.raises(NotImplementedError, match=r"reference transformed by \w*Bitcast\w*, at .*test_reference_views"):
        views_of(equation, indices)
