"""Which constants of a batched loop's body hold one row for each example."""

import jax
import jax.numpy as jnp
import pytest

from fnbackprop.rules.loops.example_rows import constants_with_rows

EXAMPLES = 3
ROWS, CARRY = jnp.ones((EXAMPLES, 2)), jnp.ones((EXAMPLES, 2))
BATCHED, SQUARE = jnp.ones((EXAMPLES, 2, 2)), jnp.ones((EXAMPLES, EXAMPLES))


def have_rows(body, *consts, carry=CARRY):
    return constants_with_rows(jax.make_jaxpr(body)(*consts, carry), len(consts), (EXAMPLES,))


@pytest.mark.parametrize("body", [
    lambda c, x: x * c,
    lambda c, x: x + jnp.sin(c),
    lambda c, x: jax.jit(lambda c, x: x * c)(c, x),
    lambda c, x: x * jnp.sum(c, axis=1, keepdims=True),
])  # fmt: skip
def test_a_constant_that_meets_the_carry_row_by_row(body):
    assert have_rows(body, ROWS) == (True,)


def test_a_product_that_is_batched_over_the_examples():
    assert have_rows(lambda w, x: jax.vmap(jnp.matmul)(x, w), BATCHED) == (True,)


@pytest.mark.parametrize("body", [
    lambda c, x: x * jnp.sum(c, axis=0, keepdims=True),  # each example reads all rows
    lambda c, x: x * c[::-1],  # each example reads another's row
    lambda c, x: x * c + jnp.sum(c, axis=0, keepdims=True),  # in one of its uses
])  # fmt: skip
def test_rows_that_other_examples_read(body):
    assert have_rows(body, ROWS) == (False,)


def test_a_matrix_that_all_examples_share():
    """Its first axis only happens to be as long as there are examples."""
    assert have_rows(lambda w, x: x @ w, SQUARE, carry=SQUARE) == (False,)


def test_a_constant_without_an_axis_for_the_examples():
    assert have_rows(lambda c, x: x * c[None], jnp.ones(2)) == (False,)


def test_each_constant_is_judged_on_its_own():
    assert have_rows(lambda a, b, x: x * a + jnp.sum(b, axis=0, keepdims=True), ROWS, ROWS) == (True, False)
