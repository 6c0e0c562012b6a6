"""`jax.numpy` functions with structure of their own, and `jax.numpy.linalg`."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax.numpy import linalg

from .agreement import check_agreement, draw

SQUARE = draw(3, 3) + 3 * np.eye(3)
TALL, RIGHT, KNOTS = draw(4, 2), draw(3, 2), draw(5, low=0.0, high=1.0).cumsum()
SYMMETRIC = SQUARE + SQUARE.T
FUNCTIONS = {
    "interp": (jnp.interp, (draw(6, low=0.5, high=3.5), KNOTS, draw(5))),
    "convolve": (lambda x, y: jnp.convolve(x, y, mode="same"), (draw(6), draw(3))),
    "correlate": (jnp.correlate, (draw(6), draw(3))),
    "percentile": (lambda x, q: jnp.percentile(x, q, axis=0), (draw(5, 3), np.array([13.0, 61.0]))),
    "quantile midpoint": (lambda x: jnp.quantile(x, np.array([0.3, 0.8]), method="midpoint"), (draw(7),)),
    "median": (lambda x: jnp.median(x, axis=1), (draw(2, 5),)),
    "trapezoid": (jnp.trapezoid, (draw(5), KNOTS)),
    "cov": (jnp.cov, (draw(2, 5),)),
    "corrcoef": (jnp.corrcoef, (draw(2, 5),)),
    "polyval": (jnp.polyval, (draw(4), draw(3))),
    "einsum": (lambda x, y, z: jnp.einsum("ij,jk,lk->il", x, y, z), (SQUARE, RIGHT, TALL)),
    "sinc": (jnp.sinc, (np.array([0.0, 0.3, -1.7]),)),
    "nanvar": (lambda x: jnp.nanvar(x, ddof=1), (draw(5),)),
    "unwrap": (jnp.unwrap, (4 * draw(6),)),
    "gradient": (jnp.gradient, (draw(6),)),
}
LINALG = {
    "det": (linalg.det, (SQUARE,)),
    "slogdet": (lambda a: linalg.slogdet(a)[1], (SQUARE,)),
    "inv": (linalg.inv, (SQUARE,)),
    "pinv": (linalg.pinv, (TALL,)),
    "matrix_power": (lambda a: linalg.matrix_power(a, -3), (SQUARE,)),
    "solve": (linalg.solve, (SQUARE, RIGHT)),
    "lstsq": (lambda a, b: linalg.lstsq(a, b)[0], (TALL, draw(4, 3))),
    "cond": (linalg.cond, (SQUARE,)),
    "multi_dot": (lambda *factors: linalg.multi_dot(factors), (TALL.T, TALL, RIGHT.T)),
}
FACTORS = {
    "cholesky": (linalg.cholesky, (SYMMETRIC,)),
    "qr": (linalg.qr, (TALL,)),
    "eigh": (linalg.eigh, (SYMMETRIC,)),
    "svdvals": (linalg.svdvals, (TALL,)),
    "tensorsolve": (linalg.tensorsolve, (draw(2, 3, 6), draw(2, 3))),
}
NORMS = {
    f"norm {kind}": (lambda a, kind=kind: linalg.norm(a, ord=kind), (TALL,))
    for kind in (None, "nuc", 1, -1, 2, -2, np.inf, -np.inf)
} | {f"vector norm {kind}": (lambda x, kind=kind: linalg.norm(x, ord=kind), (draw(5),)) for kind in (1, 2, 3, np.inf)}


@pytest.mark.parametrize(
    "programs", [FUNCTIONS, LINALG, FACTORS, NORMS], ids=["functions", "linalg", "factors", "norms"]
)
def test_agree(programs):
    check_agreement(programs)
