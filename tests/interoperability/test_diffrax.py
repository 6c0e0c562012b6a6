"""Diffrax: adaptive Tsit5 solves with the default adjoint, which is Equinox's checkpointed loop, and with others."""

import jax.numpy as jnp
import numpy as np
import pytest

from .agreement import check_agreement

diffrax = pytest.importorskip("diffrax")


pytestmark = pytest.mark.filterwarnings("ignore:.*no hand-written rule")


def solve(y, rates, saveat=None, adjoint=None, event=None):
    """A predator and its prey, by default at two times."""

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
        saveat=saveat or diffrax.SaveAt(ts=jnp.asarray([0.4, 1.0])),
        adjoint=adjoint or diffrax.RecursiveCheckpointAdjoint(),
        event=event,
        stepsize_controller=diffrax.PIDController(rtol=1e-4, atol=1e-4),
        max_steps=16,
    ).ys


OPERANDS = np.array([1.0, 0.5]), np.array([1.1, 0.7])


def test_tsit5():
    check_agreement({"Tsit5": (solve, OPERANDS)})


def test_direct_adjoint():
    check_agreement({"direct": (lambda y, r: solve(y, r, adjoint=diffrax.DirectAdjoint()), OPERANDS)})


def at_own_times(y, rates):
    """The times themselves are differentiated."""
    return solve(y, rates, diffrax.SaveAt(ts=rates[::-1] / 2, t1=True))


def test_saved_times():
    check_agreement({"saved times": (at_own_times, OPERANDS)})


def test_event():
    """The time of an event is the root of a function, by Optimistix."""

    def fun(y, rates):
        import optimistix

        event = diffrax.Event(
            lambda t, y, args, **kwargs: y[0] - 1.2, optimistix.Newton(1e-8, 1e-8, optimistix.rms_norm)
        )
        return solve(y, rates, diffrax.SaveAt(t1=True), event=event)

    check_agreement({"event": (fun, OPERANDS)}, 1e-8)
