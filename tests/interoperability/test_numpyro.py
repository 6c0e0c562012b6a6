"""NumPyro: the log density of a small hierarchical model, in the unconstrained space where samplers move."""

import jax.numpy as jnp
import numpy as np
import pytest

from .agreement import check_agreement, draw

numpyro = pytest.importorskip("numpyro")
GROUPS = np.array([0, 0, 1, 2, 2])


def schools(y):
    """Normal observations of three groups whose means share a prior; mixture weights and a correlation."""
    dist = numpyro.distributions
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
    spread = numpyro.sample("spread", dist.HalfCauchy(2.0))
    with numpyro.plate("groups", 3):
        theta = numpyro.sample("theta", dist.StudentT(4.0, mean, spread))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    factor = numpyro.sample("factor", dist.LKJCholesky(2, 1.5))
    noise = numpyro.sample("noise", dist.Gamma(2.0, 1.0))
    with numpyro.plate("observations", len(GROUPS)):
        parts = dist.Normal(theta[GROUPS][:, None] + jnp.array([0.0, 1.0]), noise)
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(probs=weights), parts), obs=y)
    numpyro.sample("pair", dist.MultivariateNormal(jnp.zeros(2), scale_tril=factor), obs=y[:2])


def test_log_density():
    from numpyro.infer.util import potential_energy

    params = {
        "mean": draw(),
        "spread": draw(),
        "theta": draw(3),
        "weights": draw(1),
        "factor": draw(1),
        "noise": draw() + 0.3,
    }
    check_agreement({"schools": (lambda params, y: potential_energy(schools, (y,), {}, params), (params, draw(5)))})
