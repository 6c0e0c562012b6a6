"""while_loop and dynamic fori_loop: any trip count, under every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import fnbackprop as fb

from ..checking import assert_close
from .test_scan import H0, W, cell


def while_rnn(w, h, steps):
    def step(state):
        i, h = state
        return i + 1, cell(w, h, 0.1)

    return jax.lax.while_loop(lambda state: state[0] < steps, step, (0, h))[1]


def scan_rnn(w, h, steps):
    return jax.lax.scan(lambda h, _: (cell(w, h, 0.1), None), h, None, length=steps)[0]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("checkpoints", [1, 2, 5, 64])
def test_while_vjp(checkpoints):
    """Any trip count, with any number of checkpoints, by one compiled function."""
    traced = []

    @jax.jit
    def gradient(w, h, steps):
        traced.append(steps)
        value, pullback = fb.vjp(lambda w, h: while_rnn(w, h, steps), w, h, checkpoints=checkpoints)
        return value, pullback(jnp.cos(value))

    for steps in (0, 1, 2, 3, 7, 20):
        value, pullback = jax.vjp(lambda w, h: scan_rnn(w, h, steps), W, H0)  # noqa: B023
        assert_close(gradient(W, H0, steps), (value, pullback(jnp.cos(value))), 1e-12, f"{steps} steps")
    assert len(traced) == 1


@pytest.mark.usefixtures("x64")
def test_while_under_vmap_scan_and_itself():
    """One program: batched trip counts, a while in a scan, a while in a while, and the second order."""

    def scanned(h, inner):
        return jnp.sum(jax.lax.scan(lambda h, _: (inner(W, h, 3), None), h, None, length=2)[0])

    def nested(h, inner, outer):
        return jnp.sum(outer(lambda h: inner(W, h, 2), h))

    def twice(f, h):
        return jax.lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, f(s[1])), (0, h))[1]

    def twice_unrolled(f, h):
        return f(f(h))

    def second(grad, loop):
        return grad(lambda h: jnp.sum(grad(lambda h: jnp.sum(loop(W, h, 3) ** 2))(h) ** 2))

    counts = (3, 0, 6)

    def gradients(h):
        batched = jax.vmap(fb.grad(lambda h, n: jnp.sum(while_rnn(W, h, n))), in_axes=(None, 0))(h, jnp.array(counts))
        ours = (fb.grad(lambda h: scanned(h, while_rnn)), fb.grad(lambda h: nested(h, while_rnn, twice)))
        theirs = (jax.grad(lambda h: scanned(h, scan_rnn)), jax.grad(lambda h: nested(h, scan_rnn, twice_unrolled)))
        singly = [jax.grad(lambda h, n=n: jnp.sum(scan_rnn(W, h, n)))(h) for n in counts]
        got = [batched, *(f(h) for f in ours), second(fb.grad, while_rnn)(h)]
        return got, [jnp.stack(singly), *(f(h) for f in theirs), second(jax.grad, scan_rnn)(h)]

    got, want = jax.jit(gradients)(H0)
    assert_close(got, want, 1e-11)


@pytest.mark.usefixtures("x64")
def test_fori_loop_with_a_dynamic_bound():
    def power(x, n):
        return jax.lax.fori_loop(0, n, lambda i, y: y * x + i.astype(x.dtype), jnp.ones_like(x))

    def unrolled(x):
        y = jnp.ones_like(x)
        for i in range(6):
            y = y * x + i
        return y

    got = jax.jit(fb.grad(power))(1.1, 6)
    assert_close(got, jax.grad(unrolled)(1.1), 1e-12)
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.jit(jax.grad(power))(1.1, 6)


@pytest.mark.usefixtures("x64")
def test_newton_until_convergence():
    """d sqrt(a)/da through the iterations of Newton's method."""

    def root(a):
        def step(state):
            x, _ = state
            new = 0.5 * (x + a / x)
            return new, jnp.abs(new - x)

        return jax.lax.while_loop(lambda s: s[1] > 1e-12, step, (a, jnp.ones_like(a)))[0]

    assert_close(fb.grad(root)(7.0), jnp.asarray(0.5 / np.sqrt(7.0)), 1e-9)


def test_a_step_lays_the_carry_out_on_a_mesh_that_the_start_is_of_no_part_of():
    mesh = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Explicit,))
    scaled = jax.shard_map(jnp.multiply, mesh=mesh, in_specs=(P(), P()), out_specs=P(), check_vma=False)

    def cubic(h, c):
        return jnp.sum(jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, scaled(s[1], c)), (0, h))[1])

    h, c = jnp.array([0.5, -2.0]), jnp.array([3.0, 0.7])
    dh, dc = jax.jit(fb.grad(cubic, argnums=(0, 1)))(h, c)
    assert_close((dh, dc), (c**3, 3 * h * c**2), 1e-6)
