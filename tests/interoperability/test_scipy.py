"""`jax.scipy`: linear algebra, sparse solves, special functions, densities and signals; `jax.experimental.ode`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.ode import odeint
from jax.scipy import integrate, linalg, ndimage, signal, special, stats

from ..rules.checking import check_numeric
from .agreement import check_agreement, draw

SQUARE = draw(3, 3) + 3 * np.eye(3)
FACTOR, RIGHT, LARGE = np.tril(SQUARE), draw(3, 2), 4 * draw(3, 3)
PIVOTS = np.array([1, 1, 2], np.int32)


def positive(factor):
    return factor @ factor.T + jnp.eye(3)


LINALG = {
    "expm": (linalg.expm, (SQUARE,)),
    "expm squared several times": (linalg.expm, (LARGE,)),
    "expm_frechet": (linalg.expm_frechet, (SQUARE, FACTOR)),
    "solve": (linalg.solve, (SQUARE, RIGHT)),
    "solve positive": (lambda a, b: linalg.solve(positive(a), b, assume_a="pos"), (SQUARE, RIGHT)),
    "solve_triangular": (lambda a, b: linalg.solve_triangular(a, b, lower=True, trans=1), (FACTOR, RIGHT)),
    "cho_solve": (lambda a, b: linalg.cho_solve((a, True), b), (FACTOR, RIGHT)),
    "cho_factor": (lambda a, b: linalg.cho_solve(linalg.cho_factor(positive(a)), b), (SQUARE, RIGHT)),
    "lu_solve": (lambda a, b: linalg.lu_solve((a, PIVOTS), b), (SQUARE, RIGHT)),
    "lu_factor": (lambda a, b: linalg.lu_solve(linalg.lu_factor(a), b, trans=1), (SQUARE, RIGHT)),
    "lu": (lambda a: linalg.lu(a)[1:], (SQUARE,)),
    "block_diag": (linalg.block_diag, (SQUARE, RIGHT)),
    "toeplitz": (linalg.toeplitz, (draw(3), draw(4))),
    "cg": (lambda a, b: jax.scipy.sparse.linalg.cg(lambda x: positive(a) @ x, b, tol=1e-14)[0], (SQUARE, draw(3))),
}
ITERATIVE = {
    "gmres": (lambda a, b: jax.scipy.sparse.linalg.gmres(lambda x: a @ x, b, tol=1e-14)[0], (SQUARE, draw(3))),
    "bicgstab": (lambda a, b: jax.scipy.sparse.linalg.bicgstab(lambda x: a @ x, b, tol=1e-14)[0], (SQUARE, draw(3))),
}

X, P, Q = draw(4), draw(4, low=0.2, high=0.8), draw(4, low=0.5, high=3.0)[::-1].copy()
INTEGERS = np.arange(4)
SPECIAL = {
    name: (getattr(special, name), args)
    for args, names in (
        ((X,), "erf erfc ndtr log_ndtr expit i0 i0e i1 i1e digamma softmax log_softmax logsumexp"),
        ((P,), "erfinv ndtri logit entr gammaln gamma spence exp1 expi factorial"),
        ((P, Q), "xlogy xlog1py kl_div rel_entr betaln beta poch"),
    )
    for name in names.split()
}
HEAVY = {
    "gammainc": (special.gammainc, (Q, P)),
    "gammaincc": (special.gammaincc, (Q, P)),
    "betainc": (lambda x: special.betainc(Q, 1.5, x), (P,)),
    "polygamma": (lambda x: special.polygamma(2, x), (Q,)),
    "zeta": (lambda q: special.zeta(2.5, q), (Q,)),
    "multigammaln": (lambda a: special.multigammaln(a, 2), (Q + 1,)),
    "expn": (lambda x: special.expn(2, x), (Q,)),
    "hyp1f1": (lambda x: special.hyp1f1(1.2, 2.5, x), (P,)),
}

MATRIX = positive(SQUARE)
COUNTS = np.array([1, 0, 2])
DENSITIES = {
    "beta": (stats.beta.logpdf, (P, Q, Q[::-1].copy())),
    "cauchy": (stats.cauchy.logpdf, (X, P, Q)),
    "chi2": (stats.chi2.logpdf, (Q, P + 2)),
    "dirichlet": (lambda x, a: stats.dirichlet.logpdf(x / x.sum(), a), (P, Q)),
    "expon": (stats.expon.logpdf, (Q + 1, P, Q)),
    "gamma": (stats.gamma.logpdf, (Q, P + 1)),
    "gennorm": (stats.gennorm.logpdf, (X, Q)),
    "laplace": (stats.laplace.logpdf, (X, P, Q)),
    "logistic": (stats.logistic.logpdf, (X, P, Q)),
    "multivariate_normal": (
        lambda x, mean, a: stats.multivariate_normal.logpdf(x, mean, positive(a)),
        (draw(3), RIGHT[:, 0], SQUARE),
    ),
    "norm": (stats.norm.logpdf, (X, P, Q)),
    "norm cdf": (stats.norm.logcdf, (X, P, Q)),
    "pareto": (stats.pareto.logpdf, (Q + 2, P)),
    "t": (stats.t.logpdf, (X, Q)),
    "truncnorm": (stats.truncnorm.logpdf, (P, P - 1, P + 1)),
    "vonmises": (stats.vonmises.logpdf, (X, Q)),
    "wrapcauchy": (stats.wrapcauchy.logpdf, (Q, P)),
    "kernel density": (lambda data, x: stats.gaussian_kde(data).logpdf(x), (draw(6), X)),
    "bernoulli": (lambda p: stats.bernoulli.logpmf(INTEGERS % 2, p), (P,)),
    "binom": (lambda p: stats.binom.logpmf(INTEGERS, 5, p), (P,)),
    "betabinom": (lambda a, b: stats.betabinom.logpmf(INTEGERS, 5, a, b), (P, Q)),
    "geom": (lambda p: stats.geom.logpmf(INTEGERS + 1, p), (P,)),
    "multinomial": (lambda p: stats.multinomial.logpmf(COUNTS, 3, p / p.sum()), (draw(3, low=0.2, high=0.8),)),
    "nbinom": (lambda p: stats.nbinom.logpmf(INTEGERS, 3, p), (P,)),
    "poisson": (lambda rate: stats.poisson.logpmf(INTEGERS, rate), (Q,)),
}
SIGNALS = {
    "convolve2d": (signal.convolve2d, (SQUARE, RIGHT)),
    "fftconvolve": (signal.fftconvolve, (draw(6), draw(3))),
    "stft": (lambda x: signal.stft(x, nperseg=4)[2].real, (draw(12),)),
    "detrend": (signal.detrend, (draw(6),)),
    "map_coordinates": (lambda x, y: ndimage.map_coordinates(x, [y, y], 1), (SQUARE, draw(4, low=0.3, high=1.7))),
    "dct": (jax.scipy.fft.dct, (draw(6),)),
    "trapezoid": (integrate.trapezoid, (draw(6),)),
}


def lotka(y, t, rates):
    return jnp.stack([rates[0] * y[0] - y[0] * y[1], rates[1] * y[0] * y[1] - y[1]])


ODE = {
    "odeint": (
        lambda y, rates, times: odeint(lotka, y, times, rates, rtol=1e-3, atol=1e-3),
        (np.array([1.0, 0.5]), np.array([1.1, 0.7]), np.array([0.0, 0.3, 1.0])),
    )
}
FAMILIES = {
    "linalg": LINALG,
    "iterative": ITERATIVE,
    "special": SPECIAL,
    "heavy special": HEAVY,
    "densities": DENSITIES,
    "signals": SIGNALS,
    "ode": ODE,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_agree(family):
    check_agreement(FAMILIES[family])


@pytest.mark.parametrize("fun", [linalg.sqrtm, lambda a: linalg.funm(a, jnp.exp, disp=False)[0]], ids=["sqrtm", "funm"])
def test_matrix_functions(fun):
    """They go through `schur`, which JAX does not differentiate: against numeric differences."""
    check_numeric(lambda a: fun(a).real, SQUARE, jit=True)
