"""The fuzzer's evaluation of jaxprs by numpy gives what JAX gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from .fuzz.in_numpy.evaluate import IllTyped, prepared

X = np.linspace(-1.7, 1.9, 12).reshape(3, 4)
V = np.array([0.3, -1.2, 0.3, 2.0])
I = np.array([2, 0, 3, -5])


def pointwise(x, v, i):
    return (
        lax.integer_pow(v, -3),
        lax.div(i, 2),
        lax.rem(i, 2),
        lax.round(10.0 * x),
        lax.round(2.0 * x + 0.5, lax.RoundingMethod.TO_NEAREST_EVEN),
        jnp.sign(v * 0.0),
        lax.logistic(lax.complex(v, v)),
        lax.select_n(i % 3, v, 2.0 * v, 3.0 * v),
        lax.polygamma(1.0, 1.0 + lax.square(x)),
        lax.zeta(2.0 + lax.square(x), 1.5),
        lax.betainc(1.5, 2.5, lax.logistic(x)),
        lax.conj(v),
        lax.reduce_precision(x, 8, 23),
        v.astype(int) ** 2,
        lax.pow(v, i),
        lax.pow(lax.complex(v, v), i),
        lax.pow(lax.complex(v, v), lax.complex(v, x[0])),
    )


def shapes(x, v, i):
    return (
        lax.reshape(x, (4, 3), (1, 0)),
        jax.vmap(lambda row: lax.pmax(row, "i") - lax.psum(row, "i"), axis_name="i")(x),
        lax.pad(x, 9.0, [(1, -1, 2), (-1, 2, 0)]),
        lax.pad(v, 9.0, [(-2, 3, 1)]),
        lax.dynamic_slice(x, (i[0], i[3]), (2, 3)),
        lax.dynamic_update_slice(x, x[:2, :2] * 2.0, (i[2], i[1])),
        lax.dot_general(jnp.stack([x, 2.0 * x]), jnp.stack([x, x + 1.0]), (((2,), (2,)), ((0,), (0,)))),
        lax.iota(jnp.int32, 4)[::-2],
        *lax.sort((jnp.round(v), x[0], x[1]), num_keys=2),
        *lax.top_k(v, 3),
        jnp.argmax(x, 1),
        lax.cumsum(x, 1, reverse=True),
        lax.cumlogsumexp(x, 0),
        lax.reduce_or(x > 0.0, (0,)),
    )


def indexing(x, v, i):
    return (
        x[i % 3, i],
        x.at[i].get(mode="fill", fill_value=7.0),
        v.at[i].get(mode="fill"),
        v.at[i].get(mode="clip"),
        i.at[i].get(mode="fill"),
        jnp.take_along_axis(x, jnp.argsort(x, 1), 1),
        jax.vmap(lambda row, k: lax.dynamic_slice_in_dim(row, k, 2))(x, i[:3]),
        jax.vmap(lambda row, k: row.at[k].set(5.0))(x, i[:3]),
        v.at[i].add(1.0),
        v.at[i].add(1.0, mode="clip"),
        v.at[i + 2].set(v, mode="drop"),
        v.at[i].multiply(2.0, mode="drop"),
        x.at[:, i].max(0.5),
        x.at[1, i].min(-0.5),
        x.at[1:, 1:3].set(0.0),
    )


def loops(x, v, i):
    def steps(n, y):
        return lax.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, s[1] * 1.5), (0, y))

    def write(k, r):
        r[k % 2] += v[k]

    ref = jax.new_ref(x[:2])
    lax.fori_loop(0, 3, lambda k, _: write(k, ref), None)
    rows = jax.vmap(lambda row: _through_reference(row, v))(x)
    scanned = lax.scan(lambda c, y: (c * y, c + y), v, jnp.stack([v, v + 1.0]), reverse=True)
    nothing = lax.scan(lambda c, _: (c, c), v, None, length=0)
    branch = lax.switch(i[3], [lambda y: y, lambda y: 2.0 * y, lambda y: 3.0 * y], v)
    solved = jnp.linalg.solve(x[:, :3] + 4.0 * jnp.eye(3), v[:3])
    return jax.vmap(steps)(jnp.abs(i), v), ref[...], rows, scanned, nothing, branch, solved, jax.checkpoint(jnp.sin)(v)


def _through_reference(row, v):
    r = jax.new_ref(row)
    r[1:3] = v[:2]
    jax.ref.addupdate(r, 0, 1.0)
    return jax.freeze(r)


@pytest.mark.parametrize("function", [pointwise, shapes, indexing, loops], ids=lambda f: f.__name__)
def test_numpy_gives_what_jax_gives(function):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        closed = jax.make_jaxpr(function)(X, V, I)
        with np.errstate(all="ignore"):
            found = prepared(closed)([X, V, I])
        expected = jax.tree.leaves(jax.jit(function)(X, V, I))
    assert len(found) == len(expected)
    for got, want in zip(found, expected, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)


def test_a_value_of_another_type_is_told():
    """A jaxpr whose last equation says another shape than its primitive gives."""
    closed = jax.make_jaxpr(lambda x: jnp.sin(x))(np.float32(1.0))
    with pytest.raises(IllTyped, match="sin"):
        prepared(closed)([np.ones(3, np.float32)])
