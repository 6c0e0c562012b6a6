"""Eight schools by NUTS in NumPyro, in the non-centred parameterisation."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS
from numpyro.infer.reparam import TransformReparam

J = 8
y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
sigma = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools(J, sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("J", J):
        with numpyro.handlers.reparam(config={"theta": TransformReparam()}):
            theta = numpyro.sample(
                "theta", dist.TransformedDistribution(dist.Normal(0.0, 1.0), dist.transforms.AffineTransform(mu, tau))
            )
        numpyro.sample("obs", dist.Normal(theta, sigma), obs=y)


numpyro.enable_x64()
mcmc = MCMC(NUTS(eight_schools), num_warmup=100, num_samples=150, progress_bar=False)
mcmc.run(jax.random.key(0), J, sigma, y=y, extra_fields=("potential_energy",))
mcmc.print_summary(exclude_deterministic=False)
print(f"Expected log joint density: {np.mean(-mcmc.get_extra_fields()['potential_energy']):.2f}")
