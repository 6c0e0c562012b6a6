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


def assert_alike(got: Any, want: Any, what: str = "") -> None:
    """The same structure, and leaf by leaf the same shape and dtype."""
    assert jax.tree.structure(got) == jax.tree.structure(want), f"{what}: {got} against {want}"
    for (path, g), w in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        where = f"{what}{jax.tree_util.keystr(path)}"
        assert np.shape(g) == np.shape(w), f"{where}: shape {np.shape(g)} against {np.shape(w)}"
        assert g.dtype == w.dtype, f"{where}: dtype {g.dtype} against {w.dtype}"


def assert_close(got: Any, want: Any, tolerance: float, what: str = "") -> None:
    """Leaf by leaf: alike, and |got - want| <= tolerance * |want| in the 2-norm."""
    assert_alike(got, want, what)
    for (path, g), w in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        if g.dtype == FLOAT0:
            continue
        g, w = (np.asarray(a).astype(np.complex128).ravel() for a in (g, w))
        same = (np.isnan(g) & np.isnan(w)) | (g == w)  # inf equal to inf, NaN where NaN is expected
        with np.errstate(invalid="ignore"):
            error = np.linalg.norm(np.where(same, 0, g - w))
        scale = np.linalg.norm(np.where(np.isfinite(w), w, 0))
        where = f"{what}{jax.tree_util.keystr(path)}"
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


Pair = tuple[str, float, Any, Any]  # what, tolerance, ours, JAX's


def _assert_pairs(build: Callable[..., list[Pair]], args: Sequence[Any], jit: bool) -> None:
    """Assert that the pairs which `build(*args)` makes are close.

    All are compiled as one program: a test's time goes into compiling, and one program takes far less of it than the
    same operations one by one. float0 leaves, which no program returns, are compared while it is traced.
    """
    labels: list[tuple[str, float]] = []

    def arrays(*args):
        pairs = build(*args)
        labels[:] = [(what, tolerance) for what, tolerance, _, _ in pairs]
        for what, _, got, want in pairs:
            assert_alike(got, want, what)
        return [tuple(_without_float0(tree) for tree in pair[2:]) for pair in pairs]

    found = (jax.jit(arrays) if jit else arrays)(*args)
    for (what, tolerance), (got, want) in zip(labels, found, strict=True):
        assert_close(got, want, tolerance, what)


def _without_float0(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: None if leaf.dtype == FLOAT0 else leaf, tree)


def check_vjp(
    fun: Callable,
    *args: Any,
    dtypes: Sequence[str] = ("float64", "float32"),
    order: int = 2,
    batched: bool = True,
    tolerance: float = 1.0,
    seed: int = 0,
    jit: bool = True,
) -> None:
    """`fb.vjp(fun, *args)` equals `jax.vjp`'s, in each precision, to `order`, and under vmap. Needs 64-bit mode.

    `tolerance` multiplies the table's; say why where it is not 1.
    """
    exact = tolerance * TOLERANCE["float64"]

    def build(*args):
        pairs = []
        for dtype in dtypes:
            cast, bound = _cast(args, dtype), tolerance * TOLERANCE[dtype]
            pairs.append((f"{dtype} value", bound, fb.vjp(fun, *cast)[0], jax.vjp(fun, *cast)[0]))
            pairs.append((f"{dtype} vjp", bound, *(_pull(lib.vjp, fun, cast, seed) for lib in (fb, jax))))
        if order >= 2:
            pairs.append(("second order", 10 * exact, *(_second(lib.vjp, fun, args, seed) for lib in (fb, jax))))
        return pairs + (_batched_pairs(fun, args, exact, seed) if batched else [])

    _assert_pairs(build, _cast(args, "float64"), jit)


def _second(transform: Callable, fun: Callable, args: Sequence[Any], seed: int) -> Any:
    """The VJP of the VJP, with respect to the operands (the float leaves of the first order)."""
    return _pull(transform, lambda *xs: _float_leaves(_pull(transform, fun, xs, seed)), args, seed + 7)


def _float_leaves(tree: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree) if leaf.dtype != FLOAT0]


