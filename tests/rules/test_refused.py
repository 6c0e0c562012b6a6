"""Where `jax.grad` fails and ours does not: the README's list, each name against differences or a closed form."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import fnbackprop as fb
from fnbackprop.backprop.tape import ConstantWarning

from .checking import assert_close, check_numeric

pytestmark = pytest.mark.usefixtures("x64")
README = pathlib.Path(__file__).parents[2] / "README.md"
RNG = np.random.default_rng(0)
X = RNG.uniform(0.5, 1.5, size=(6,))
SQUARE = RNG.normal(size=(3, 3))


def while_power(x):
    return lax.while_loop(lambda s: s[0] < 5, lambda s: (s[0] + 1, jnp.sin(s[1]) * x), (0, x))[1]


def fori_power(x):
    upper = lax.convert_element_type(x[0] * 0 + 4, jnp.int32)  # known when it runs
    return lax.fori_loop(0, upper, lambda i, y: y * x, jnp.ones_like(x))


def clamp_bounds(low, x, high):
    return lax.clamp(low, x, high)


def scatter_product(x, updates):
    return x.at[jnp.array([0, 2, 0, 0])].mul(updates)


def window(init, function):
    def fun(x):
        init_value = jnp.asarray(init, x.dtype)
        return lax.reduce_window(x, init_value, function, (3,), (1,), "VALID")

    return fun


def dilated_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (2,), (1,), "VALID", window_dilation=(3,))


def schur_form(a):
    t, q = lax.linalg.schur(a + a.T)  # a symmetric matrix: simple real eigenvalues
    return jnp.sum(jnp.diagonal(t) ** 3) + jnp.sum((q @ jnp.sin(t) @ q.T) * a)


def householder(a, taus):
    return lax.linalg.householder_product(a, taus)


def extremes_over_devices(x):
    def extremes(x):
        return lax.pmax(x, "i"), lax.pmin(x, "i")

    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.jit(jax.shard_map(extremes, mesh=mesh, in_specs=P("i"), out_specs=P(), check_vma=False))(x)


def applied_twice(x):
    return x.at[jnp.array([0, 2, 0])].apply(jnp.sin)


def full_svd(a):
    u, s, vt = jnp.linalg.svd(a, full_matrices=True)
    projector = u[:, 2:] @ u[:, 2:].T  # onto what a's columns do not span
    return jnp.sum(projector * jnp.sin(jnp.arange(9.0).reshape(3, 3))) + jnp.sum(s * jnp.arange(1.0, 3.0))


def eigenvectors(a):
    w, v = jnp.linalg.eig(a)
    rebuilt = (v * jnp.sin(w)[None, :]) @ jnp.linalg.inv(v)  # a function of the matrix: no phase is left free
    return jnp.sum(jnp.real(rebuilt) * jnp.cos(jnp.arange(9.0).reshape(3, 3)))


def linear_solve(a, b):
    return lax.custom_linear_solve(lambda x: a @ x, b, lambda matvec, b: jnp.linalg.solve(a, b))


# name -> (function, arguments)
ROWS = {
    "`while_loop`": (while_power, (X,)),
    "`fori_loop` with a dynamic bound": (fori_power, (X,)),
    "`clamp` with respect to scalar bounds": (clamp_bounds, (0.8, X, 1.2)),
    "`x.at[i].apply`": (applied_twice, (X,)),
    "`x.at[i].mul` with repeated indices": (scatter_product, (X, X[:4])),
    "`reduce_window` with `mul`": (window(1, lax.mul), (X,)),
    "`reduce_window` with `logaddexp`": (window(-np.inf, jnp.logaddexp), (X,)),
    "`reduce_window` from another initial value": (window(2, lax.add), (X,)),
    "max-pooling with window dilation": (dilated_pool, (X,)),
    "`betainc` in a and b": (jax.scipy.special.betainc, (X, X[::-1] + 1, X / 2)),
    "`schur`": (schur_form, (SQUARE,)),
    "`householder_product`": (householder, (SQUARE[:, :2], X[:2])),
    "`pmax`, `pmin`": (extremes_over_devices, (X,)),
    "`svd` with full matrices": (full_svd, (SQUARE[:, :2],)),
    "eigenvectors of `eig`": (eigenvectors, (SQUARE,)),
    "`custom_linear_solve` without `transpose_solve`": (linear_solve, (SQUARE + 3 * np.eye(3), X[:3])),
}


@pytest.mark.parametrize("name", ROWS)
def test_refused_by_jax(name):
    fun, args = ROWS[name]
    check_numeric(fun, *args, tolerance=2e-6, directions=2)

    def loss(*args):
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(fun(*args)))

    with pytest.raises((NotImplementedError, ValueError, TypeError, AssertionError)):
        jax.grad(jax.jit(loss), argnums=tuple(range(len(args))))(*map(jnp.asarray, args))


def eigh_at_a_tie(lib):
    """d/dA of tr sin(A) at a matrix with a double eigenvalue, which is cos(A)."""

    def fun(a):
        w, v = jnp.linalg.eigh(a)
        return jnp.sum((v * jnp.sin(w)[None, :]) @ v.T * jnp.eye(3))

    return lib.grad(fun)(jnp.diag(jnp.array([1.0, 1.0, 2.0])))


def svd_at_a_tie(lib):
    """d/dA of tr(Gᵀ Q), Q = UVᵀ the orthogonal factor of A, at A = 2 I: there δQ = (δA - δAᵀ)/4."""

    def fun(a):
        u, _, vt = jnp.linalg.svd(a)
        return jnp.sum(SQUARE * (u @ vt))

    return lib.grad(fun)(2 * jnp.eye(3))


def test_eigh_and_svd_at_ties():
    """NaN by JAX; finite and right by ours, because the loss does not depend on the choice of vectors."""
    for fun, want in (
        (eigh_at_a_tie, np.diag(np.cos([1.0, 1.0, 2.0]))),
        (svd_at_a_tie, (SQUARE - SQUARE.T) / 4),
    ):
        assert not np.isfinite(fun(jax)).all()
        assert_close(fun(fb), jnp.asarray(want), 1e-12)


def test_float_outside_jit():
    def fun(x):
        return x**3 if float(x) > 1 else x

    with pytest.raises(jax.errors.ConcretizationTypeError):
        jax.grad(fun)(2.0)
    with pytest.warns(ConstantWarning, match="made a Python number"):
        assert fb.grad(fun)(2.0) == 12 and fb.grad(fun)(0.5) == 1


OTHER_ROWS = {"`eigh` and `svd` at ties": test_eigh_and_svd_at_ties, "`float(x)` outside jit": test_float_outside_jit}


def test_the_readme_lists_these_rows_and_no_others():
    """The names, parted at dots, without their remarks in parentheses."""
    listed = README.read_text().split("each is a test: ", 1)[1].split(".\n\n", 1)[0]
    names = [re.sub(r" \([^)]* [^)]*\)$", "", name) for name in " ".join(listed.split()).split(" · ")]
    assert sorted(names) == sorted([*ROWS, *OTHER_ROWS])
