"""Sparse arrays in programs: as arguments, under the transformations, and JAX's functions that are made of them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

import fnbackprop as fb

from ..checking import FLOAT0, assert_close, random_like
from .dense import Layout, rows_of, written_out

LAYOUT = Layout((4, 4))
INDICES = LAYOUT.indices()
with jax.enable_x64(True):
    DATA, X = LAYOUT.data(), random_like(np.zeros(4), 2)


def matrix(data, format="BCOO"):
    if format == "BCOO":
        return sparse.BCOO((data, INDICES), shape=(4, 4))
    column, indptr, _ = rows_of(LAYOUT)
    return sparse.BCSR((data, column, indptr), shape=(4, 4))


def layers(data, x, format):
    """Three layers with one sparse matrix."""
    for _ in range(3):
        x = jnp.tanh(matrix(data, format) @ x + 0.1)
    return jnp.sum(x**2)


def plain_layers(data, x, format):
    column, _, row = rows_of(LAYOUT)
    a = written_out(data, INDICES if format == "BCOO" else jnp.stack([row, column], -1), (4, 4))
    for _ in range(3):
        x = jnp.tanh(a @ x + 0.1)
    return jnp.sum(x**2)


def scanned(data, x, format):
    a = matrix(data, format)
    y, _ = jax.lax.scan(lambda x, _: (jnp.tanh(a @ x + 0.1), None), x, length=3)
    return jnp.sum(y**2)


def looped(data, x, format):
    a = matrix(data, format)
    body = lambda state: (state[0] + 1, jnp.tanh(a @ state[1] + 0.1))  # noqa: E731
    return jnp.sum(jax.lax.while_loop(lambda state: state[0] < 3, body, (0, x))[1] ** 2)


PROGRAMS = {
    "plain": layers,
    "jit": jax.jit(layers, static_argnums=2),
    "checkpoint": jax.checkpoint(layers, static_argnums=2),
    "scan": scanned,
    "while": looped,
}


@pytest.mark.parametrize("format", ["BCOO", "BCSR"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name, format):
    """Alone, vmap of the gradient, and the gradient of vmap; eager, the plain one alone."""

    def gradients(grad, fun, datas, xs):
        single = grad(lambda data, x: fun(data, x, format), (0, 1))
        of_batch = grad(lambda data, xs: jnp.sum(jax.vmap(lambda x: fun(data, x, format))(xs)), (0, 1))
        return single(datas[0], xs[0]), jax.vmap(single, (0, None))(datas, xs[0]), of_batch(datas[0], xs)

    batches = jnp.stack([DATA, 2 * DATA]), jnp.stack([X, X + 1, X - 1])
    ours = jax.jit(partial(gradients, fb.grad, PROGRAMS[name]))(*batches)
    want = jax.jit(partial(gradients, jax.grad, plain_layers))(*batches)
    assert_close(ours, want, 1e-13)
    if name == "plain":
        assert_close(fb.grad(lambda data, x: layers(data, x, format), (0, 1))(DATA, X), want[0], 1e-13)


@pytest.mark.parametrize("format", ["BCOO", "BCSR"])
def test_hessian(format):
    got = jax.jit(fb.hessian(lambda data: layers(data, X, format)))(DATA)
    want = jax.jit(jax.hessian(lambda data: plain_layers(data, X, format)))(DATA)
    assert_close(got, want, 1e-12)
    got = jax.jit(jax.jacfwd(fb.grad(lambda data: layers(data, X, format))))(DATA)
    assert_close(got, want, 1e-12)


def test_a_sparse_array_is_an_argument():
    """Its values get a cotangent; its positions float0, as by `jax.vjp`."""
    a = matrix(DATA)
    (da,) = fb.vjp(lambda a: a @ X, a)[1](X)
    (want,) = jax.vjp(lambda a: a @ X, a)[1](X)
    assert jax.tree.structure(da) == jax.tree.structure(want)
    assert da.indices.dtype == want.indices.dtype == FLOAT0 and da.indices.shape == want.indices.shape
    assert_close(da.data, want.data, 1e-15)
    (da,) = fb.grad(lambda a: jnp.sum((a @ X) ** 2), (0,), allow_int=True)(a)
    assert_close(da.data, jax.grad(lambda data: jnp.sum((matrix(data) @ X) ** 2))(DATA), 1e-14)


def test_a_sparse_array_is_an_output():
    b, pullback = fb.vjp(lambda data: matrix(data) * 2.0, DATA)
    ddata = X[:1] * jnp.arange(1.0, 7)
    cotangent = jax.tree.structure(b).unflatten([ddata, np.zeros(b.indices.shape, FLOAT0)])
    assert_close(pullback(cotangent)[0], 2 * ddata, 1e-15)


# Functions of a sparse array that JAX makes of the primitives, each with the dense words for it.
FUNCTIONS = {
    "sum": (lambda a: a.sum(), jnp.sum),
    "sum of rows": (lambda a: a.sum(1).todense(), lambda a: a.sum(1)),
    "transpose": (lambda a: a.T.todense(), lambda a: a.T),
    "minus": (lambda a: (-a).todense(), lambda a: -a),
    "times a number": (lambda a: (3.0 * a).todense(), lambda a: 3 * a),
    "times a row": (lambda a: (a * X).todense(), lambda a: a * X),
    "plus another": (lambda a: (a + a.T).todense(), lambda a: a + a.T),
    "times another": (lambda a: (a @ a).todense(), lambda a: a @ a),
    "times another, elementwise": (lambda a: (a * a.T).todense(), lambda a: a * a.T),
    "from the left": (lambda a: X @ a, lambda a: X @ a),
    "slice": (lambda a: a[1:3, :2].todense(), lambda a: a[1:3, :2]),
    "row": (lambda a: a[1].todense(), lambda a: a[1]),
    "reshape": (lambda a: a.reshape(2, 8).todense(), lambda a: a.reshape(2, 8)),
    "squeeze": (lambda a: sparse.bcoo_squeeze(a[1:2], dimensions=(0,)).todense(), lambda a: a[1]),
    "broadcast": (
        lambda a: sparse.bcoo_broadcast_in_dim(a, shape=(2, 4, 4), broadcast_dimensions=(1, 2)).todense(),
        lambda a: jnp.broadcast_to(a, (2, 4, 4)),
    ),
    "concatenate": (
        lambda a: sparse.bcoo_concatenate([a, a], dimension=0).todense(),
        lambda a: jnp.concatenate([a, a]),
    ),
    "dynamic slice": (
        lambda a: sparse.bcoo_dynamic_slice(a, (jnp.int32(1), jnp.int32(2)), (2, 2)).todense(),
        lambda a: a[1:3, 2:4],
    ),
    "layout": (
        lambda a: sparse.bcoo_update_layout(a, n_batch=1, on_inefficient=None).todense(),
        lambda a: a,
    ),
    "to BCSR": (lambda a: sparse.BCSR.from_bcoo(a.sum_duplicates(nse=6)).todense(), lambda a: a),
    "sparsify": (
        sparse.sparsify(lambda a: jnp.sum(jnp.sin(2 * a.T) @ (a @ X)) + jnp.sum(abs(a))),
        lambda a: jnp.sum(jnp.sin(2 * a.T) @ (a @ X)) + jnp.sum(abs(a)),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    """At distinct positions: a function that is not linear, of entries of one position, is not that of their sum."""
    fun, plain = FUNCTIONS[name]
    indices = jnp.array([[1, 0], [3, 2], [0, 0], [1, 2], [2, 3], [2, 0]])

    def loss(fun, convert):
        return lambda data: jnp.sum(jnp.sin(fun(convert(data))))

    ours = loss(fun, lambda data: sparse.BCOO((data, indices), shape=(4, 4), unique_indices=True))
    want = loss(plain, lambda data: written_out(data, indices, (4, 4)))
    assert_close(jax.jit(fb.grad(ours))(DATA), jax.jit(jax.grad(want))(DATA), 1e-13)


def test_convolution():
    """`sparsify` of a one-dimensional convolution."""
    x = random_like(np.zeros((1, 1, 7)), 3) * jnp.array([1, 0, 1, 1, 0, 0, 1])
    kernel = random_like(np.zeros((1, 1, 3)), 4)
    a = sparse.BCOO.fromdense(x, n_batch=2)

    def convolve(a, kernel):
        return jax.lax.conv_general_dilated(a, kernel, (1,), "VALID")

    def ours(data, kernel):
        a_ = sparse.BCOO((data, a.indices), shape=a.shape)
        return jnp.sum(jnp.sin(sparse.sparsify(convolve)(a_, kernel).todense()))

    got = jax.jit(fb.grad(ours, (0, 1)))(a.data, kernel)
    dx, dkernel = jax.grad(lambda x, kernel: jnp.sum(jnp.sin(convolve(x, kernel))), (0, 1))(x, kernel)
    assert_close(got, (dx[x != 0].reshape(1, 1, -1), dkernel), 1e-13)
