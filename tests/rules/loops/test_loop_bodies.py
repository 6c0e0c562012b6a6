"""What the bodies of a loop's two scans compute and stack: dead work, hoisting, residuals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb

from ..checking import assert_close
from .test_scan import H0, XS, W, cell, dead_carry, no_ys


def equation_names(closed):
    return [e.primitive.name for e in closed.jaxpr.eqns]


def scan_bodies(fun, *args):
    """The bodies of the scans of a program, in order."""
    return [e.params["jaxpr"] for e in jax.make_jaxpr(fun)(*args).jaxpr.eqns if e.primitive.name == "scan"]


def test_dead_work_is_not_done():
    """A carry that no output needs, or no input reaches, adds no equation to the reverse body."""

    def lean(w, h, xs):
        def step(carry, x):
            constant, h = carry
            return (constant * 0.5, cell(w, h, x) * constant), None

        return jax.lax.scan(step, (jnp.float32(1.0), h), xs)[0][1]

    def reverse_body(fun):
        args = [jnp.asarray(x, jnp.float32) for x in (W, H0, XS)]
        return scan_bodies(fb.grad(lambda *a: fun(*a).sum()), *args)[-1]

    wasteful, necessary = reverse_body(dead_carry), reverse_body(lean)
    assert equation_names(wasteful) == equation_names(necessary)


def test_hoisting_takes_the_product_out_of_the_loop():
    args = [jnp.asarray(x, jnp.float32) for x in (W, H0, XS)]

    def products(hoist):
        def gradient(*args):
            value, pullback = fb.vjp(no_ys, *args, hoist=hoist)
            return pullback(jnp.ones_like(value))

        closed = jax.make_jaxpr(gradient)(*args)
        inside = equation_names(scan_bodies(gradient, *args)[-1]).count("dot_general")
        return inside, equation_names(closed).count("dot_general")

    assert products(True) == (1, 1)  # the carry's cotangent stays, the weight's leaves
    assert products(False) == (2, 0)


def test_cond_in_a_loop_saves_its_operands_and_what_is_costly():
    """The carry, and the product of either branch in a place that they share; the rest is computed again."""

    def loss(w, h, xs):
        def left(h):
            return jnp.tanh(jnp.sin(h) @ w) * h

        def right(h):
            return jnp.cos(jnp.exp(h) @ w) * h

        step = lambda h, x: (jax.lax.cond(jnp.sum(x) > 0, left, right, h), None)  # noqa: E731
        return jnp.sum(jax.lax.scan(step, h, xs)[0])

    args = [jnp.asarray(x, jnp.float32) for x in (W, H0, XS)]
    stacked = [row.nbytes for row in fb.residuals(loss, *args).rows if row.kind == "stacked"]
    assert sum(stacked) <= 4 * (2 * H0.size + 1) * len(XS)


def test_a_small_reduction_and_a_result_are_not_computed_again():
    """A norm's statistics are saved, and of what the loop returns anyway nothing is stacked a second time."""

    def loss(w, h, xs):
        def step(h, x):
            z = h @ w + x
            y = jnp.tanh(z - jnp.max(z, axis=-1, keepdims=True))
            return y, y

        return jnp.sum(jax.lax.scan(step, h, xs)[1])

    rng = np.random.default_rng(0)
    args = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((16, 16), (2, 16), (5, 2, 16))]
    forward, reverse = scan_bodies(fb.grad(loss), *args)
    assert not {"tanh", "reduce_max"} & set(equation_names(reverse))
    assert equation_names(forward).count("tanh") == 1


def test_attention_scores_are_computed_again():
    """Time by time, they are larger than the queries and keys that they are the products of."""
    time, width = 64, 8

    def loss(w, x):
        def layer(x, w):
            scores = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", x @ w, x))
            return jnp.einsum("bqk,bkd->bqd", scores, x) + x, None

        return jnp.sum(jax.lax.scan(layer, x, w)[0] ** 2)

    rng = np.random.default_rng(0)
    w, x = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, width, width), (2, time, width)))
    stacked = sum(row.nbytes for row in fb.residuals(loss, w, x).rows if row.kind == "stacked")
    # The carry, the queries, and a row's maximum and sum; not the scores, of 8 times as many numbers.
    assert stacked == 4 * len(w) * (2 * x.size + 2 * 2 * time)
    assert_close(jax.jit(fb.grad(loss, argnums=(0, 1)))(w, x), jax.grad(loss, argnums=(0, 1))(w, x), 1e-5)


def stacked_floats(fun, *args):
    """Floats stacked by the forward scan beside its own outputs, per step."""
    forward = [e for e in jax.make_jaxpr(fb.grad(fun))(*args).jaxpr.eqns if e.primitive.name == "scan"][0]
    return sum(v.aval.size // v.aval.shape[0] for v in forward.outvars if v.aval.ndim and v.aval.shape[0] == len(XS))


def test_elementwise_chains_are_computed_again():
    """Of a chain of elementwise functions one array is stacked, whatever its length."""

    def chain(w, h, xs):
        def step(h, x):
            z = h @ w + x
            for _ in range(5):
                z = jnp.sin(z) * jnp.cos(z) + jnp.tanh(z)
            return z, None

        return jax.lax.scan(step, h, xs)[0].sum()

    args = [jnp.asarray(x, jnp.float32) for x in (W, H0, XS)]
    assert stacked_floats(chain, *args) == 2 * H0.size  # the carry, for the product, and the product


@jax.custom_vjp
def scaled(c, h):
    return c * h


scaled.defvjp(lambda c, h: (c * h, c), lambda c, g: (jnp.zeros(()), g * c))  # c is said to have no gradient


@pytest.mark.parametrize("hoist", [None, True, False])
def test_constant_cotangent_of_a_loop_invariant(hoist):
    """A user's bwd that returns a constant, in a body: for scan, fori_loop, map, and within a budget."""
    loops = (
        lambda c, h: jax.lax.scan(lambda h, _: (scaled(c, h), None), h, None, length=3)[0],
        lambda c, h: jax.lax.fori_loop(0, 3, lambda _, h: scaled(c, h), h),
        lambda c, h: jax.lax.map(lambda h: scaled(c, h), jnp.stack([h, h, h]))[1],
    )
    for loop in loops:
        want = jax.grad(loop, (0, 1))(2.0, 3.0)
        for options in ({}, {"budget": 32}):
            got = fb.grad(loop, (0, 1), hoist=hoist, **options)(2.0, 3.0)
            assert [float(x) for x in got] == [float(x) for x in want]


@pytest.mark.parametrize("eager", [True, False])
def test_python_numbers_in_a_while_loop(eager):
    """As carry, as predicate and as an operand of a branch; on the tape too."""

    def f(x):
        y = jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] * x, s[2]), (0, 1.0, True))[1]
        return jax.lax.cond(True, lambda y, c: y * c, lambda y, c: y, y, 2.0)

    assert float(fb.grad(f, eager=eager)(2.0)) == 24.0
