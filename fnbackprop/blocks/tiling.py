"""What blocks that work tile by tile share: sizes of tiles, and products of tiles."""

import string
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from ..jaxprs.avals import aval_of, explicit_sharding


def even_size(size: int, most: int) -> int:
    """The size of equal tiles of at most `most` each that cover a size with as little overlap as possible."""
    return -(-size // -(-size // most)) if size else 0


def may_be_divided(*arrays: jax.Array) -> bool:
    """Whether arrays may lie on several devices, divided along the axes of a batch: these are then not cut."""
    return jax.device_count() > 1 or any(explicit_sharding(aval_of(x)) is not None for x in arrays)


def product(equation: str, x: jax.Array, y: jax.Array, dtype: Any) -> jax.Array:
    """An einsum of two arrays summed in `dtype`; in low precision, weights are rounded to the dtype of what they are
    multiplied with. So that XLA's CPU compiler copies fewer operands, axes of size 1 are left out, and several axes are
    summed in the order in which they lie in x (an einsum takes that of the alphabet).
    """
    names = "".join(dict.fromkeys(filter(str.isalpha, equation)))
    equation = equation.translate(str.maketrans(names, string.ascii_lowercase[: len(names)]))
    narrow = min(x.dtype, y.dtype, key=lambda dtype: dtype.itemsize)
    x, y = x.astype(narrow), y.astype(narrow)
    terms, out = equation.split("->")
    sizes = dict(zip(terms.replace(",", ""), (*x.shape, *y.shape), strict=True))
    single = [letter for letter, size in sizes.items() if size == 1]
    x, y = (
        lax.squeeze(a, [term.index(letter) for letter in single if letter in term])
        for a, term in zip((x, y), terms.split(","), strict=True)
    )
    short = "".join(letter for letter in equation if letter not in single)
    z = jnp.einsum(short, x, y, preferred_element_type=dtype, out_sharding=_out_sharding(short, x, y))
    return lax.expand_dims(z, [i for i, letter in enumerate(out) if letter in single])


def _out_sharding(equation: str, *operands: jax.Array) -> Any:
    """On a mesh with explicit axes: each axis of a product is divided as it is in an operand."""
    terms, out = equation.split("->")
    divided, mesh = {}, None
    for letters, x in zip(terms.split(","), operands, strict=True):
        if (sharding := explicit_sharding(aval_of(x))) is not None:
            mesh, axes = sharding.mesh, sharding.spec.partitions
            divided |= {letter: axis for letter, axis in zip(letters, axes, strict=False) if axis is not None}
    return None if mesh is None else NamedSharding(mesh, PartitionSpec(*(divided.get(letter) for letter in out)))
