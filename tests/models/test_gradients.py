"""Whole models: the manual and the automatic gradient agree leaf by leaf."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import pytest

import fnbackprop as fb
from fnbackprop import losses
from fnbackprop.models import transformer

from ..rules.checking import assert_close
from .losses_of_models import LOSSES

TOLERANCE = {"float64": 1e-12, "float32": 5e-6}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", LOSSES)
def test_manual_equals_automatic(name, dtype):
    loss, params, batch = LOSSES[name](jnp.dtype(dtype))
    got, want = (jax.jit(lib.value_and_grad(loss))(params, batch) for lib in (fb, jax))
    assert_close(got, want, TOLERANCE[dtype], name)


@pytest.mark.parametrize("scan_layers", [False, True], ids=["unrolled", "scanned"])
def test_a_transformer_in_bfloat16(scan_layers):
    """Within a few roundings of the gradient in float32, as the automatic one is."""
    params = transformer.init(jax.random.key(0), vocabulary=16, length=8, width=16, layers=2, scan_layers=scan_layers)
    tokens = jax.random.randint(jax.random.key(1), (2, 9), 0, 16)

    def loss(params, dtype):
        logits = transformer.apply(params, tokens[:, :-1], heads=2, dtype=dtype)
        return losses.softmax_cross_entropy(logits, tokens[:, 1:]).astype(jnp.float32)

    got, want = (jax.jit(fb.grad(loss), static_argnums=1)(params, dtype) for dtype in (jnp.bfloat16, jnp.float32))
    assert_close(jax.flatten_util.ravel_pytree(got)[0], jax.flatten_util.ravel_pytree(want)[0], 0.02)
