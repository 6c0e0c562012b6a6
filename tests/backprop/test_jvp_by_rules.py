"""Forward over reverse: `jax.jvp` of our gradients against differences, where JAX's own JVP of what the forward pass
evaluates is missing or wrong. (All rules: `python -m tests.campaigns accuracy`.)"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb

from ..campaigns.accuracy.second_order import disagreement
from ..campaigns.mutants.programs import PROGRAMS, Program

pytestmark = pytest.mark.usefixtures("x64")

COMPLEX = PROGRAMS["abs"][2]  # abs and sign: JAX takes the derivative of a complex sign as zero
CASES = {
    "clamp": PROGRAMS["clamp"][1],  # crossed bounds
    "clamp, scalar bounds": Program(
        "clamp", 9, lax.clamp, (jnp.float32(-1), jnp.float32([-2, 0.3, 2]), jnp.float32(1))
    ),
    "abs, sign": COMPLEX,
    "reduce": PROGRAMS["reduce"][1],  # with respect to its initial value
    "householder_product": PROGRAMS["householder_product"][0],
    "igamma": PROGRAMS["igamma"][0],
    "pmax": PROGRAMS["pmax"][0],
    "geqrf": PROGRAMS["geqrf"][1],  # whose rule has Q in products
    "nextafter": PROGRAMS["nextafter"][0],
    "qr": PROGRAMS["qr"][4],  # where the columns that complete Q jump, the span that the loss sees does not
    "regularized_incomplete_beta": PROGRAMS["regularized_incomplete_beta"][0],
    "zeta": PROGRAMS["zeta"][0],
    "eigh": PROGRAMS["eigh"][0],  # a tie that the loss does not see
}


@pytest.mark.parametrize("name", CASES)
def test_jvp_of_vjp(name):
    assert disagreement(CASES[name]) < 1e-6


def test_the_second_order_uses_the_rule_itself():
    """The function that has the JVP is seen through: reverse over reverse is the rule's, equation for equation."""
    w = jnp.linspace(0.0, 1.0, 9).reshape(3, 3) + 2 * jnp.eye(3)

    def gradient(a):
        return fb.grad(lambda a: jnp.sum(lax.linalg.schur(a)[0] ** 2))(a)

    text = str(jax.make_jaxpr(fb.grad(lambda a: jnp.sum(gradient(a) ** 2)))(w))
    assert text.count("= schur[") == 1


def test_numbers_of_python_as_operands_and_tangents():
    gradient = fb.grad(lambda x, q: lax.zeta(x, q), (0, 1))
    (_, slope), (_, curvature) = jax.jvp(gradient, (2.5, 1.5), (0.0, 1.0))
    h = 1e-5
    assert abs(slope + 2.5 * lax.zeta(3.5, 1.5)) < 1e-12
    assert abs(curvature - (gradient(2.5, 1.5 + h)[1] - gradient(2.5, 1.5 - h)[1]) / (2 * h)) < 1e-8


def test_third_order_by_forward_mode():
    gradient = fb.grad(lambda x: jnp.real(lax.sign(x) * (2 - 1j)))
    along = lambda f: lambda x: jax.jvp(f, (x,), (1j * x,))[1]  # noqa: E731  (d/dt of f(x·exp(it)) at t = 0)
    x, h = jnp.complex128(0.6 + 0.8j), 1e-4
    second = along(gradient)
    turned = [second(x * np.exp(1j * t)) for t in (h, -h)]
    assert abs(along(second)(x) - (turned[0] - turned[1]) / (2 * h)) < 1e-7