def _batched_pairs(fun: Callable, args: Sequence[Any], bound: float, seed: int) -> list[Pair]:
    """vmap of our gradient, each operand batched or not, against a loop over JAX's."""
    size, pairs = 2, []
    for axes in itertools.product((0, None), repeat=len(args)):
        if (
            all(axis is None for axis in axes)
            or len(args) > 3
            and sum(axis == 0 for axis in axes) not in (1, len(args))
        ):
            continue
        stacked = [_stack(x, size) if axis == 0 else x for x, axis in zip(args, axes, strict=True)]

        def leaves(transform, *xs):
            return _float_leaves(_pull(transform, fun, xs, seed))

        got = jax.vmap(partial(leaves, fb.vjp), in_axes=axes)(*stacked)
        rows = [
            leaves(jax.vjp, *(x[i] if axis == 0 else x for x, axis in zip(stacked, axes, strict=True)))
            for i in range(size)
        ]
        pairs.append((f"vmap {axes}", bound, got, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)))
    return pairs


def _stack(x: Any, size: int) -> Any:
    """Copies of an operand that differ a little where it is floating."""
    if not jnp.issubdtype(x.dtype, np.inexact):
        return jnp.stack([x] * size)
    return jnp.stack([x * jnp.asarray(1 + 0.01 * i, x.dtype) for i in range(size)])


def check_equal(fun: Callable, plain: Callable, *args: Any, batched: bool = True) -> None:
    """`fb.vjp` of `fun` equals `jax.vjp` of `plain`, the same function in words that JAX differentiates. 64-bit mode.

    Values and pullbacks, to second order, and with the first operand batched.
    """
    bound = TOLERANCE["float64"]
    pulls = (partial(_pull, fb.vjp, fun, seed=0), partial(_pull, jax.vjp, plain, seed=0))

    def build(*args):
        pairs = [
            ("value", bound, fb.vjp(fun, *args)[0], plain(*args)),
            ("vjp", bound, *(pull(args) for pull in pulls)),
            ("second order", 10 * bound, _second(fb.vjp, fun, args, 0), _second(jax.vjp, plain, args, 0)),
        ]
        if batched:
            stacked = _stack(args[0], 2)
            found = (jax.vmap(lambda x, pull=pull: _float_leaves(pull([x, *args[1:]])))(stacked) for pull in pulls)
            pairs.append(("vmap", bound, *found))
        return pairs

    _assert_pairs(build, _cast(args, "float64"), jit=True)


def check_agreement(fun: Callable, *args: Any, tolerance: float = 1e-12) -> None:
    """Values and pullbacks of a jitted run, ours against JAX's, at the operands as they are."""

    def run(lib):
        def both(*args):
            value, pullback = lib.vjp(fun, *args)
            return value, pullback(random_cotangent(value, 1))

        return jax.jit(both)(*args)

    args = [jnp.asarray(x) for x in args]
    assert_close(run(fb), run(jax), tolerance)


def check_numeric(
    fun: Callable, *args: Any, tolerance: float = 1e-7, seed: int = 0, directions: int = 3, jit: bool = True
) -> None:
    """`fb.vjp` against central differences in float64 along Gaussian directions. Real operands; 64-bit mode."""
    args = _cast(args, "float64")

    def weighted(*xs):
        """The cotangent times the outputs, a scalar."""
        leaves = jax.tree.leaves(fun(*xs))
        pairs = zip(leaves, jax.tree.leaves(random_cotangent(leaves, seed)), strict=True)
        return sum(jnp.sum(y * c) for y, c in pairs if c.dtype != FLOAT0)

    floating = [random_like(x).dtype != FLOAT0 for x in args]

    def pulled(*xs):
        value, pullback = fb.vjp(fun, *xs)
        leaves, structure = jax.tree.flatten(value)
        found = pullback(structure.unflatten(jax.tree.leaves(random_cotangent(leaves, seed))))
        return [ct for ct, on in zip(found, floating, strict=True) if on]

    gradient = [np.asarray(g) for g in (jax.jit(pulled) if jit else pulled)(*args)]
    run = jax.jit(weighted) if jit else weighted
    at = [np.asarray(x) for x in args]  # no program is compiled for NumPy's arithmetic
    for k in range(directions):
        direction = [np.asarray(random_like(x, seed + 100 + 10 * k + i)) for i, x in enumerate(args)]
        along = [d for d, on in zip(direction, floating, strict=True) if on]
        terms = [float(np.sum(g * d)) for g, d in zip(gradient, along, strict=True)]
        got = sum(terms)
        numeric = _richardson(lambda xs: float(run(*map(jnp.asarray, xs))), at, direction, floating)
        scale = max(abs(numeric), sum(map(abs, terms)) * 1e-2, 1e-30)
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
