"""fb.implicit: the slope of a root, whoever found it, by both libraries, to second order, under jit and vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb
from fnbackprop.backprop import implicit as implicit_file

from ..rules.checking import assert_close


def cubic(p, x):
    return x**3 + p["a"] * x - p["b"]


def bisected(p):
    def halve(state):
        low, high = state
        middle = (low + high) / 2
        above = cubic(p, middle) > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    return jax.lax.while_loop(lambda s: s[1] - s[0] > 1e-14, halve, (jnp.zeros_like(p["a"]), 2 + p["b"]))[0]


@pytest.mark.usefixtures("x64")
def test_a_bisection_follows_its_parameters():
    """x³ + ax = b: dx/da = -x / (3x² + a), dx/db = 1 / (3x² + a), and the derivatives of these."""

    def root(p):
        return fb.implicit(cubic, p, bisected(p))

    def by_hand(p):
        x = fb.implicit(cubic, p, bisected(p))
        return {"a": -x / (3 * x**2 + p["a"]), "b": 1 / (3 * x**2 + p["a"])}

    def both(p):
        batch = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.5 * leaf]), p)
        first = [lib.grad(root)(p) for lib in (fb, jax)]
        second = [jax.tree.map(jnp.asarray, outer.grad(lambda p: inner.grad(root)(p)["a"])(p))  # noqa: B023
                  for outer in (fb, jax) for inner in (fb, jax)]  # fmt: skip
        found = [*first, *second, jax.vmap(fb.grad(root))(batch), fb.grad(lambda b: jnp.sum(jax.vmap(root)(b)))(batch)]
        x = root(p)
        slope = 1 / (3 * x**2 + p["a"])
        dx = {"a": -x * slope, "b": slope}
        # the derivative of -x / (3x² + a): by x (a - 3x²) slope², and by a x slope²
        by_x = -slope + 6 * x**2 * slope**2
        twice = {"a": by_x * dx["a"] + x * slope**2, "b": by_x * dx["b"]}
        batched = jax.vmap(by_hand)(batch)
        return found, [dx, dx, *[twice] * 4, batched, batched]

    got, want = jax.jit(both)({"a": jnp.asarray(0.7), "b": jnp.asarray(1.3)})
    assert_close(got, want, 1e-10)


@pytest.mark.usefixtures("x64")
def test_a_root_of_many_numbers(monkeypatch):
    """A pytree with complex leaves and unequal shapes, closed-over operands too, by factors and by GMRES."""
    key = jax.random.key(0)
    matrix = 4 * jnp.eye(5) + 0.3 * jax.random.normal(key, (5, 5))

    def gradients(matrix, b, z):
        def root(matrix, b, z):
            def equation(known, root):
                b, z = known
                x, y = root
                return matrix @ x + 0.1 * jnp.sin(x) - b, [y[0] ** 2 + 0.1 * jnp.conj(y[0]) * x[0].astype(complex) - z]

            def step(_, root):
                x, y = root
                x = x - 0.2 * (matrix @ x + 0.1 * jnp.sin(x) - b)
                return x, jnp.sqrt(z - 0.1 * jnp.conj(y) * x[0].astype(complex))

            x, y = jax.lax.fori_loop(0, 200, step, (jnp.zeros(5), jnp.ones((), complex)))
            return fb.implicit(equation, (b, z), (x, [y])) if at_once else (x, [y])

        def loss(*args):
            x, (y,) = root(*args)
            return jnp.sum(x**2) + jnp.real(y) * jnp.imag(y) ** 2

        at_once = True
        found = fb.grad(loss, argnums=(0, 1, 2))(matrix, b, z)
        at_once = False
        return found, jax.grad(loss, argnums=(0, 1, 2))(matrix, b, z)

    args = matrix, jnp.arange(1.0, 6.0), jnp.asarray(1.0 + 0.5j)
    got, want = jax.jit(gradients)(*args)
    assert_close(got, want, 1e-10)
    monkeypatch.setattr(implicit_file, "LARGEST_FACTORED", 4)
    assert_close(jax.jit(lambda *args: gradients(*args)[0])(*args), want, 1e-8)


def test_what_gmres_does_not_solve_is_nan(monkeypatch):
    monkeypatch.setattr(implicit_file, "LARGEST_FACTORED", 1)
    p = jnp.ones(2)
    singular = lambda p, x: jnp.array([x[0] + x[1], x[0] + x[1]]) - p  # noqa: E731
    assert np.isnan(jax.jit(fb.grad(lambda p: fb.implicit(singular, p, jnp.array([0.3, 0.7]))[0]))(p)).all()


def test_what_is_no_root_is_refused():
    with pytest.raises(TypeError, match=r"root\['n'\] is int32, but must be floating"):
        fb.implicit(lambda p, x: x["n"] - p, 1.0, {"n": jnp.arange(3)})
    with pytest.raises(ValueError, match="returns 1 real numbers, the root has 3"):
        fb.implicit(lambda p, x: jnp.sum(x) - p, 1.0, jnp.ones(3))
