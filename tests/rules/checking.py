"""What every rule's test asks: values against `jax.vjp` or differences, with random cotangents, relative to scale.

`check_vjp` runs one case in float64 and in lower precision, to second order, and under vmap with each operand
batched or not. `check_numeric` is for the cases that JAX refuses. Both raise AssertionError with the leaf and figures.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnbackprop as fb

FLOAT0 = jax.dtypes.float0
# Relative tolerance by precision: some tens of unit roundoffs; never an absolute one.
TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "bfloat16": 0.05, "float16": 0.01}


def random_like(x: Any, seed: int = 0) -> Any:
    """A normal array like `x`; complex ones in both parts; float0 zeros for integers."""
    rng = np.random.default_rng(seed)
    dtype = jnp.result_type(x)
    if jnp.issubdtype(dtype, np.complexfloating):
        return jnp.asarray(rng.normal(size=np.shape(x)) + 1j * rng.normal(size=np.shape(x)), dtype)
    if not jnp.issubdtype(dtype, np.floating):
        return np.zeros(np.shape(x), FLOAT0)
    return jnp.asarray(rng.normal(size=np.shape(x)), dtype)


def random_cotangent(tree: Any, seed: int = 0) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten([random_like(leaf, seed + i) for i, leaf in enumerate(leaves)])


def assert_close(got: Any, want: Any, tolerance: float, what: str = "") -> None:
    """Leaf by leaf: same structure, shape and dtype, and |got - want| <= tolerance * |want| in the 2-norm."""
    got_leaves, want_leaves = jax.tree.leaves_with_path(got), jax.tree.leaves(want)
    assert jax.tree.structure(got) == jax.tree.structure(want), f"{what}: {got} against {want}"
    for (path, g), w in zip(got_leaves, want_leaves, strict=True):
        where = f"{what}{jax.tree_util.keystr(path)}"
        assert np.shape(g) == np.shape(w), f"{where}: shape {np.shape(g)} against {np.shape(w)}"
        assert g.dtype == w.dtype, f"{where}: dtype {g.dtype} against {w.dtype}"
        if g.dtype == FLOAT0:
            continue
        g, w = (np.asarray(a).astype(np.complex128).ravel() for a in (g, w))
        same = (np.isnan(g) & np.isnan(w)) | (g == w)  # inf equal to inf, NaN where NaN is expected
        with np.errstate(invalid="ignore"):
            error = np.linalg.norm(np.where(same, 0, g - w))
        scale = np.linalg.norm(np.where(np.isfinite(w), w, 0))
        assert error <= tolerance * scale, f"{where}: relative error {error / max(scale, 1e-300):.3g}\n{g}\n{w}"


def _cast(args: Sequence[Any], dtype: str) -> list[Any]:
    """Floating arguments in another precision; complex ones in the complex dtype of that precision."""
    complex_dtype = {"float64": "complex128", "float32": "complex64"}.get(dtype)
    out = []
    for x in args:
        if jnp.issubdtype(jnp.result_type(x), np.complexfloating):
            out.append(jnp.asarray(x, complex_dtype))
        elif jnp.issubdtype(jnp.result_type(x), np.floating):
            out.append(jnp.asarray(x, dtype))
        else:
            out.append(jnp.asarray(x))
    return out


def _pull(transform: Callable, fun: Callable, args: Sequence[Any], seed: int) -> Any:
    value, pullback = transform(fun, *args)
    return pullback(random_cotangent(value, seed))


def check_vjp(
    fun: Callable,
    *args: Any,
    dtypes: Sequence[str] = ("float64", "float32"),
    order: int = 2,
    batched: bool = True,
    tolerance: float = 1.0,
    seed: int = 0,
    jit: bool = False,
) -> None:
    """`fb.vjp(fun, *args)` equals `jax.vjp`'s, in each precision, to `order`, and under vmap. Needs 64-bit mode.

    `tolerance` multiplies the table's; say why where it is not 1. `jit` compiles each side as a whole, which is
    faster where there are hundreds of equations; the operands are then all floating.
    """
    run = jax.jit if jit else _eagerly
    ours, theirs = (run(partial(_pull, transform, fun, seed=seed)) for transform in (fb.vjp, jax.vjp))
    for dtype in dtypes:
        cast = _cast(args, dtype)
        bound = tolerance * TOLERANCE[dtype]
        assert_close(fb.vjp(fun, *cast)[0], jax.vjp(fun, *cast)[0], bound, f"{dtype} value")
        assert_close(ours(cast), theirs(cast), bound, f"{dtype} vjp")
    exact = _cast(args, "float64")
    bound = tolerance * TOLERANCE["float64"]
    if order >= 2:
        second, their_second = (run(partial(_second, transform, fun, seed=seed)) for transform in (fb.vjp, jax.vjp))
        assert_close(second(exact), their_second(exact), 10 * bound, "second order")
    if batched:
        check_batched(fun, exact, bound, seed, run)


def _eagerly(fun: Callable) -> Callable:
    return fun


def _second(transform: Callable, fun: Callable, args: Sequence[Any], seed: int) -> Any:
    """The VJP of the VJP, with respect to the operands (the float leaves of the first order)."""

    def first(*xs):
        return [leaf for leaf in _pull(transform, fun, xs, seed) if leaf.dtype != FLOAT0]

    return _pull(transform, first, args, seed + 7)


def check_batched(fun: Callable, args: Sequence[Any], bound: float, seed: int = 0, run: Callable = _eagerly) -> None:
    """vmap of our gradient, each operand batched or not, against a loop over JAX's."""
    size = 2
    for axes in itertools.product((0, None), repeat=len(args)):
        if (
            all(axis is None for axis in axes)
            or len(args) > 3
            and sum(axis == 0 for axis in axes) not in (1, len(args))
        ):
            continue
        stacked = [_stack(x, size) if axis == 0 else x for x, axis in zip(args, axes, strict=True)]

        def ours(*xs):
            return [leaf for leaf in _pull(fb.vjp, fun, xs, seed) if leaf.dtype != FLOAT0]

        def theirs(*xs):
            return [leaf for leaf in _pull(jax.vjp, fun, xs, seed) if leaf.dtype != FLOAT0]

        got = run(jax.vmap(ours, in_axes=axes))(*stacked)
        theirs = run(theirs)
        rows = [theirs(*(x[i] if axis == 0 else x for x, axis in zip(stacked, axes, strict=True))) for i in range(size)]
        want = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
        assert_close(got, want, bound, f"vmap {axes}")


