"""jit: its name, and its budget."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb

from ..checking import assert_close, check_agreement, check_vjp
from .test_remat import temp_bytes, wide_layers

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(3,)), RNG.normal(size=(3,))
pytestmark = pytest.mark.usefixtures("x64")


def long_chain(x, y):
    for _ in range(4):
        x = jnp.sin(x) * y + x
    return x, 2 * y, jnp.int32(3)


def test_jit_vjp():
    check_vjp(jax.jit(long_chain), X, Y, dtypes=("float64",))
    check_agreement(lambda x, y: jax.jit(long_chain)(x, 3.0), X, Y)  # an operand has no cotangent, an output no use
    check_agreement(lambda x, y: jax.jit(jax.jit(long_chain, inline=True))(x, y)[0], X, Y)
    check_agreement(jax.jit(lambda x: x), X)


def test_jit_keeps_its_name():
    @jax.jit
    def layer(x):
        for _ in range(4):
            x = jnp.sin(x) * x
        return x

    equations = jax.make_jaxpr(fb.grad(lambda x: layer(x).sum()))(X).jaxpr.eqns
    names = [e.params["name"] for e in equations if "name" in e.params]
    assert "layer" in names and "layer_vjp" in names


def test_budget_of_jitted_functions():
    """What each saves beside its operands keeps the budget; what they have saved no longer is in memory."""
    plain, args = wide_layers(jax.jit)
    saved = {}
    for budget in (1.0, 0.5, 0.1, 0.0, 100_000):
        compiled, _ = wide_layers(jax.jit, budget=budget)
        assert_close(compiled(*args), plain(*args), 1e-12)
        saved[budget] = temp_bytes(compiled)
    # 262,144 bytes inside each layer and 8,192 of its result
    assert saved[0.0] < saved[0.1] == saved[0.5] == saved[100_000] < 0.4 * saved[1.0]
    assert saved[1.0] == temp_bytes(plain)


def test_budget_of_a_jitted_function_with_a_loop():
    """The loop's residuals have a budget of their own."""

    @jax.jit
    def fun(w, x):
        x = jax.lax.scan(lambda h, x: (jnp.tanh(h @ w + x),) * 2, jnp.zeros(3), jnp.sin(x @ w))[1]
        return jnp.sum(jnp.exp(x @ w)), jnp.int32(3)

    w, x = jnp.asarray(RNG.normal(size=(3, 3))), jnp.asarray(RNG.normal(size=(5, 3)))
    expected = jax.grad(lambda *args: fun(*args)[0], argnums=(0, 1))(w, x)
    with pytest.raises(ValueError, match="a loop of 5 steps must save at least"):
        fb.grad(fun, has_aux=True, budget=0.0)(w, x)
    for budget in (0.5, 1.0, 150):
        found, aux = fb.grad(fun, argnums=(0, 1), has_aux=True, budget=budget)(w, x)
        assert_close(found, expected, 1e-12)
        assert aux == 3


def test_an_inlined_jit_keeps_its_name_in_profiles():
    inner = jax.jit(lambda x: jnp.sin(x))

    @jax.jit
    def outer(x):
        with jax.named_scope("layer"):
            return inner(x)

    jaxpr = jax.make_jaxpr(fb.grad(outer))(1.0).jaxpr
    names = [str(equation.source_info.name_stack) for equation in jaxpr.eqns]
    assert names[0] == "jvp(jit(outer))/layer/jit(<lambda>)"
    assert "transpose(jvp(jit(outer)))/layer/jit(<lambda>)" in names
