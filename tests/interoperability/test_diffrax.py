"""Diffrax: an adaptive Tsit5 solve with the default adjoint, which is Equinox's checkpointed loop."""

import jax.numpy as jnp
import numpy as np
import pytest

from .agreement import check_agreement

diffrax = pytest.importorskip("diffrax")


def solve(y, rates):
    """A predator and its prey at two times."""

    def field(t, y, rates):
        return jnp.stack([rates[0] * y[0] - y[0] * y[1], rates[1] * y[0] * y[1] - y[1]])

    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        t0=0.0,
        t1=1.0,
        dt0=0.2,
        y0=y,
        args=rates,
        saveat=diffrax.SaveAt(ts=jnp.asarray([0.4, 1.0])),
        stepsize_controller=diffrax.PIDController(rtol=1e-4, atol=1e-4),
        max_steps=16,
    ).ys


def test_tsit5():
    check_agreement({"Tsit5": (solve, (np.array([1.0, 0.5]), np.array([1.1, 0.7])))})
