"""while_loop under vmap where each example has its own number of steps: in every form, against a loop in Python."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb

from ..checking import assert_close, check_numeric, random_like

pytestmark = pytest.mark.usefixtures("x64")

W = 0.4 * np.random.default_rng(1).normal(size=(3, 3))
B = np.array([0.3, -0.2, 0.5])
X = np.random.default_rng(2).normal(size=(4, 3))
N = np.array([2, 0, 4, 1])  # steps; none for the second


def python_while(condition, body, init):
    """The reference: JAX differentiates the steps that are taken."""
    state = init
    while bool(condition(state)):
        state = body(state)
    return state


def shrink(w, b, x, n, loop=lax.while_loop):
    """A body that is singular at k = n, whose w the examples share; b is each one's own, or shared."""

    def step(state):
        k, x = state
        left = (n - k).astype(x.dtype)
        return k + 1, jnp.tanh(w @ x + b) * jnp.sqrt(left) + x / left

    return loop(lambda state: state[0] < n, step, (0, x))[1]


def total(batched, w, b, x, n):
    """A scalar of all examples, different for each."""
    y = batched(w, b, x, n)
    return jnp.sum(jnp.sin(y) * np.arange(1.0, y.size + 1).reshape(y.shape))


def singly(w, b, x, n):
    """The examples one after the other."""
    each = functools.partial(shrink, loop=python_while)
    return jnp.stack([each(w, b if b.ndim == 1 else b[i], x[i], n[i]) for i in range(len(x))])


batched = jax.vmap(shrink, (None, None, 0, 0))
grads = (0, 1, 2)


@functools.cache
def expected():
    return jax.grad(functools.partial(total, singly), grads)(W, B, X, N)


FORMS = {
    "eager": lambda f: fb.grad(f, grads),
    "tape": lambda f: fb.grad(f, grads, eager=True),
    "jit": lambda f: jax.jit(fb.grad(f, grads)),
    "one checkpoint": lambda f: jax.jit(fb.grad(f, grads, checkpoints=1)),
    "two checkpoints": lambda f: jax.jit(fb.grad(f, grads, checkpoints=2)),
    "remat": lambda f: jax.jit(fb.grad(jax.checkpoint(f), grads)),
    "budget": lambda f: jax.jit(fb.grad(jax.jit(f), grads, budget=0.0)),
    "safe_select": lambda f: jax.jit(fb.grad(f, grads, safe_select=True)),
}


@pytest.mark.parametrize("form", FORMS)
def test_own_number_of_steps(form):
    """No NaN of a finished example reaches what the examples share."""
    got = FORMS[form](functools.partial(total, batched))(W, B, X, N)
    assert_close(got, expected(), 1e-12, form)


def test_vmap_of_grad():
    """Batched after it was differentiated, and in between."""
    one = jax.vmap(fb.grad(lambda w, b, x, n: jnp.sum(jnp.sin(shrink(w, b, x, n))), grads), (None, None, 0, 0))
    got = jax.jit(one)(W, B, X, N)
    want = [
        jax.grad(lambda w, b, x, n: jnp.sum(jnp.sin(shrink(w, b, x, n, python_while))), grads)(W, B, X[i], N[i])
        for i in range(len(X))
    ]
    assert_close(got, jax.tree.map(lambda *rows: jnp.stack(rows), *want), 1e-12)


@pytest.mark.parametrize("axis", [0, 1])
def test_constants_of_each_example(axis):
    """b is each example's own, along its first axis or another."""
    b = random_like(np.zeros((4, 3)), 5)

    def moved(w, b, x, n):
        return jax.vmap(shrink, (None, axis, 0, 0))(w, jnp.moveaxis(b, 0, axis), x, n)

    got = jax.jit(fb.grad(functools.partial(total, moved), grads))(W, b, X, N)
    assert_close(got, jax.grad(functools.partial(total, singly), grads)(W, b, X, N), 1e-12)


