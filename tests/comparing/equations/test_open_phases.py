"""Eigenvectors and singular vectors are given up to a phase, so that no cotangent may ask for it."""

import jax
import jax.numpy as jnp
import pytest

import fnbackprop as fb
from fnbackprop.comparing.results import Verdict

KEYS = jax.random.split(jax.random.key(0))
WEIGHTS = jax.random.normal(KEYS[1], (4, 3))
PROGRAMS = {
    "eigenvalues": lambda a: jnp.sum(jnp.linalg.eigvalsh(a.T.conj() @ a) * WEIGHTS[0]),
    "eigenvectors": lambda a: jnp.sum(jnp.abs(jnp.linalg.eigh(a.T.conj() @ a)[1]) ** 2 * WEIGHTS[:3]),
    "singular values": lambda a: jnp.sum(jnp.linalg.svd(a, compute_uv=False) * WEIGHTS[0]),
    "singular vectors": lambda a: jnp.sum(jnp.abs(jnp.linalg.svd(a, full_matrices=False)[0]) ** 2 * WEIGHTS),
    "trace norm": lambda a: jnp.linalg.norm(a, "nuc"),
}


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_right_gradient_raises_no_alarm(name, dtype):
    found = fb.compare(PROGRAMS[name], jax.random.normal(KEYS[0], (4, 3), dtype))
    assert found.verdict is Verdict.PASS, str(found)
