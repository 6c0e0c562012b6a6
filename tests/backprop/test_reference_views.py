"""The views of references select and change what JAX's own reads and writes do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import fnbackprop as fb
from fnbackprop.backprop.reference_views import change_view, read_view, views_of
from fnbackprop.jaxprs.evaluate import bind, interpret

from ..rules.checking import assert_close

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


def written(r, b):
    r[...] = jnp.sin(b)


def written_in_a_loop(r, b):
    lax.fori_loop(0, 2, lambda i, _: written(r, b * i), None)


def written_in_a_branch(r, b):
    lax.cond(r[0] > 0, lambda: written(r, b), lambda: None)


@pytest.mark.parametrize("write", [written, written_in_a_loop, written_in_a_branch])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
def test_what_the_devices_of_a_mesh_share_is_written_into_what_differs_among_them(write, wrap):
    """JAX 0.10.2 cannot compile the function itself: its types keep the two apart."""

    def on_each(a, b):
        ref = jax.new_ref(lax.pcast(a, "x", to="varying"))
        write(ref, b)
        ref[...] += a
        return lax.pmean(ref[...], "x")

    mesh = jax.make_mesh((1,), ("x",))
    fun = wrap(jax.shard_map(on_each, mesh=mesh, in_specs=(P(), P()), out_specs=P()))
    a, b = jnp.asarray([0.5, 2.0]), jnp.asarray([0.3, -1.0])
    got = fb.grad(lambda a, b: jnp.sum(fun(a, b) * a), (0, 1))(a, b)
    want = fb.grad(lambda a, b: jnp.sum((jnp.sin(b) + a) * a), (0, 1))(a, b)
    assert_close(got, want, 1e-6)