def test_nested_vmap():
    """Several first axes: both batched, or one of them only within the other."""
    n = jnp.stack([N, N[::-1]])
    x = jnp.stack([X, 0.5 * X])
    ws = jnp.stack([W, W.T])

    def own(w, b, x, n):
        return jax.vmap(batched, (None, None, 0, 0))(w, b, x, n)

    def same_steps(w, b, x, n):
        return jax.vmap(batched, (0, None, 0, None))(w, b, x, n)

    def each(w, b, x, n):
        return jnp.stack([singly(w if w.ndim == 2 else w[i], b, x[i], n if n.ndim == 1 else n[i]) for i in range(2)])

    for f, w, steps in ((own, W, n), (same_steps, ws, N)):
        got = jax.jit(fb.grad(functools.partial(total, f), grads))(w, B, x, steps)
        assert_close(got, jax.grad(functools.partial(total, each), grads)(w, B, x, steps), 1e-12)


def test_within_scan_and_remat():
    def loop(f, scan):
        def whole(w, b, x, n):
            step = jax.checkpoint(lambda x, b: (f(w, b, x, n), None)) if scan else lambda x, b: (f(w, b, x, n), None)
            if scan:
                return lax.scan(step, x, jnp.stack([b, -b]))[0]
            return step(step(x, b)[0], -b)[0]

        return whole

    got = jax.jit(fb.grad(functools.partial(total, loop(batched, True)), grads))(W, B, X, N)
    assert_close(got, jax.grad(functools.partial(total, loop(singly, False)), grads)(W, B, X, N), 1e-12)


def test_batched_loop_in_a_batched_loop():
    """An inner loop with the example's own number of steps, in a loop with another."""

    def outer(w, b, x, n, loop=lax.while_loop):
        return loop(
            lambda s: s[0] < 3 - n, lambda s: (s[0] + 1, shrink(w, b, s[1], n, loop)), (0, x)
        )[1]  # fmt: skip

    def each(w, b, x, n):
        return jnp.stack([outer(w, b, x[i], n[i], python_while) for i in range(len(x))])

    got = jax.jit(fb.grad(functools.partial(total, jax.vmap(outer, (None, None, 0, 0))), grads))(W, B, X, N)
    assert_close(got, jax.grad(functools.partial(total, each), grads)(W, B, X, N), 1e-12)


def test_second_order():
    def twice(grad, f):
        def square(w, b, x, n):
            return sum(jnp.sum(g**2) for g in grad(functools.partial(total, f), grads)(w, b, x, n))

        return grad(square, grads)(W, B, X, N)

    assert_close(jax.jit(lambda: twice(fb.grad, batched))(), twice(jax.grad, singly), 1e-11)


def test_newton():
    """Each cube root to its own number of steps; none for the first."""
    a = jnp.asarray([1.0, 2.0, 8.0, 27.0])

    def root(a, loop=lax.while_loop):
        return loop(lambda x: jnp.abs(x**3 - a) > 1e-5, lambda x: x - (x**3 - a) / (3 * x**2), a)

    want = jnp.stack([jax.grad(lambda a: root(a, python_while))(x) for x in a])
    assert_close(fb.grad(lambda a: jax.vmap(root)(a).sum())(a), want, 1e-12)
    assert_close(jax.jit(jax.vmap(fb.grad(root)))(a), want, 1e-12)
    assert_close(
        fb.hessian(lambda a: jax.vmap(root)(a).sum())(a).diagonal(), jax.vmap(fb.grad(fb.grad(root)))(a), 1e-12
    )


def test_no_steps_at_all():
    got = fb.grad(functools.partial(total, batched), grads)(W, B, X, 0 * N)
    assert_close(got, (0 * W, 0 * B, jax.grad(functools.partial(total, lambda w, b, x, n: x), 2)(W, B, X, N)), 1e-12)


def test_dynamic_fori_loop():
    def power(x, n):
        return lax.fori_loop(0, n, lambda i, y: y * x + jnp.float64(i) / jnp.float64(n - i), jnp.ones_like(x))

    def unrolled(x, n):
        y = jnp.ones_like(x)
        for i in range(int(n)):
            y = y * x + i / (int(n) - i)
        return y

    x = jnp.asarray([1.1, 0.7, -0.3, 0.9])
    got = fb.grad(lambda x: jnp.sum(jax.vmap(power)(x, N)))(x)
    assert_close(got, jnp.stack([jax.grad(unrolled)(*each) for each in zip(x, N, strict=True)]), 1e-12)


