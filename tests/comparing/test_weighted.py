"""Functions of any outputs as functions of one number."""

import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.comparing.weighted import weighted


def test_a_scalar_function_stays_as_it_is():
    assert weighted(lambda x: jnp.sum(x))(jnp.arange(3.0)) == 3.0
    assert weighted(lambda x: (jnp.sum(x), x), has_aux=True)(jnp.arange(3.0)) == 3.0


def test_every_output_has_a_weight_of_its_own():
    """The derivative of the sum is the weights: all distinct, none of them 0 or 1."""
    fun = weighted(lambda x, y: {"a": x, "b": (y, jnp.arange(2))})
    zero, found = jnp.zeros(3), []
    for i in range(3):
        found += [fun(zero.at[i].set(1), zero), fun(zero, zero.at[i].set(1))]
    found = np.array(found)
    assert len(set(found)) == 6 and np.all(np.abs(found - 1) > 1e-3) and np.all(np.abs(found) > 1e-3)
    again = weighted(lambda x, y: {"a": x, "b": (y, jnp.arange(2))}, seed=1)
    assert again(zero.at[0].set(1), zero) != found[0]


def test_complex_outputs_count_in_both_parts():
    fun = weighted(lambda x: x)
    assert fun(jnp.complex64(1)) != 0 != fun(jnp.complex64(1j)) != fun(jnp.complex64(1))
    assert fun(jnp.complex64(1)).dtype == jnp.float32


def test_low_precision_is_summed_in_float32():
    fun = weighted(lambda x, y: (x, y))
    assert fun(jnp.ones(3, "bfloat16"), jnp.ones(2, "float16")).dtype == jnp.float32


def test_without_a_floating_output():
    with pytest.raises(TypeError, match="positions has no floating output"):

        def positions(x):
            return jnp.argsort(x)

        weighted(positions)(jnp.arange(3.0))
