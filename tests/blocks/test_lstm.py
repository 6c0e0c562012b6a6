"""The long short-term memory's step against its definition, and planted errors; layers are in `test_recurrence.py`."""

import jax.numpy as jnp
import pytest

from fnbackprop.blocks import lstm

from ..rules.checking import assert_close
from .cells import check_planted_errors, check_step

pytestmark = pytest.mark.usefixtures("x64")


def test_a_step_equals_its_plain_definition():
    check_step(lstm, gates=4, parts=2)


def test_compare_catches_planted_errors():
    check_planted_errors(lstm, gates=4, parts=2)


def test_a_forget_gate_that_is_open_keeps_the_memory():
    """Gates i, f, g, o in this order: with i shut and f open, c' = c, and h' = o tanh(c)."""
    shut, wide = jnp.full((1, 1), -50.0), jnp.full((1, 1), 50.0)
    z = jnp.concatenate([shut, wide, wide, wide], axis=-1)
    (h, c), _ = lstm.forward(z, jnp.zeros_like(z), (jnp.zeros((1, 1)), jnp.full((1, 1), 0.3)))
    assert_close((h, c), (jnp.tanh(jnp.full((1, 1), 0.3)), jnp.full((1, 1), 0.3)), 1e-12)
