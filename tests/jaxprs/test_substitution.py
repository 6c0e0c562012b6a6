"""Another function in the place of `jax.vjp`: for whom, how long, and in which threads."""

import sys
import threading
import types

import jax
import jax.numpy as jnp
import pytest

from fnbackprop.jaxprs import substitution  # its `jax_vjp`, by name in this module, would be replaced too
from fnbackprop.jaxprs.substitution import is_substituted, jax_gradients, substituted


def times(factor):
    """A `vjp` whose gradients are `factor` times JAX's, so that a number says whose it is."""

    def vjp(fun, *primals, **options):
        out, pull, *aux = substitution.jax_vjp(fun, *primals, **options)
        return out, lambda ct: jax.tree.map(lambda g: factor * g, pull(ct)), *aux

    return vjp


def whose(gradient=None):
    """1 for JAX's gradient."""
    return float((gradient or jax.grad)(lambda x: x)(1.0))


def test_it_holds_inside_nests_and_ends():
    assert (whose(), is_substituted()) == (1, False)
    with substituted("two", times(2)):
        assert (whose(), is_substituted()) == (2, True)
        with substituted("three", times(3)):
            assert whose() == 3
        with jax_gradients():
            assert (whose(), is_substituted()) == (1, False)
        assert whose() == 2
        assert float(jax.value_and_grad(lambda x: x)(1.0)[1]) == 2
        assert float(jax.jacrev(lambda x: x)(1.0)) == 2
    assert whose() == 1 and jax.vjp is substitution.jax_vjp


def test_it_ends_after_an_error():
    with pytest.raises(RuntimeError), substituted("two", times(2)):
        raise RuntimeError
    assert whose() == 1 and jax.vjp is substitution.jax_vjp


def test_jit_traces_for_each():
    jitted = jax.jit(jax.grad(lambda x: x))
    assert jitted(1.0) == 1
    with substituted("two", times(2)):
        assert jitted(1.0) == 2
        assert jax.jit(jax.grad(jax.checkpoint(lambda x: x)))(1.0) == 2
    assert jitted(1.0) == 1


def test_another_thread_keeps_its_own():
    found = []
    with substituted("two", times(2)):
        thread = threading.Thread(target=lambda: found.append(whose()))
        thread.start()
        thread.join()
    assert found == [1]


def test_a_module_that_imported_vjp_by_name():
    module = types.ModuleType("a_users_module")
    exec("from jax import vjp\ndef gradient(f): return lambda x: vjp(f, x)[1](1.0)[0]", module.__dict__)
    sys.modules[module.__name__] = module
    try:
        with substituted("two", times(2)):
            assert whose(module.gradient) == 2
        assert whose(module.gradient) == 1 and module.vjp is substitution.jax_vjp
    finally:
        del sys.modules[module.__name__]


def test_gradients_that_jax_takes_for_itself():
    solver = types.ModuleType("jax._src.scipy.a_minimizer")
    exec("import jax\ndef gradient(f): return jax.grad(f)", solver.__dict__)
    exec("def gradient_at(f, x): return gradient(f)(x)", solver.__dict__)
    with substituted("two", times(2)):
        assert float(solver.gradient_at(lambda x: x, 1.0)) == 1
        assert whose() == 2


def test_the_name_and_signature_are_those_of_jax():
    with substituted("two", times(2)):
        assert jax.vjp is not substitution.jax_vjp
        assert (jax.vjp.__name__, jax.vjp.__doc__) == ("vjp", substitution.jax_vjp.__doc__)
        out, _, aux = jax.vjp(lambda x: (x, jnp.ones(2)), 1.0, has_aux=True)
    assert out == 1 and aux.shape == (2,)
