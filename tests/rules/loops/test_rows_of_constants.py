"""Which constants of a batched loop's body hold one row for each example, of which each reads its own alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.rules.loops.batched_while import row_axes

from ..checking import assert_close

pytestmark = pytest.mark.usefixtures("x64")

EXAMPLES = 3
ROWS, CARRY = jnp.ones((EXAMPLES, 2)), jnp.ones((EXAMPLES, 2))
OF_ROWS = (0,)
BATCHED, SQUARE = jnp.ones((EXAMPLES, 2, 2)), jnp.ones((EXAMPLES, EXAMPLES))


def have_rows(body, *consts, carry=CARRY):
    return row_axes(jax.make_jaxpr(body)(*consts, carry), len(consts), (EXAMPLES,))


@pytest.mark.parametrize("body", [
    lambda c, x: x * c,
    lambda c, x: x + jnp.sin(c),
    lambda c, x: jax.jit(lambda c, x: x * c)(c, x),
    lambda c, x: x * jnp.sum(c, axis=1, keepdims=True),
    lambda c, x: x * jax.checkpoint(jnp.sin)(c),
    lambda c, x: x * jax.nn.relu(c),  # it has a rule of its own
    lambda c, x: x * lax.scan(lambda s, _: (s * c, None), c, None, length=2)[0],
    lambda c, x: x * lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] * c), (0, c))[1],
    lambda c, x: x * lax.cond(jnp.array(True), jnp.sin, jnp.cos, c),
])  # fmt: skip
def test_a_constant_that_meets_the_carry_row_by_row(body):
    assert have_rows(body, ROWS) == (OF_ROWS,)


def test_a_product_that_is_batched_over_the_examples():
    assert have_rows(lambda w, x: jax.vmap(jnp.matmul)(x, w), BATCHED) == (OF_ROWS,)


@pytest.mark.parametrize("body", [
    lambda c, x: x * jnp.sum(c, axis=0, keepdims=True),  # each example reads all rows
    lambda c, x: x * c[::-1],  # each example reads another's row
    lambda c, x: x * c + jnp.sum(c, axis=0, keepdims=True),  # in one of its uses
    lambda c, x: x * lax.scan(lambda s, _: (s + jnp.sum(c), None), c, None, length=2)[0],
])  # fmt: skip
def test_rows_that_other_examples_read(body):
    assert have_rows(body, ROWS) == (None,)


def test_a_matrix_that_all_examples_share():
    """Its first axis only happens to be as long as there are examples."""
    assert have_rows(lambda w, x: x @ w, SQUARE, carry=SQUARE) == (None,)


def test_rows_along_another_axis():
    assert have_rows(lambda c, x: x * c.T, ROWS.T) == ((1,),)
    assert have_rows(lambda c, x: x * c.T[:, :2] + c[:, :1], SQUARE) == (None,)
    assert have_rows(lambda c, x: x * (c + 1.0).T[:, :2], SQUARE) == ((1,),)


def test_a_constant_without_an_axis_for_the_examples():
    assert have_rows(lambda c, x: x * c[None], ROWS[0]) == (None,)


def test_each_constant_is_judged_on_its_own():
    assert have_rows(lambda a, b, x: x * a + jnp.sum(b, axis=0, keepdims=True), ROWS, ROWS) == (OF_ROWS, None)


def test_shared_ones_never_have_rows():
    def body(rows, column, shared, square, h):
        h = h + rows[:, None] * jnp.where(h > 0, column.T, 1.0) + shared[None]
        return h + h @ square + (h @ square.T) * rows.reshape(3, 1)

    avals = [jnp.zeros(shape) for shape in ((3,), (3, 3), (3,), (3, 3), (3, 3))]
    assert row_axes(jax.make_jaxpr(body)(*avals), 4, (3,)) == ((0,), (1,), None, None)


@pytest.mark.parametrize("wrapped", [
    lambda f: f,
    jax.jit,
    jax.checkpoint,
    jax.custom_jvp,
    lambda f: lambda c: lax.scan(lambda s, _: (s + 1.0, f(c)), c, None, length=2)[1][0],
    lambda f: lambda c: lax.cond(c[0] < 9.0, f, jnp.sin, c),
])  # fmt: skip
def test_singular_constants_of_an_example_that_takes_no_step(wrapped):
    """Their row is not evaluated, in whatever function the body reads it; the body's result need not read the carry."""
    inner = wrapped(lambda c: jnp.arccosh(c) * jnp.sqrt(c))
    if wrapped is jax.custom_jvp:
        inner.defjvp(lambda c, t: (inner(*c), jnp.sqrt(c[0] - 1.0) * t[0]))

    def example(c, x, n):
        return lax.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, inner(c)), (0, x))[1]

    def total(c, x):
        return jnp.sum(jax.vmap(example)(c, x, jnp.array([2, 0, 1])) ** 2)

    c, x = jnp.array([[1.5, 2.0], [0.5, -1.0], [3.0, 1.2]]), jnp.ones((3, 2))
    want = jax.jacfwd(total, (0, 1))(c, x)
    assert np.all(np.isfinite(want[0]))
    assert_close(fb.grad(total, (0, 1))(c, x), want, 1e-12)
    assert_close(jax.jit(fb.grad(total, (0, 1)))(c, x), want, 1e-12)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("examples", [2, 3])  # as many as numbers, and more
def test_singular_constants_along_any_axis(axis, examples):
    """That of the product of a matrix and each example's vector is the last one; and vmap may take any."""
    mix = jnp.array([[1.0, 0.5], [0.3, 1.0]])

    def example(w, c, r, n):
        scale = mix @ r
        return lax.while_loop(
            lambda s: s[0] < n, lambda s: (s[0] + 1, jnp.tanh(w * s[1] / c / scale)), (0, jnp.ones(2))
        )[1]

    def total(w, c, r):
        return jnp.sum(jax.vmap(example, (None, axis, 0, 0))(w, c, r, jnp.array([2, 0, 1])[:examples]) ** 2)

    c, r = jnp.array([[1.5, 2.0], [0.0, 1.0], [3.0, 1.2]]), jnp.array([[1.0, 1.0], [0.0, 0.0], [0.2, 0.7]])
    c, r = (c if axis == 0 else c.T).take(np.arange(examples), axis), r[:examples]
    want = jax.jacfwd(total, (0, 1, 2))(0.5, c, r)
    assert np.isfinite(want[0]) and np.all(np.isfinite(want[1]))
    assert_close(fb.grad(total, (0, 1, 2))(0.5, c, r), want, 1e-12)
