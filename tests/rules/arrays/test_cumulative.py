import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb

from ..checking import assert_close, check_vjp, random_like

pytestmark = pytest.mark.usefixtures("x64")

CUMULATIVE = {
    "sum": lax.cumsum,
    "prod": lax.cumprod,
    "logsumexp": lax.cumlogsumexp,
    "max": lax.cummax,
    "min": lax.cummin,
}
LAYOUTS = [((5,), 0), ((2, 4), 1), ((4, 2), 0), ((2, 1), 1), ((2, 0, 3), 1)]


def array(*shape, dtype="float64", seed=3):
    return random_like(np.zeros(shape, dtype), seed)


def check_cumulative(name, x, axis, reverse, **options):
    check_vjp(lambda x: lax.sin(CUMULATIVE[name](x, axis=axis, reverse=reverse)), x, **options)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CUMULATIVE)
def test_cumulative_vjp(name, layout, reverse):
    shape, axis = layout
    full = shape == (2, 4)
    check_cumulative(name, array(*shape), axis, reverse, order=2 if full else 1, batched=full)


@pytest.mark.parametrize("name", ["sum", "prod", "logsumexp"])
def test_complex(name):
    order = 1 if name == "logsumexp" else 2
    check_cumulative(name, array(1, 3, dtype="complex128"), 1, True, dtypes=("float64",), order=order)


@pytest.mark.parametrize("name", CUMULATIVE)
def test_low_precision(name):
    check_cumulative(name, array(2, 4), 1, False, dtypes=("bfloat16", "float16"), order=1, batched=False)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["max", "min"])
def test_ties_share_as_in_jax(name, reverse):
    x = jnp.array([1.0, 2.0, 2.0, 2.0, 0.0, 2.0, 0.0, 3.0, 3.0, 3.0, 0.0])
    check_vjp(lambda x: CUMULATIVE[name](x, axis=0, reverse=reverse), x, order=1)


@pytest.mark.parametrize("x", [[2.0, 0.0, 3.0, 4.0], [0.0, 2.0, 0.0, 4.0], [0.0, 0.0, 0.0], [1.0, 2.0, 0.0], [0.0]])
def test_cumprod_vjp_zeros(x):
    check_cumulative("prod", jnp.array(x), 0, False)
    check_cumulative("prod", jnp.array(x), 0, True, order=1, batched=False)


def test_cumlogsumexp_vjp_does_not_overflow():
    """Steps of 2000: exp(x) and exp(-y) are infinite or zero, their product is not."""
    x = jnp.array([-2000.0, 0.0, 2000.0, 1999.0, -5000.0])
    check_cumulative("logsumexp", x, 0, False, order=1)


def test_cumlogsumexp_vjp_infinities():
    """An element of -inf weighs nothing, but in the first sum, which is itself; what stands before one of +inf weighs
    nothing from there on."""
    x = jnp.array([-jnp.inf, 1.0, -jnp.inf, 2.0])
    weights = np.tril(np.exp(np.asarray(x))) / np.maximum(np.cumsum(np.exp(np.asarray(x))), 1e-300)[:, None]
    weights[0, 0] = 1
    jacobian = jax.jit(fb.jacrev(lambda x: lax.cumlogsumexp(x, axis=0)))
    assert_close(jacobian(x), jnp.asarray(weights), 1e-12)
    got = jacobian(jnp.array([1.0, 2.0, jnp.inf, 3.0]))
    assert_close(
        got[:, :2],
        jnp.array([[1, 0], [np.exp(1), np.exp(2)], [0, 0], [0, 0]])
        / jnp.array([[1], [np.exp(1) + np.exp(2)], [1], [1]]),
        1e-12,
    )
    second = jax.jit(fb.hessian(lambda x: lax.cumlogsumexp(x, axis=0).at[0].set(0.0).sum()))(x)
    assert not np.isnan(second).any()


def test_long_sums_accumulate_wide():
    ct = random_like(np.zeros(4096, "bfloat16"), 1) + jnp.asarray(1, "bfloat16")
    _, pullback = fb.vjp(lambda x: lax.cumsum(x, axis=0), jnp.zeros(4096, "bfloat16"))
    want = jnp.cumsum(ct.astype("float64")[::-1])[::-1]
    assert_close(pullback(ct)[0].astype("float64"), want, 2.0**-8)


def test_cumprod_vjp_is_linear_in_length():
    """10,000 elements: nothing quadratic is formed."""
    x = 1 + 0.01 * array(10_000)
    got = jax.jit(fb.grad(lambda x: lax.cumprod(x, axis=0).sum()))(x)
    y = np.cumprod(x)
    want = np.cumsum(y[::-1])[::-1] / x
    assert_close(got, jnp.asarray(want), 1e-9)
