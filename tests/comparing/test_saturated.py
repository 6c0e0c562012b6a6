"""Losses that are nearly zero since a softmax is nearly certain: their last bits are all of them.

1 - p, log p and logsumexp(z) - z[label] lose, by cancellation, what the inputs' own last bits do not show. Right
gradients raise no alarm, from where rounding begins to show to where nothing is left of the loss; wrong ones do.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb
from fnbackprop.comparing.results import Verdict

LOSSES = {
    "log of softmax": lambda z: -jnp.mean(jnp.log(jax.nn.softmax(z))[:, 0]),
    "log_softmax": lambda z: -jnp.mean(jax.nn.log_softmax(z)[:, 0]),
    "logsumexp": lambda z: jnp.mean(jax.nn.logsumexp(z, -1) - z[:, 0]),
    "1 - p": lambda z: jnp.mean(1 - jax.nn.softmax(z)[:, 0]),
    "focal": lambda z: jnp.mean((1 - jax.nn.softmax(z)[:, 0]) ** 2 * -jnp.log(jax.nn.softmax(z)[:, 0])),
    "log of sigmoid": lambda z: -jnp.mean(jnp.log(jax.nn.sigmoid(z[:, 0]))),
}


def logits(gap, dtype):
    z = np.random.default_rng(0).normal(size=(4, 5))
    z[:, 0] += gap
    return jnp.asarray(z, dtype)


@pytest.mark.parametrize("dtype, gaps", [("float32", (12, 17, 20, 30, 60)), ("float64", (17, 20, 30, 40, 60))])
@pytest.mark.parametrize("name", LOSSES)
def test_a_right_gradient_raises_no_alarm(name, dtype, gaps):
    with jax.enable_x64(dtype == "float64"):
        found = {gap: fb.compare(LOSSES[name], logits(gap, dtype)).verdict for gap in gaps}
    assert set(found.values()) <= {Verdict.PASS, Verdict.NOISE_LIMITED}, found


@pytest.mark.parametrize("dtype, gap", [("float32", 12), ("float32", 20), ("float64", 20), ("float64", 40)])
@pytest.mark.parametrize("wrong", ["twice too large", "one entry's sign", "softmax for p"])
def test_a_wrong_one_fails(wrong, dtype, gap):
    @jax.custom_vjp
    def cross_entropy(z):
        return jax.nn.logsumexp(z, -1) - z[:, 0]

    def backward(z, dy):
        p = jax.nn.softmax(z)
        dz = p.at[:, 0].set(-jnp.sum(p[:, 1:], 1))
        if wrong == "twice too large":
            dz = 2 * dz
        elif wrong == "one entry's sign":
            dz = dz.at[:, 1].multiply(-1)
        else:
            dz = p
        return (dy[:, None] * dz,)

    cross_entropy.defvjp(lambda z: (cross_entropy(z), z), backward)
    with jax.enable_x64(dtype == "float64"):
        found = fb.compare(lambda z: jnp.mean(cross_entropy(z)), logits(gap, dtype))
    assert found.verdict is Verdict.FAIL
    assert any(equation.verdict is Verdict.FAIL for equation in found.equations)
