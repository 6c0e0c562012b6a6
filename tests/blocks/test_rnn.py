"""The plain recurrent network's step against its definition, and planted errors; layers are in `test_recurrence.py`."""

import jax.numpy as jnp
import pytest

from fnbackprop.blocks import rnn

from ..rules.checking import assert_close
from .cells import check_planted_errors, check_step

pytestmark = pytest.mark.usefixtures("x64")


def test_a_step_equals_its_plain_definition():
    check_step(rnn, gates=1, parts=1)


def test_compare_catches_planted_errors():
    check_planted_errors(rnn, gates=1, parts=1)


def test_a_step():
    z = jnp.asarray([[0.1, -0.2]])
    assert_close(rnn.forward(z, 2 * z, (z,))[0], (jnp.tanh(3 * z),), 1e-14)
