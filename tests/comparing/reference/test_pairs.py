"""The float64 half of a value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.comparing.reference.pairs import float64_dtype, high_half


@pytest.mark.parametrize("low, high", [
    ("float16", "float64"), ("bfloat16", "float64"), ("float8_e4m3fn", "float64"), ("float64", "float64"),
    ("complex64", "complex128"), ("complex128", "complex128"),
])  # fmt: skip
def test_the_high_half_has_the_same_value(low, high):
    with jax.enable_x64(True):
        x = jnp.asarray([0.1, -2.0], low)
        found = high_half(x)
        assert float64_dtype(x.dtype) == found.dtype == high
        np.testing.assert_array_equal(np.asarray(found), np.asarray(x).astype(high))


def test_what_is_no_floating_number_has_none():
    for x in (jnp.arange(2), jnp.array(True), jax.random.key(0)):
        assert high_half(x) is None
