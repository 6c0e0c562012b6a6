"""The divergence is that of normal distributions, and a short run describes images better than their mean does."""

import jax.numpy as jnp
import numpy as np
import pytest

from .loading import load_module, promised_numbers


@pytest.fixture(scope="module")
def vae():
    return load_module("vae")


def test_the_divergence_by_an_integral(vae):
    x, mean, deviation = np.linspace(-12, 12, 4001), 0.7, 0.4
    density = np.exp(-(((x - mean) / deviation) ** 2) / 2) / (deviation * np.sqrt(2 * np.pi))
    apart = -(((x - mean) / deviation) ** 2) / 2 - np.log(deviation) + x**2 / 2
    wanted = np.sum(density * apart) * (x[1] - x[0])
    found = vae.divergence(jnp.array([[mean, mean]]), jnp.full((1, 2), 2 * np.log(deviation), jnp.float32))
    np.testing.assert_allclose(found, [2 * wanted], rtol=1e-5)


def test_a_short_run(vae, in_memory, capsys):
    vae.train_and_measure(vae.Config(width=64, latent=2, steps=400, learning_rate=1e-2))
    takes, numbers, _, mean = promised_numbers(vae, capsys.readouterr().out)
    assert takes < mean - 1 and numbers > 0.5
