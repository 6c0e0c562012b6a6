"""Python numbers that a custom_vjp function saves: its backward gets Python numbers, as by `jax.grad`."""

import jax
import jax.numpy as jnp
import numpy as np

import fnbackprop as fb


def test_custom_vjp_python_residuals():
    """A Python bool among the residuals is one in the user's backward, which may branch on it, across jit and scan."""

    @jax.custom_vjp
    def sine(x):
        return jnp.sin(x)

    def backward(residuals, ct):
        x, once, factor = residuals
        return (ct * jnp.cos(x) * factor if once else ct,)

    sine.defvjp(lambda x: (jnp.sin(x), (x, True, 2.5)), backward)

    @jax.jit
    def long(x):
        return sine(jnp.tanh(jnp.tanh(jnp.tanh(x) * 2) + 1))

    def scanned(x):
        return jax.lax.scan(lambda carry, _: (long(carry), None), x, None, length=3)[0]

    for fun in (long, scanned):
        got, want = (jax.jit(grad(fun))(0.3) for grad in (fb.grad, jax.grad))
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_shape_among_the_residuals_is_one_in_the_backward():
    """Its numbers may be those of another shape, of a range, of an index; under jit too, where arrays would not do."""

    @jax.custom_vjp
    def total(x):
        return jnp.sum(x**2)

    def backward(residuals, ct):
        x, (rows, columns) = residuals
        ct = jnp.full((rows, columns), ct)
        return (2 * jnp.stack([x[i] * ct[i] for i in range(rows)]).reshape(rows, columns),)

    total.defvjp(lambda x: (jnp.sum(x**2), (x, x.shape)), backward)
    loops = lambda x: jax.lax.scan(lambda c, _: (c + total(c * x), None), 0.5, None, length=2)[0]  # noqa: E731
    forms = {
        "eager": lambda grad: grad(total),
        "jit": lambda grad: jax.jit(grad(total)),
        "of jit": lambda grad: jax.jit(grad(jax.jit(total))),
        "checkpoint": lambda grad: jax.jit(grad(jax.checkpoint(total))),
        "scan": lambda grad: jax.jit(grad(loops)),
        "within a scan": lambda grad: lambda x: jax.lax.scan(lambda c, _: (grad(total)(c), None), x, None, length=2)[0],
        "vmap": lambda grad: lambda x: jax.jit(jax.vmap(grad(total)))(x[None])[0],
        "second order": lambda grad: grad(lambda x: jnp.sum(jnp.sin(grad(total)(x)))),
    }
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)))
    for name, form in forms.items():
        np.testing.assert_allclose(form(fb.grad)(x), form(jax.grad)(x), rtol=1e-12, err_msg=name)
