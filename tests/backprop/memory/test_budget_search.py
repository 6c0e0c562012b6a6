"""`fb.fit_budget`: a budget whose compiled gradient fits the memory that was asked for."""

import jax
import jax.numpy as jnp
import pytest

import fnbackprop as fb

W, XS = jnp.eye(64) / 8, jnp.ones((200, 8, 64))


def loss(w, xs):
    """Ten products a step: what is stacked of them is most of what is needed."""

    def step(h, x):
        for _ in range(10):
            h = jnp.tanh(jnp.sin(h) @ w + x)
        return h, None

    return jnp.sum(jax.lax.scan(step, jnp.zeros((8, 64)), xs)[0] ** 2)


def temp_bytes(budget, **options):
    compiled = jax.jit(fb.value_and_grad(loss, budget=budget, **options)).lower(W, XS).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("share", [0.8, 0.5])
def test_budget_fits_the_memory(share):
    """Within a tenth, where ten arrays can be given up one by one."""
    memory = int(share * temp_bytes(None, hoist=False))
    budget = fb.fit_budget(loss, W, XS, memory=memory, hoist=False)
    assert 0.9 * memory <= temp_bytes(budget, hoist=False) <= memory


def test_no_budget_where_none_is_needed():
    assert fb.fit_budget(loss, W, XS, memory=temp_bytes(None)) is None


def test_a_memory_that_no_budget_fits():
    with pytest.raises(
        ValueError, match=r"fit into 10,000 bytes .*: the least found is [\d,]+, and [\d,]+ without a budget"
    ):
        fb.fit_budget(loss, W, XS, memory=10_000)
