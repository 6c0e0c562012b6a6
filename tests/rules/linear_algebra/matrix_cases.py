"""Random matrices for the tests of linear algebra: well conditioned, with values that lie apart."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..checking import check_numeric, check_vjp, random_like

DTYPES = ("float64", "complex128")
SHAPES = [(0, 0), (1, 1), (3, 3), (5, 5), (1, 3), (3, 1), (5, 2), (2, 5)]
CASES = [(shape, "float64") for shape in SHAPES]
CASES += [(shape, "complex128") for shape in [(2, 2), (4, 2), (2, 4)]]


def normal(*shape: int, dtype: str = "float64", seed: int = 0) -> Any:
    return random_like(np.zeros(shape, dtype), seed)


def orthonormal(rows: int, columns: int, dtype: str = "float64", seed: int = 0) -> Any:
    return jnp.linalg.qr(normal(rows, columns, dtype=dtype, seed=seed))[0]


def with_values(values: Any, rows: int, columns: int, dtype: str = "float64", seed: int = 0) -> Any:
    """A matrix with these singular values."""
    k = min(rows, columns)
    u, v = orthonormal(rows, k, dtype, seed), orthonormal(columns, k, dtype, seed + 1)
    return (u * jnp.asarray(values, dtype)[None]) @ v.conj().T


def apart(rows: int, columns: int, dtype: str = "float64", seed: int = 0) -> Any:
    """A matrix with the singular values 1, 2, 3 ..."""
    return with_values(np.arange(1.0, min(rows, columns) + 1), rows, columns, dtype, seed)


def hermitian(values: Sequence[float], dtype: str = "float64", seed: int = 0) -> Any:
    """A hermitian matrix with these eigenvalues."""
    n = len(values)
    v = orthonormal(n, n, dtype, seed)
    return (v * jnp.asarray(values, dtype)[None]) @ v.conj().T


def positive(n: int, dtype: str = "float64", seed: int = 0) -> Any:
    return hermitian(np.arange(1.0, n + 1), dtype, seed)


def stack(make: Callable, *args: Any, **kwargs: Any) -> Any:
    """Two different matrices."""
    return jnp.stack([make(*args, **kwargs, seed=seed) for seed in (3, 8)])


def check_first(fun: Callable, *args: Any, tolerance: float = 10, **kwargs: Any) -> None:
    """`check_vjp` to first order, compiled; in float32 too for matrices of three rows and columns."""
    dtypes = ("float64", "float32") if args[0].shape[-2:] == (3, 3) else ("float64",)
    check_vjp(fun, *args, dtypes=dtypes, order=1, batched=False, tolerance=tolerance, **kwargs)


def check_deep(fun: Callable, *args: Any, tolerance: float = 30, batched: bool = True) -> None:
    """The VJP of the VJP, and the VJP under vmap; a second derivative divides by differences of values once more."""
    check_vjp(fun, *args, dtypes=(), batched=batched, tolerance=tolerance)


def check_numeric_parts(fun: Callable, *args: Any, **kwargs: Any) -> None:
    """`check_numeric` of a function of real and complex arrays, by their real and imaginary parts."""

    def of_parts(*parts):
        given = iter(parts)
        operands = [lax.complex(next(given), next(given)) if jnp.iscomplexobj(x) else next(given) for x in args]
        outputs = [y for y in jax.tree.leaves(fun(*operands)) if jnp.issubdtype(y.dtype, np.inexact)]
        return [part for y in outputs for part in split(y)]

    def split(x):
        return [lax.real(x), lax.imag(x)] if jnp.iscomplexobj(x) else [x]

    check_numeric(of_parts, *(part for x in args for part in split(x)), **kwargs)
