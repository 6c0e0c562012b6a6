"""Log densities of NumPyro and of jax.scipy.stats, as functions of their parameters and of the value."""

import jax
import jax.numpy as jnp
import jax.scipy.stats as stats
import numpyro
import numpyro.distributions as dist
from numpyro.infer.util import potential_energy

from .table import LibraryProgram, definite, each, positive, program, real, simplex, unit, whole


def density(make):
    def log_density(value, *parameters):
        return make(*parameters).log_prob(value)

    return log_density


def _numpyro(name: str, make, *operands, every: int = 1) -> LibraryProgram:
    return program(f"numpyro.{name}", density(make), *operands, every=every)


def regression(params, x):
    """A model with a plate and a latent scale."""

    def model(x):
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        with numpyro.plate("rows", x.shape[0]):
            numpyro.sample("y", dist.StudentT(5.0, slope * x, scale), obs=jnp.sin(x))

    return potential_energy(model, (x,), {}, params)


def evidence(means, scales):
    """What a variational fit maximises, with draws by reparametrization."""
    guide = dist.Normal(means, jnp.exp(scales)).to_event(1)
    draws = guide.sample(jax.random.key(0), (8,))
    target = dist.MultivariateNormal(jnp.zeros(3, means.dtype), jnp.eye(3, dtype=means.dtype) * 0.7)
    return jnp.mean(target.log_prob(draws) - guide.log_prob(draws))


def mixture(value, logits, means):
    parts = dist.Normal(means, 1.0)
    return dist.MixtureSameFamily(dist.Categorical(logits=logits), parts).log_prob(value)


PROGRAMS: tuple[LibraryProgram, ...] = (
    _numpyro("Normal", dist.Normal, real(4), real(4), positive(4)),
    _numpyro("StudentT", dist.StudentT, real(4), positive(4), real(4), positive(4)),
    _numpyro("Cauchy", dist.Cauchy, real(4), real(4), positive(4)),
    _numpyro("Gamma", dist.Gamma, positive(4), positive(4), positive(4)),
    _numpyro("InverseGamma", dist.InverseGamma, positive(4), positive(4), positive(4)),
    _numpyro("Beta", dist.Beta, unit(4), positive(4), positive(4)),
    _numpyro("Dirichlet", dist.Dirichlet, simplex(3), positive(3)),
    _numpyro("Laplace", dist.Laplace, real(4), real(4), positive(4)),
    _numpyro("LogNormal", dist.LogNormal, positive(4), real(4), positive(4)),
    _numpyro("Weibull", dist.Weibull, positive(4), positive(4), positive(4)),
    _numpyro("Gumbel", dist.Gumbel, real(4), real(4), positive(4)),
    _numpyro("Pareto", dist.Pareto, real(4, low=3.5, high=5.0), positive(4), positive(4)),
    _numpyro("Kumaraswamy", dist.Kumaraswamy, unit(4), positive(4), positive(4)),
    _numpyro("VonMises", dist.VonMises, real(4), real(4), positive(4)),
    _numpyro("AsymmetricLaplace", dist.AsymmetricLaplace, real(4), real(4), positive(4), positive(4)),
    _numpyro("MultivariateNormal", dist.MultivariateNormal, real(3), real(3), definite(3)),
    _numpyro(
        "TruncatedNormal in its middle",
        lambda m, s: dist.TruncatedNormal(m, s, low=-2.5, high=2.5),
        real(4),
        real(4),
        positive(4),
    ),
    _numpyro(
        "TruncatedNormal in its tail",
        lambda m: dist.TruncatedNormal(m, 1.0, low=4.0),
        real(4, low=4.1, high=6.0),
        real(4),
    ),
    _numpyro("NegativeBinomial2", dist.NegativeBinomial2, whole(5, 4), positive(4), positive(4)),
    _numpyro("Poisson", dist.Poisson, whole(5, 4), positive(4)),
    _numpyro("Binomial", lambda p: dist.Binomial(6, p), whole(6, 4), unit(4)),
    _numpyro("BetaBinomial", lambda a, b: dist.BetaBinomial(a, b, 6), whole(6, 4), positive(4), positive(4)),
    _numpyro("Categorical", lambda z: dist.Categorical(logits=z), whole(5, 4), real(4, 5)),
    _numpyro("OrderedLogistic", lambda e: dist.OrderedLogistic(e, jnp.array([-1.0, 0.0, 1.0])), whole(3, 4), real(4)),
    _numpyro("ZeroInflatedPoisson", dist.ZeroInflatedPoisson, whole(3, 4), unit(4), positive(4)),
    _numpyro("LKJCholesky", lambda c: dist.LKJCholesky(2, c), lambda rng: _cholesky(rng), positive()),
    program("numpyro.MixtureSameFamily", mixture, real(4), real(3), real(3)),
    program("numpyro.potential_energy", regression, each(slope=real(), scale=real()), real(5), every=2),
    program("numpyro.evidence", evidence, real(3), real(3)),
    program("jax.scipy.stats.norm.logcdf", stats.norm.logcdf, real(5, low=-6, high=3), real(5), positive(5)),
    program("jax.scipy.stats.t.logpdf", stats.t.logpdf, real(5), positive(5), real(5), positive(5)),
    program("jax.scipy.stats.gamma.logcdf", stats.gamma.logcdf, positive(5), positive(5)),
    program("jax.scipy.stats.beta.cdf", stats.beta.cdf, unit(5), positive(5), positive(5)),
    program("jax.scipy.stats.chi2.logsf", stats.chi2.logsf, positive(5), positive(5)),
    program("jax.scipy.stats.logistic.logpdf", stats.logistic.logpdf, real(5), real(5), positive(5)),
    program(
        "jax.scipy.stats.truncnorm.logpdf",
        lambda x, a: stats.truncnorm.logpdf(x, a, 3.0),
        real(5),
        real(5, low=-4.0, high=-2.1),
    ),
    program(
        "jax.scipy.stats.multivariate_normal.logpdf", stats.multivariate_normal.logpdf, real(3), real(3), definite(3)
    ),
    program("jax.scipy.stats.gaussian_kde", lambda data, x: stats.gaussian_kde(data)(x), real(6), real(4)),
    program("jax.scipy.stats.nbinom.logpmf", lambda n, p: stats.nbinom.logpmf(3, n, p), positive(5), unit(5)),
)


def _cholesky(rng):
    angle = rng.uniform(0.3, 1.2)
    return jnp.array([[1.0, 0.0], [jnp.cos(angle), jnp.sin(angle)]])
