"""Operands of programs, off kinks and poles. All float32 or complex64 unless asked otherwise."""

from typing import Any

import jax.numpy as jnp
import numpy as np


def normal(*shape: int, dtype: Any = "float32", seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    x = random.normal(size=shape)
    if jnp.issubdtype(dtype, np.complexfloating):
        x = x + 1j * random.normal(size=shape)
    return jnp.asarray(x, dtype)


def away(*shape: int, seed: int = 0, dtype: Any = "float32") -> Any:
    """Numbers of both signs, from 0.4 to 1.6 in size."""
    random = np.random.default_rng(seed)
    return jnp.asarray(random.choice([-1, 1], shape) * random.uniform(0.4, 1.6, shape), dtype)


def positive(*shape: int, seed: int = 0, low: float = 0.4, high: float = 1.6) -> Any:
    return jnp.asarray(np.random.default_rng(seed).uniform(low, high, shape), "float32")


def inside(*shape: int, seed: int = 0) -> Any:
    """Numbers of both signs, from 0.2 to 0.8 in size."""
    random = np.random.default_rng(seed)
    return jnp.asarray(random.choice([-1, 1], shape) * random.uniform(0.2, 0.8, shape), "float32")


def distinct(*shape: int, seed: int = 0) -> Any:
    """Numbers at least 0.3 apart, none of them near 0."""
    size = int(np.prod(shape))
    return jnp.asarray((np.random.default_rng(seed).permutation(size) - size / 2 + 0.4).reshape(shape) * 0.5, "float32")


def complex_normal(*shape: int, seed: int = 0) -> Any:
    return normal(*shape, dtype="complex64", seed=seed)


def matrix(rows: int, columns: int, seed: int = 0, dtype: Any = "float32") -> Any:
    """A matrix with the singular values 1, 2, 3 ..."""
    k = min(rows, columns)
    wide = "complex128" if jnp.issubdtype(dtype, np.complexfloating) else "float64"
    random = np.random.default_rng(seed)

    def orthonormal(n):
        x = random.normal(size=(n, k)) + (1j * random.normal(size=(n, k)) if wide == "complex128" else 0)
        return np.linalg.qr(x)[0]

    return jnp.asarray((orthonormal(rows) * np.arange(1.0, k + 1)) @ orthonormal(columns).conj().T, dtype)


def definite(n: int, seed: int = 0, dtype: Any = "float32", values: Any = None) -> Any:
    """A hermitian matrix with the eigenvalues 1, 2, 3 ..."""
    random = np.random.default_rng(seed)
    imaginary = 1j * random.normal(size=(n, n)) if jnp.issubdtype(dtype, np.complexfloating) else 0
    q = np.linalg.qr(random.normal(size=(n, n)) + imaginary)[0]
    return jnp.asarray((q * (np.arange(1.0, n + 1) if values is None else np.array(values))) @ q.conj().T, dtype)


def strong(n: int, seed: int = 0, dtype: Any = "float32") -> Any:
    """A matrix with a strong diagonal."""
    return normal(n, n, seed=seed, dtype=dtype) + jnp.asarray(3 * np.eye(n), dtype)


def rotating(n: int, dtype: Any = "float32", seed: int = 0) -> Any:
    """A general matrix with eigenvalues apart, for n > 2 one conjugate pair among them."""
    blocks = np.diag(np.arange(1.0, n + 1))
    if n > 2:
        blocks[0, 1], blocks[1, 0], blocks[1, 1] = 3.0, -1.0, 1.0
    turn = np.eye(n) + 0.2 * np.asarray(normal(n, n, dtype=dtype, seed=seed))
    return jnp.asarray(turn @ blocks @ np.linalg.inv(turn), dtype)
