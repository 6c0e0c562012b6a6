"""Budgets: the same gradient whatever may be saved, and no more saved than allowed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb

from ..checking import assert_close, random_cotangent
from .test_scan import H0, XS, W, cell


def gradients(lib, fun, args, **options):
    value, pullback = lib.vjp(fun, *args, **options)
    return value, pullback(random_cotangent(value, 3))


def chains(w, h, xs):
    """Three products and the elementwise functions between them."""

    def step(h, x):
        z = jnp.tanh(jnp.sin(h @ w + x) * h)
        return jnp.sin(jnp.tanh(z @ w) @ w) + jnp.cos(h), jnp.sum(z)

    return jax.lax.scan(step, h, xs)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("budget", [1.0, 0.5, 0.2, 5 * 6 * 8 * 2])
def test_budget(budget):
    """Within any budget that can be kept, the same gradient, and no more stacked than allowed."""
    args = [jnp.asarray(x, jnp.float64) for x in (W, H0, XS)]
    got, want = jax.jit(lambda *a: (gradients(fb, chains, a, budget=budget), gradients(jax, chains, a)))(*args)
    assert_close(got, want, 1e-12)

    def stacked(budget):
        def loss(*args):
            return sum(map(jnp.sum, chains(*args)))

        gradient = fb.grad(loss, budget=budget)
        forward = [e for e in jax.make_jaxpr(gradient)(*args).jaxpr.eqns if e.primitive.name == "scan"][0]
        residuals = forward.outvars[2:]  # after the carry and the ys
        return 8 * sum(v.aval.size for v in residuals)

    everything = stacked(1.0)
    allowed = budget * everything if budget <= 1 else budget
    assert stacked(budget) <= allowed and stacked(None) < everything


def test_a_budget_that_cannot_be_kept():
    args = [jnp.asarray(x, jnp.float32) for x in (W, H0, XS)]
    with pytest.raises(ValueError, match=r"must save at least 120 bytes .* but the budget is 100"):
        fb.vjp(chains, *args, budget=100)
    with pytest.raises(ValueError, match="budget must be bytes"):
        fb.vjp(chains, *args, budget=-1)
    with pytest.raises(TypeError, match="unexpected option 'bugdet'; the options are"):
        fb.vjp(chains, *args, bugdet=100)


def long_scan(steps, **options):
    """The loss of a scan with carries of two dtypes, and its operands."""

    def loss(w, h, xs):
        def step(carry, x):
            i, h = carry
            h = cell(w, h, x) + jnp.sin(h) * i.astype(h.dtype) / steps
            return (i + 1, h), jnp.cos(h)

        (_, h), ys = jax.lax.scan(step, (jnp.int32(0), h), xs, **options)
        return jnp.sum(ys**2) + jnp.sum(h)

    return loss, (W, H0, np.random.default_rng(steps).normal(size=(steps, 2, 3)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("steps", "budget", "options"),
    [(24, 0.5, {}), (50, 0.35, {"reverse": True}), (53, 0.35, {}), (64, 0.3, {"unroll": 2}), (53, 0.3, {"reverse": 1})],
)
def test_segments(steps, budget, options):
    """Lengths with and without a rest, and segments of segments: the same gradient, to second order and under vmap."""
    loss, args = long_scan(steps, **options)
    args = [jnp.asarray(x) for x in args]

    def found(grad, **options):
        first = grad(loss, (0, 1, 2), **options)(*args)
        second = grad(lambda *a: jnp.sum(grad(loss, 1, **options)(*a) ** 2))(*args)
        batched = jax.vmap(grad(loss, 2, **options), (None, 0, None))(args[0], jnp.stack([args[1], -args[1]]), args[2])
        return first, second, batched

    got, want = jax.jit(lambda: (found(fb.grad, budget=budget), found(jax.grad)))()
    assert_close(got, want, 1e-10)


def test_segments_keep_what_is_planned():
    """`fb.residuals` counts no more than the budget."""

    def kept(budget):
        loss, args = long_scan(4096)
        return sum(row.nbytes for row in fb.residuals(loss, *args, budget=budget).rows if row.kind == "stacked")

    for budget in (1e5, 5e4, 2.5e4):
        assert kept(budget) <= budget
    with pytest.raises(ValueError, match="must save at least"):
        kept(5e3)


@pytest.mark.parametrize(("budget", "scanned"), [(1e6, True), (4e5, True), (1e6, False), (2e5, False), (1.2e5, False)])
def test_the_compiled_program_keeps_the_budget(budget, scanned):
    """Bytes by the compiler's own account. What a loop of two steps works with comes on top of the budget."""
    width = 64

    def temporary(grad, steps=2048):
        def loss(w, h, xs):
            def step(h, x):
                return jnp.tanh(jnp.sin(h @ w) * (x if scanned else 0.5)), None

            return jnp.sum(jax.lax.scan(step, h, xs if scanned else None, steps)[0])

        args = [jnp.ones(shape, jnp.float32) for shape in ((width, width), (8, width), (steps, 8, width))]
        return jax.jit(grad(loss)).lower(*args).compile().memory_analysis().temp_size_in_bytes

    def ours(loss):
        return fb.grad(loss, budget=budget)

    assert temporary(ours) <= 1.1 * budget + temporary(ours, 2)
    assert temporary(jax.grad) > 8e6
