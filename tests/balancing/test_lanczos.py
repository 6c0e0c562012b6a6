"""The ends of spectra that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnbackprop.balancing.lanczos import Lanczos, inverse
from fnbackprop.balancing.vectors import dot, norm

pytestmark = pytest.mark.usefixtures("x64")


def operator(eigenvalues):
    """A symmetric matrix with these eigenvalues, and the basis of its eigenvectors in columns."""
    count = len(eigenvalues)
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(count, count)))[0]
    return jnp.asarray((basis * eigenvalues) @ basis.T), basis


def product(vector, matrix):
    flat = matrix @ jnp.concatenate([vector["a"].ravel(), vector["b"]])
    return {"a": flat[:4].reshape(2, 2), "b": flat[4:]}


def start(count, seed=0):
    return lambda: optax.tree.random_like(jax.random.key(seed), {"a": jnp.zeros((2, 2)), "b": jnp.zeros(count - 4)})


SPECTRA = {
    "negative is larger": np.linspace(-3, 2, 50),
    "an outlier": np.array([12.31, *np.linspace(0, 1, 79)]),
    "all negative": np.linspace(-5, -1, 30),
    "a few values": np.repeat([-1.0, 0.0, 4.0], 10),
    "clustered at the end": np.array([*np.linspace(0, 1, 60), 1.001, 1.002]),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_ends(name):
    eigenvalues = SPECTRA[name]
    matrix, _ = operator(eigenvalues)
    found = Lanczos(jax.jit(product)).ends(start(len(eigenvalues)), matrix, tolerance=1e-7, most=300)
    np.testing.assert_allclose(found.largest.value, eigenvalues.max(), rtol=1e-6)
    np.testing.assert_allclose(found.smallest.value, eigenvalues.min(), atol=1e-6 * abs(eigenvalues).max())
    assert found.converged


def test_residuals_bound_the_error():
    eigenvalues = np.linspace(-3, 2, 200)
    matrix, _ = operator(eigenvalues)
    for most in (5, 10, 20):
        found = Lanczos(jax.jit(product)).ends(start(200), matrix, first=1, most=most)
        for end in (found.largest, found.smallest):
            assert np.min(np.abs(eigenvalues - end.value)) <= end.residual * (1 + 1e-9)
        assert found.largest.value <= 2 and found.steps == most


def test_a_spectrum_that_needs_more_steps_is_extended_or_a_bound():
    eigenvalues = np.linspace(0, 1, 400)
    matrix, _ = operator(eigenvalues)
    short = Lanczos(jax.jit(product)).ends(start(400), matrix, most=12)
    assert not short.converged and short.steps == 12
    long = Lanczos(jax.jit(product)).ends(start(400), matrix)
    assert long.converged and long.steps > 20 and 0.99 < long.largest.value <= 1


def test_the_vector_of_the_largest():
    matrix, basis = operator(SPECTRA["an outlier"])
    lanczos, first = Lanczos(product), start(80)
    found = lanczos.vector(first, lanczos.ends(first, matrix, tolerance=1e-8), matrix)
    flat = np.concatenate([found["a"].ravel(), found["b"]])
    np.testing.assert_allclose(abs(flat @ basis[:, 0]), 1, rtol=1e-8)


def test_a_gain_on_both_sides():
    """Also one of zero: of a parameter that the optimizer leaves alone."""
    matrix, _ = operator(SPECTRA["an outlier"])
    gains = np.random.default_rng(1).uniform(0.1, 10, 80) * (np.arange(80) != 5)
    values, vectors = np.linalg.eigh(np.sqrt(np.outer(gains, gains)) * np.asarray(matrix))
    gain = {"a": jnp.asarray(gains[:4]).reshape(2, 2), "b": jnp.asarray(gains[4:])}
    lanczos = Lanczos(jax.jit(product))
    found = lanczos.ends(start(80), matrix, metric=inverse(gain), tolerance=1e-8)
    ends = values[1], values[-1]  # without the direction of the gain that is zero
    np.testing.assert_allclose((found.smallest.value, found.largest.value), ends, rtol=1e-6)
    vector = lanczos.vector(start(80), found, matrix, metric=inverse(gain))
    np.testing.assert_allclose(abs(np.concatenate([vector["a"].ravel(), vector["b"]]) @ vectors[:, -1]), 1, rtol=1e-7)


def test_complex_leaves_are_two_real_ones():
    weights = jnp.array([1.0 + 0j, 2.0, 3.0])
    found = Lanczos(lambda v, w: [w * v[0]]).ends(lambda: [jnp.array([1 + 1j, 2 - 1j, 0.5 + 2j])], weights)
    assert found.largest.value == pytest.approx(3) and found.smallest.value == pytest.approx(1)
    assert dot([1j * weights], [weights]) == 0 and norm([1j * weights]) == pytest.approx(14**0.5)


def test_a_product_that_is_not_finite_gives_no_value():
    found = Lanczos(lambda v, w: jax.tree.map(lambda x: x * w, v)).ends(start(8), jnp.nan)
    assert np.isnan(found.largest.value) and not found.converged