def test_keys_and_integers_in_the_carry():
    def noisy(w, key, n, loop=lax.while_loop):
        def step(state):
            k, key, x = state
            key, use = jax.random.split(key)
            return k + 1, key, w * x + jax.random.normal(use)

        return loop(lambda state: state[0] < n, step, (0, key, jnp.ones_like(w)))[2]

    keys = jax.random.split(jax.random.key(0), 4)
    got = fb.grad(lambda w: jnp.sum(jax.vmap(noisy, (None, 0, 0))(w, keys, N)))(0.7)
    want = jax.grad(lambda w: sum(noisy(w, *each, python_while) for each in zip(keys, N, strict=True)))(0.7)
    assert_close(got, want, 1e-12)


def test_batched_cond():
    def f(w, x):
        return lax.cond(x > 0, lambda: jnp.sin(w * x), lambda: w * x * x)

    x = jnp.asarray([0.5, -1.0, 2.0])
    want = jax.grad(lambda w: jnp.sum(jax.vmap(f, (None, 0))(w, x)))(1.3)
    assert_close(fb.grad(lambda w: jnp.sum(jax.vmap(f, (None, 0))(w, x)))(1.3), want, 1e-12)


def test_polar():
    """Of JAX's own: each matrix converges in its own number of steps."""
    x = random_like(np.zeros((3, 4, 4)), 7) + np.eye(4) * np.array([1.0, 5.0, 30.0])[:, None, None]
    check_numeric(lambda x: jax.vmap(lambda a: jax.scipy.linalg.polar(a, method="qdwh")[0])(x), x)


def with_sum(a, x, n):
    """Each step adds up over the examples, those that have finished included."""

    def step(state):
        return state[0] + 1, a * jnp.sin(state[1]) + 0.3 * lax.psum(state[1] ** 2, "i")

    return lax.while_loop(lambda state: state[0] < n, step, (0, x))[1]


def until_below_mean(a, x, n):
    """An example may go on again after it has finished."""

    def goes_on(state):
        return (state[1] < 1.35 * lax.pmean(state[1], "i")) & (state[0] < n + 3)

    return lax.while_loop(goes_on, lambda state: (state[0] + 1, a * state[1] + 0.05), (0, x))[1]


def singular_past_its_end(a, x, n):
    """The root of an example that has finished is of a negative number."""

    def step(state):
        last = jnp.where(state[0] == n - 1, 2.0, 0.0)
        return state[0] + 1, a * jnp.sqrt(state[1]) + 0.1 * lax.pmean(state[1], "i") - last

    return lax.while_loop(lambda state: state[0] < n, step, (0, x))[1]


@pytest.mark.parametrize("program", [with_sum, until_below_mean, singular_past_its_end])
def test_examples_that_depend_on_each_other(program):
    """By a collective over vmap's axis name: eagerly, in jit, in remat, and the derivative of the derivative."""
    x = jnp.asarray([0.3, 0.5, 0.9, 0.2])

    def f(a, x):
        return jnp.sum(jnp.cos(jax.vmap(program, (None, 0, 0), axis_name="i")(a, x, N)) * np.arange(1.0, 5.0))

    want = jax.jit(jax.jacfwd(f, (0, 1)))(1.2, x)
    got = jax.jit(lambda a, x: (fb.grad(f, (0, 1))(a, x), fb.grad(jax.checkpoint(f), (0, 1))(a, x)))(1.2, x)
    assert_close(fb.grad(f, (0, 1))(1.2, x), want, 1e-12)
    assert_close(got, (want, want), 1e-12)
    if program is singular_past_its_end:  # NaN in a derivative of the derivative, which knows of no example that ends
        return
    assert_close(jax.jit(fb.grad(fb.grad(f)))(1.2, x), jax.jit(jax.jacfwd(jax.jacfwd(f)))(1.2, x), 1e-11)
