"""jax.scipy: special functions, linear algebra, signals, images, interpolation, optimization, integration."""

import jax
import jax.numpy as jnp
import jax.scipy as jsp
from jax.scipy import interpolate, special
from jax.scipy.spatial.transform import Rotation

from .table import LibraryProgram, definite, positive, program, real, unit


def _special(name: str, *operands) -> LibraryProgram:
    return program(f"jax.scipy.special.{name}", getattr(special, name), *operands)


def least(start, target):
    def objective(x):
        return jnp.sum((x - target) ** 2) + jnp.sum(jnp.cos(x)) * 0.1

    return jsp.optimize.minimize(objective, start, method="BFGS").fun


def interpolated(values, points):
    axes = (jnp.linspace(0.0, 1.0, 4), jnp.linspace(0.0, 1.0, 5))
    return interpolate.RegularGridInterpolator(axes, values)(points)


def solved(matrix, right):
    return jsp.sparse.linalg.cg(matrix, right)[0]


def bounded(matrix, right):
    return jsp.sparse.linalg.gmres(matrix, right)[0]


PROGRAMS: tuple[LibraryProgram, ...] = (
    *(_special(name, real(5)) for name in ("erf", "erfc", "expit", "log_ndtr", "ndtr", "i0e", "i1e", "i0", "i1")),
    *(_special(name, positive(5)) for name in ("digamma", "gammaln", "gamma", "exp1", "expi", "factorial", "entr")),
    *(_special(name, unit(5)) for name in ("erfinv", "logit", "ndtri", "spence")),
    _special("betaln", positive(5), positive(5)),
    _special("gammainc", positive(5), positive(5)),
    _special("gammaincc", positive(5), positive(5)),
    _special("betainc", positive(4), positive(4), unit(4)),
    _special("xlogy", positive(5), positive(5)),
    _special("xlog1py", real(5), positive(5)),
    _special("rel_entr", positive(5), positive(5)),
    _special("kl_div", positive(5), positive(5)),
    _special("logsumexp", real(3, 4)),
    _special("zeta", real(4, low=1.5, high=4.0), positive(4)),
    program("jax.scipy.special.polygamma", lambda x: special.polygamma(1, x), positive(5)),
    program("jax.scipy.special.multigammaln", lambda x: special.multigammaln(x, 2), real(4, low=1.0, high=4.0)),
    program("jax.scipy.special.hyp1f1", special.hyp1f1, positive(3), positive(3), real(3)),
    program("jax.scipy.linalg.expm", jsp.linalg.expm, real(3, 3, low=-0.5, high=0.5)),
    program(
        "jax.scipy.linalg.cho_solve",
        lambda a, b: jsp.linalg.cho_solve(jsp.linalg.cho_factor(a), b),
        definite(3),
        real(3),
    ),
    program(
        "jax.scipy.linalg.lu_solve", lambda a, b: jsp.linalg.lu_solve(jsp.linalg.lu_factor(a), b), definite(3), real(3)
    ),
    program("jax.scipy.linalg.solve_triangular", jsp.linalg.solve_triangular, definite(3), real(3)),
    program("jax.scipy.linalg.eigh", lambda a: jsp.linalg.eigh(a)[0], definite(3)),
    program("jax.scipy.linalg.svd", lambda a: jsp.linalg.svd(a, compute_uv=False), real(3, 4)),
    program("jax.scipy.linalg.qr", lambda a: jnp.abs(jsp.linalg.qr(a, mode="r")[0]), definite(3)),
    program("jax.scipy.linalg.polar", jsp.linalg.polar, definite(3), every=2),
    program("jax.scipy.linalg.inv", jsp.linalg.inv, definite(3)),
    program("jax.scipy.linalg.det", jsp.linalg.det, definite(3)),
    program("jax.scipy.linalg.block_diag", jsp.linalg.block_diag, real(2, 2), real(3, 3)),
    program("jax.scipy.linalg.toeplitz", jsp.linalg.toeplitz, real(4)),
    program("jax.scipy.signal.convolve", jsp.signal.convolve, real(6), real(3)),
    program("jax.scipy.signal.fftconvolve", jsp.signal.fftconvolve, real(6), real(3)),
    program("jax.scipy.signal.stft", lambda x: jnp.abs(jsp.signal.stft(x, nperseg=8)[2][1:3]) ** 2, real(32)),
    program("jax.scipy.signal.welch", lambda x: jsp.signal.welch(x, nperseg=8)[1], real(32)),
    program("jax.scipy.signal.detrend", jsp.signal.detrend, real(8)),
    program(
        "jax.scipy.ndimage.map_coordinates",
        lambda a, y, x: jsp.ndimage.map_coordinates(a, [y, x], order=1),
        real(4, 4),
        unit(5),
        unit(5),
    ),
    program(
        "jax.scipy.integrate.trapezoid", jsp.integrate.trapezoid, real(6), lambda rng: jnp.sort(rng.uniform(size=6))
    ),
    program("jax.scipy.fft.dct", jsp.fft.dct, real(8)),
    program("jax.scipy.fft.idctn", jsp.fft.idctn, real(3, 4)),
    program("jax.scipy.cluster.vq", lambda x, c: jsp.cluster.vq.vq(x, c)[1], real(6, 2), real(3, 2)),
    program("jax.scipy.interpolate.RegularGridInterpolator", interpolated, real(4, 5), unit(3, 2)),
    program("jax.scipy.optimize.minimize", least, real(3), real(3), every=10, bfloat16=False),
    program("jax.scipy.sparse.linalg.cg", solved, definite(3), real(3)),
    program("jax.scipy.sparse.linalg.gmres", bounded, definite(3), real(3), every=4),
    program("jax.scipy.spatial.Rotation", lambda v: Rotation.from_rotvec(v).as_matrix(), real(3)),
    program(
        "jax.nn.dot_product_attention",
        jax.nn.dot_product_attention,
        real(1, 4, 2, 3),
        real(1, 4, 2, 3),
        real(1, 4, 2, 3),
    ),
)
