"""The gated recurrent unit's step against its definition, and planted errors; layers are in `test_recurrence.py`."""

import jax.numpy as jnp
import pytest

from fnbackprop.blocks import gru

from ..rules.checking import assert_close
from .cells import check_planted_errors, check_step

pytestmark = pytest.mark.usefixtures("x64")


def test_a_step_equals_its_plain_definition():
    check_step(gru, gates=3, parts=1)


def test_compare_catches_planted_errors():
    check_planted_errors(gru, gates=3, parts=1)


def test_gates():
    """Reset, update, new in this order: an update gate at 1 keeps h; the reset gate acts after the product."""
    wide, h = jnp.full((1, 1), 50.0), (jnp.full((1, 1), 0.3),)
    zero = jnp.zeros((1, 1))
    kept, _ = gru.forward(jnp.concatenate([zero, wide, wide], axis=-1), jnp.zeros((1, 3)), h)
    assert_close(kept, h, 1e-12)
    z, q = jnp.concatenate([-wide, -wide, zero + 0.2], axis=-1), jnp.concatenate([zero, zero, wide], axis=-1)
    reset, _ = gru.forward(z, q, h)
    assert_close(reset, (jnp.tanh(zero + 0.2),), 1e-12)
