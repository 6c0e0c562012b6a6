"""Shapes, reductions, sorting, windows, indexing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .operands import away, distinct, normal
from .table import add, bind, of

# fmt: off
# ---------------------------------------------------------------- shapes

add("reshape", lambda x: lax.reshape(x, (3, 2)), normal(2, 3))
add("reshape", lambda x: lax.reshape(x, (6,), dimensions=(1, 0)), normal(2, 3))
add("reshape", lambda x: lax.reshape(x, (24,), dimensions=(2, 0, 1)), normal(2, 3, 4))
add("broadcast_in_dim", lambda x: lax.broadcast_in_dim(x, (2, 3), (1,)), normal(3))
add("broadcast_in_dim", lambda x: lax.broadcast_in_dim(x, (2, 3, 3), (1, 2)), normal(1, 3))
add("broadcast_in_dim", lambda x: lax.broadcast_in_dim(x, (2, 1, 3), (1, 2)), normal(1, 3))
add("broadcast_in_dim", lambda x: lax.broadcast_in_dim(x, (2, 2, 3), (1, 2)), normal(1, 3))
add("transpose", lambda x: lax.transpose(x, (1, 2, 0)), normal(2, 2, 2))
add("squeeze", lambda x: lax.squeeze(x, (1,)), normal(2, 1, 2))
add("rev", lambda x: lax.rev(x, (0,)), normal(3, 3))
for _config in (((1, 2, 0), (0, 1, 1)), ((-1, 0, 0), (1, -1, 2)), ((0, 1, 0), (1, 0, 0))):
    add("pad", lambda x, v, c=_config: lax.pad(x, v, c), normal(3, 3), normal())
add("concatenate", lambda x, y, z: lax.concatenate([x, y, z], 1), normal(2, 2), normal(2, 3, seed=1),
    normal(2, 1, seed=2))
add("split", lambda x: lax.split(x, (1, 2), 0), normal(3, 3))
add("slice", lambda x: lax.slice(x, (1, 0), (6, 3), (2, 1)), normal(7, 3))
add("slice", lambda x: lax.slice(x, (1,), (4,)), normal(5))
add("slice", lambda x: lax.slice(x, (2,), (2,), (2,)), normal(4))
if hasattr(lax, "tile"):
    add("tile", lambda x: lax.tile(x, (2, 3)), normal(2, 2))
if hasattr(lax, "stack"):
    add("stack", lambda x, y: lax.stack([x, y], 1), normal(2, 2), normal(2, 2, seed=1))
    add("unstack", lambda x: lax.unstack(x, 1), normal(2, 3))
add("copy", lambda x: bind("copy")(x), normal(3))

# ---------------------------------------------------------------- reductions, sorting, sums along an axis

add("reduce_sum", lambda x: lax.reduce_sum(x, (0, 2)), normal(3, 3, 3))
add("reduce_max reduce_min", lambda x: (lax.reduce_max(x, (1,)), lax.reduce_min(x, (1,))), distinct(3, 3))
add("reduce_max reduce_min", lambda x: (lax.reduce_max(x, (1,)), lax.reduce_min(x, (1,))),
    np.float32([[1, 3, 3], [2, 2, 5]]))
add("reduce_prod", lambda x: lax.reduce_prod(x, (0,)), away(3, 3))
add("reduce_prod", lambda x: lax.reduce_prod(x, (0, 2)), away(2, 3, 2).at[0, 1, 1].set(0))
add("reduce", lambda x: lax.reduce(x, np.ones((), x.dtype), lambda a, b: a * b + 0 * a, (1,)), away(2, 5))
add("reduce", lambda x, v: lax.reduce(x, v, jnp.logaddexp, (0, 2)), normal(2, 2, 3), normal())
add("reduce", lambda a, b: lax.reduce(
    (a, b), (np.ones((), a.dtype), np.zeros((), a.dtype)), lambda f, t: (f[0] * t[0], t[1] + t[0] * f[1]), (0,)),
    away(5), normal(5, seed=1))
for _reverse in (False, True):
    for _name in ("cumsum", "cumlogsumexp"):
        add(_name, partial(of(_name), axis=1, reverse=_reverse), normal(3, 3))
    add("cumprod", partial(lax.cumprod, axis=1, reverse=_reverse), away(3, 3))
    add("cumprod", partial(lax.cumprod, axis=0, reverse=_reverse), away(4).at[1].set(0))
    add("cummax cummin", lambda x, r=_reverse: (lax.cummax(x, 1, r), lax.cummin(x, 1, r)), distinct(3, 4))
add("cumlogsumexp", partial(lax.cumlogsumexp, axis=0), np.float32([-np.inf, 0.5, 1.0]))
add("sort", lambda x, y: lax.sort((x, y), dimension=0, num_keys=1), distinct(4, 4), normal(4, 4, seed=1))
add("top_k", lambda x: lax.top_k(x, 2)[0], distinct(3, 4))
add("approx_top_k", lambda x: lax.approx_max_k(x, 2, reduction_dimension=-1)[0], distinct(3, 4))

# ---------------------------------------------------------------- windows

SUM = partial(lax.reduce_window, init_value=np.float32(0), computation=lax.add)
LAYOUTS = [
    ((5, 4), (2, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), (1, 1)),
    ((4, 5), (3, 2), (2, 1), ((1, 2), (0, 1)), (1, 1), (1, 1)),
    ((5,), (3,), (2,), ((2, 3),), (3,), (2,)),
    ((6,), (2,), (1,), ((-1, 1),), (2,), (3,)),
]
KEYS = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
for _shape, *_layout in LAYOUTS:
    _params = dict(zip(KEYS, _layout, strict=True))
    add("reduce_window_sum", lambda x, p=_params: SUM(x, **p), normal(*_shape))
    for _name, _reducer, _worst in (("max", lax.max, -np.inf), ("min", lax.min, np.inf)):
        add(f"reduce_window_{_name}", lambda x, p=_params, r=_reducer, w=_worst: jnp.nan_to_num(
            lax.reduce_window(x, np.float32(w), r, **p), posinf=0, neginf=0), distinct(*_shape))
    add("reduce_window", lambda x, p=_params: lax.reduce_window(x, np.ones((), x.dtype), lax.mul, **p), away(*_shape))
add("reduce_window_max", lambda x: lax.reduce_window(x, np.float32(-np.inf), lax.max, (2,), (1,), "VALID"),
    np.float32([1, 2, 2, 0, 3]))
add("reduce_window_max", lambda x: lax.reduce_window(x, np.float32(-np.inf), lax.max, (2,), (1,), "VALID", (1,), (2,)),
    np.float32([1, 2, 1, 0, 3]))
add("reduce_window", lambda x, v: lax.reduce_window(x, v, jnp.logaddexp, (3,), (2,), ((1, 1),)), normal(6), normal())
add("reduce_window", lambda x: lax.reduce_window(
    x, np.full((), -np.inf, x.dtype), lambda a, b: b + jnp.log(jnp.exp(a - b) + 1), (3,), (2,), ((2, 2),)), normal(6))
add("reduce_window", lambda a, b: lax.reduce_window(
    (a, b), (np.ones((), a.dtype), np.zeros((), a.dtype)), lambda f, t: (f[0] * t[0], t[1] + t[0] * f[1]), (3,), (2,),
    "VALID"), away(6), normal(6, seed=1))
add("reduce_window", lambda x: lax.reduce_window(  # from a start of its own, so that it is no reduce_window_max
    x, np.float32(0.5), lambda a, b: lax.max(a, b), (2,), (1,), "VALID"), np.float32([1, 2, 2, 0, 3]))
add("reduce_window", lambda x: lax.reduce_window(
    x, np.ones((), x.dtype), lax.mul, (5,), (1,), "VALID", window_dilation=(2,)), away(12))
POOL = {"window_dimensions": (2, 2), "window_strides": (2, 1), "padding": ((1, 0), (0, 0))}
for _prefer in (lax.ge_p, lax.le_p):
    add("select_and_scatter_add", lambda s, x, p=_prefer: lax.select_and_scatter_add_p.bind(
        s, x, select_prim=p, **POOL), normal(2, 3), distinct(4, 4))
    add("select_and_gather_add", lambda t, x, p=_prefer: lax.select_and_gather_add_p.bind(
        t, x, select_prim=p, base_dilation=(1, 1), window_dilation=(1, 1), **POOL), normal(4, 4), distinct(4, 4))

# ---------------------------------------------------------------- indexing

add("gather", lambda x: x[jnp.array([2, 0, 2])], normal(3, 3))
add("gather", lambda x: x.at[jnp.array([2, 7, -9])].get(mode="clip"), normal(3, 3))
add("gather", lambda x: x.at[jnp.array([2, 7, 1])].get(mode="fill", fill_value=1), normal(3, 3))
add("gather", lambda x: x.at[jnp.array([2, 0, 1])].get(unique_indices=True), normal(3, 3))
add("gather", lambda x: jax.vmap(lambda r, i: lax.dynamic_slice(r, (i,), (2,)))(x, jnp.array([0, 1, 1])), normal(3, 4))
add("gather", lambda x: jnp.take_along_axis(x, jnp.array([[0, 0], [2, 1]]), 1), normal(2, 3))
add("dynamic_slice", lambda x: lax.dynamic_slice(x, (jnp.int32(1), jnp.int32(7)), (2, 2)), normal(4, 4))
add("dynamic_slice", lambda x, i: lax.dynamic_slice(x, (i,), (2,), allow_negative_indices=False),
    normal(5), np.int32(-1))
add("dynamic_update_slice", lambda x, u: lax.dynamic_update_slice(x, u, (jnp.int32(1), jnp.int32(7))),
    normal(4, 4), normal(2, 2, seed=1))
add("dynamic_update_slice", lambda x, u, i: lax.dynamic_update_slice(x, u, (i,), allow_negative_indices=False),
    normal(5), normal(2, seed=1), np.int32(-1))
REPEATED, ONCE = jnp.array([3, 1, 3, 9, 0, 3]), jnp.array([3, 1, 9, 0])
for _name, _method in (("add", "add"), ("sub", "subtract"), ("mul", "mul"), ("min", "min"), ("max", "max")):
    for _mode in ("clip", "drop"):
        add(f"scatter-{_name}", lambda x, u, m=_method, o=_mode: getattr(x.at[REPEATED], m)(u, mode=o),
            distinct(5, 2) + np.float32(0.1), distinct(6, 2, seed=1))
    add(f"scatter-{_name}", lambda x, u, m=_method: getattr(x.at[ONCE], m)(u, mode="drop", unique_indices=True),
        distinct(5, 2) + np.float32(0.1), distinct(4, 2, seed=1))
add("scatter-mul", lambda x, u: x.at[REPEATED].mul(u, mode="drop"), away(5), away(6, seed=1).at[0].set(0))
add("scatter-mul", lambda x, u: x.at[jnp.array([0, 1, 0, 1])].mul(u), away(3), away(4, seed=1))
add("scatter-mul", lambda x, u: x.at[jnp.array([9, 9, 9, 0])].mul(u, mode="drop"), away(3),
    np.float32([1e20, 1e20, 1e20, 2]))
for _name in ("scatter-min", "scatter-max"):
    add(_name, lambda x, u, m=_name[-3:]: getattr(x.at[jnp.array([1, 1, 2, 2, 3])], m)(u),
        np.float32([1, 2, 3, 4]), np.float32([2, 2, 3, 7, 4]))
add("scatter", lambda x, u: x.at[REPEATED].set(u, mode="drop"), normal(5, 2), normal(6, 2, seed=1))
add("scatter", lambda x, u: x.at[ONCE].set(u, mode="drop", unique_indices=True), normal(5, 2), normal(4, 2, seed=1))
add("scatter", lambda x, u: lax.scatter(x, jnp.array([[1], [2], [4], [2]]), u, lax.ScatterDimensionNumbers(
    (1, 2), (), (0,)), mode="clip"), normal(6, 2), normal(4, 3, 2, seed=1))
for _index, _promise in ((REPEATED, False), (ONCE, True)):
    add("scatter", lambda x, i=_index, p=_promise: x.at[i].set(2, mode="drop", unique_indices=p), normal(5, 2))
    add("scatter", lambda u, i=_index, p=_promise: jnp.ones((5, 2), u.dtype).at[i].set(
        u, mode="drop", unique_indices=p), normal(len(_index), 2))
TWICE = jnp.array([[1, 1]])
for _method in ("set", "mul"):
    add("scatter" if _method == "set" else "scatter-mul", lambda x, u, m=_method: getattr(x.at[TWICE], m)(u),
        away(3), away(1, 2, seed=1))
add("scatter", lambda x: x.at[ONCE].apply(jnp.sin, mode="drop", unique_indices=True), normal(5))
add("scatter", lambda x: x.at[REPEATED].apply(jnp.sin, mode="drop"), normal(5))
add("scatter", lambda x: x.at[ONCE].apply(jnp.sign, mode="drop"), normal(5))
