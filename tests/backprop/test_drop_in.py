"""Our vjp in the place of `jax.vjp`."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb
from fnbackprop.jaxprs import substitution


def assert_close(got, want, tolerance=1e-4):
    np.testing.assert_allclose(got, want, rtol=tolerance)


def newton(a):
    """sqrt(a) by a loop of unknown length: JAX refuses its gradient, we do not."""
    return jax.lax.while_loop(lambda x: jnp.abs(x * x - a) > 1e-4, lambda x: 0.5 * (x + a / x), a)


def refuses(gradient) -> bool:
    try:
        gradient(9.0)
    except ValueError:
        return True
    return False


def test_every_kind_of_gradient_is_ours_inside():
    with fb.drop_in():
        assert_close(jax.grad(newton)(9.0), 1 / 6)
        assert_close(jax.value_and_grad(newton)(9.0)[1], 1 / 6)
        assert_close(jax.jacrev(newton)(9.0), 1 / 6)
        assert_close(jax.vjp(newton, 9.0)[1](3.0)[0], 0.5)
        assert_close(jax.jit(jax.vmap(jax.grad(lambda a: newton(9.0) * a)))(jnp.ones(2)), [3.0, 3.0])
    assert refuses(jax.grad(newton))


TRANSFORMED = {
    "jit": lambda grad: jax.jit(grad)(9.0),
    "vmap": lambda grad: jax.vmap(grad)(jnp.array([9.0]))[0],
    "jit of vmap": lambda grad: jax.jit(jax.vmap(grad))(jnp.array([9.0]))[0],
    "jvp": lambda grad: jax.jvp(grad, (9.0,), (1.0,))[0],
    "scan": lambda grad: jax.lax.map(grad, jnp.array([9.0]))[0],
    "cond": lambda grad: jax.lax.cond(True, grad, grad, 9.0),
    "checkpoint": lambda grad: jax.checkpoint(grad)(9.0),
    "tree.map": lambda grad: jax.tree.map(grad, [9.0])[0],
}


@pytest.mark.parametrize("transform", TRANSFORMED)
def test_a_transformed_gradient_is_ours(transform):
    """JAX calls `grad` itself in `jit(grad(f))`, and does so for the user."""
    with fb.drop_in():
        assert_close(TRANSFORMED[transform](jax.grad(newton_eight_times)), 1 / 6)


def newton_eight_times(a):
    """As `newton`, with as many steps for each of a batch."""
    return jax.lax.fori_loop(0, jnp.int32(8), lambda _, x: 0.5 * (x + a / x), a)


def test_hessian_is_forward_over_ours():
    with fb.drop_in():
        assert_close(jax.hessian(lambda x: jnp.sum(jnp.sin(x)))(jnp.array([0.3])), jnp.array([[-np.sin(0.3)]]))


def test_a_gradient_made_before_is_ours_inside():
    gradient = jax.grad(newton)
    with fb.drop_in():
        assert_close(gradient(9.0), 1 / 6)
    assert refuses(gradient)


def test_a_jitted_function_is_traced_for_each_side():
    seen = []

    @jax.jit
    def gradient(x):
        seen.append(substitution.is_substituted())
        return jax.grad(jnp.sin)(x)

    gradient(1.0)
    with fb.drop_in():
        gradient(1.0)
        gradient(2.0)
    gradient(3.0)
    assert seen == [False, True]


def test_nested_and_left_by_an_error():
    with fb.drop_in():
        with pytest.raises(KeyError), fb.drop_in(checkpoints=2):
            raise KeyError
        assert_close(jax.grad(newton)(9.0), 1 / 6)
    assert jax.vjp is substitution.jax_vjp
    assert refuses(jax.grad(newton))


def test_another_thread_keeps_its_own():
    inside, done = threading.Event(), threading.Event()
    refused = []

    def other():
        inside.wait()
        refused.append(refuses(jax.grad(newton)))
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with fb.drop_in():
        inside.set()
        done.wait()
        assert_close(jax.grad(newton)(9.0), 1 / 6)
    thread.join()
    assert refused == [True]


def test_options_reach_the_engine():
    safe = lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0)  # noqa: E731
    with fb.drop_in(safe_select=True):
        assert jax.grad(safe)(0.0) == 0.0
    with fb.drop_in():
        assert np.isnan(jax.grad(safe)(0.0))
    with pytest.raises(TypeError, match="unexpected option 'unknown'"), fb.drop_in(unknown=1):
        jax.grad(jnp.sin)(1.0)


def test_what_jax_differentiates_for_itself_is_left_to_it():
    from jax.experimental.ode import odeint

    times = jnp.array([0.0, 1.0])

    def end(y0):
        return odeint(lambda y, t: -y, y0, times)[-1]

    with fb.drop_in():
        assert_close(jax.grad(end)(2.0), np.exp(-1.0), tolerance=1e-4)


def test_compare_asks_jax_inside_too():
    @jax.custom_vjp
    def wrong(x):
        return x * x

    wrong.defvjp(lambda x: (x * x, x), lambda x, dy: (dy * x,))  # without the factor 2
    with fb.drop_in():
        assert not fb.compare(lambda x: wrong(x), jnp.float32(3), progress=False).ok
        assert fb.compare(lambda x: jnp.sin(x), jnp.float32(3), progress=False).ok


def test_compare_inside_is_not_a_comparison_with_ourselves():
    from fnbackprop.comparing import gradient_sources

    with fb.drop_in():
        with pytest.raises(ValueError, match="Reverse-mode"):
            gradient_sources.automatic_value_and_grad(newton)(9.0)
        with pytest.raises(ValueError, match="Reverse-mode"):
            gradient_sources.automatic_vjp(newton, 9.0)[1](1.0)