def _stack(x: Any, size: int) -> Any:
    """Copies of an operand that differ a little where it is floating."""
    if not jnp.issubdtype(x.dtype, np.inexact):
        return jnp.stack([x] * size)
    return jnp.stack([x * jnp.asarray(1 + 0.01 * i, x.dtype) for i in range(size)])


def check_equal(fun: Callable, plain: Callable, *args: Any, batched: bool = True) -> None:
    """`fb.vjp` of `fun` equals `jax.vjp` of `plain`, the same function in words that JAX differentiates. 64-bit mode.

    Values and pullbacks, jitted and not, to second order, and with the first operand batched.
    """
    args = _cast(args, "float64")
    pulls = (partial(_pull, fb.vjp, fun, seed=0), partial(_pull, jax.vjp, plain, seed=0))
    bound = TOLERANCE["float64"]
    assert_close(fb.vjp(fun, *args)[0], plain(*args), bound, "value")
    assert_close(pulls[0](args), pulls[1](args), bound, "vjp")
    assert_close(jax.jit(pulls[0])(args), pulls[1](args), bound, "jitted vjp")
    assert_close(_second(fb.vjp, fun, args, 0), _second(jax.vjp, plain, args, 0), 10 * bound, "second order")
    if batched:
        xs = _stack(args[0], 2)
        ours, theirs = (jax.vmap(lambda x, pull=pull: pull([x, *args[1:]]))(xs) for pull in pulls)
        assert_close(ours, theirs, bound, "vmap")


def check_numeric(
    fun: Callable, *args: Any, tolerance: float = 1e-7, seed: int = 0, directions: int = 3, jit: bool = False
) -> None:
    """`fb.vjp` against central differences in float64 along Gaussian directions. Real operands; 64-bit mode.

    `jit`: compile the function and its pullback, for long ones; the operands are then all floating.
    """
    args = _cast(args, "float64")
    run = jax.jit if jit else _eagerly
    gradient = run(lambda *xs: _pull(fb.vjp, fun, xs, seed))(*args)
    fun = run(fun)
    ct = random_cotangent(fun(*args), seed)

    def loss(xs):
        pairs = zip(jax.tree.leaves(fun(*xs)), jax.tree.leaves(ct), strict=True)
        return sum(float(jnp.sum(y * c)) for y, c in pairs if c.dtype != FLOAT0)

    for k in range(directions):
        direction = [random_like(x, seed + 100 + 10 * k + i) for i, x in enumerate(args)]
        floating = [d.dtype != FLOAT0 for d in direction]
        pairs = zip(gradient, direction, floating, strict=True)
        want_terms = [float(jnp.sum(g * d)) for g, d, on in pairs if on]
        got = sum(want_terms)
        numeric = _richardson(loss, args, direction, floating)
        scale = max(abs(numeric), sum(map(abs, want_terms)) * 1e-2, 1e-30)
        assert abs(got - numeric) <= tolerance * scale, f"direction {k}: vjp {got!r}, differences {numeric!r}"


def _richardson(loss: Callable, args: Sequence[Any], direction: Sequence[Any], floating: Sequence[bool]) -> float:
    """Central differences at h and h/2, extrapolated: error O(h⁴)."""

    def central(h):
        moved = [
            [x + s * h * d if on else x for x, d, on in zip(args, direction, floating, strict=True)] for s in (1, -1)
        ]
        return (loss(moved[0]) - loss(moved[1])) / (2 * h)

    h = 2e-4
    return (4 * central(h / 2) - central(h)) / 3
