"""The precision in which sums are taken."""

import jax.numpy as jnp
import pytest

from fnbackprop.backprop.precision import wide, wide_dtype


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("bfloat16", "float32"), ("float16", "float32"), ("float8_e4m3fn", "float32"), ("float32", "float32")]
    + [("complex64", "complex64"), ("int8", "int8"), ("bool", "bool")],
)
def test_wide_dtype(dtype, expected):
    assert wide_dtype(jnp.dtype(dtype)) == jnp.dtype(expected)
    assert wide(jnp.ones(2, dtype)).dtype == jnp.dtype(expected)


def test_what_is_wide_stays_the_same_array():
    x = jnp.ones(3)
    assert wide(x) is x
