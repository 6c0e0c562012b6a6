"""The filter gradient of a convolution as products of matrices, for the CPU.

    dw[k] = Σ x[i·s + k·b − p] dz[i]        over the batch and all positions i

is a convolution whose kernel is a whole image, dz: a compiler for the CPU takes it at a third of the rate of a matrix
product. Here a few examples at a time, as many as stay in the cache, are multiplied as matrices: for each offset k the
shifted x, (positions, features), with dz, (positions, outputs). The offsets along the last axis lie side by side, one
matrix of (positions, K·features), so that a kernel of 3x3 takes three products.

Other platforms have kernels of their own for it: they keep the convolution. This is the one file of the rules that
depends on the platform; it lies here and not among the blocks because rules import nothing from above.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import lax

from ...jaxprs.sizes import size_of
from ..arrays.layouts import inverse, vary_alike
from ..expressions import scalar
from .dot import accumulator, swapped

ROWS, ELEMENTS = 1024, 400_000  # at most, of the matrix of one product, unless one example has more


def filter_cotangent(x: Any, dz: Any, conv: Any, by_convolution: Callable[[Any, Any], Any]) -> Any:
    """dw of a `Convolution`: by products on a CPU where they win, else by the convolution."""
    if not products_win(conv, x.shape[conv.x.axes[1]], dz.shape[conv.z.axes[1]]):
        return by_convolution(x, dz)
    return lax.platform_dependent(x, dz, cpu=partial(filter_products, conv=conv), default=by_convolution)


def products_win(conv: Any, features: int, outputs: int) -> bool:
    """As measured: two or three spatial axes, images of 16x16 to 64x64 positions, and enough rows and columns."""
    if len(conv.w.sizes) not in (2, 3) or {conv.by_feature, conv.by_batch, *conv.x.step} != {1}:
        return False
    enough = outputs >= max(32, features) and conv.w.sizes[-1] * features >= 32
    return enough and 256 <= size_of(conv.z.sizes) <= 4096


def filter_products(x: Any, dz: Any, conv: Any) -> Any:
    """dw of a `Convolution` that has no groups and no dilation of its input."""
    dtype = max(x.dtype, dz.dtype, key=lambda dtype: dtype.itemsize)
    (x, x_order), (dz, z_order) = ((_batch_first(a, part)) for a, part in ((x, conv.x), (dz, conv.z)))
    features, outputs = x.shape[x_order[-1]], dz.shape[z_order[-1]]
    chunk = examples_at_once(x.shape[0], math.prod(conv.z.sizes), conv.w.sizes[-1] * features)
    if chunk > 1:
        x, dz = (lax.reshape(a, (a.shape[0] // chunk, chunk, *a.shape[1:])) for a in (x, dz))

    def products(x: Any, dz: Any) -> Any:
        x, dz = (a if chunk > 1 else lax.expand_dims(a, (0,)) for a in (x, dz))
        x, dz = (lax.convert_element_type(a, dtype) for a in (x, dz))
        return _products(lax.transpose(x, x_order), lax.transpose(dz, z_order), conv)

    def step(total: Any, examples: tuple[Any, Any]) -> tuple[Any, None]:
        return lax.add(total, products(*examples)), None

    product = jax.eval_shape(lambda x, dz: products(x[0], dz[0]), x, dz)
    zeros, x, dz = vary_alike([lax.full(product.shape, 0, product.dtype), x, dz])
    total, _ = lax.scan(step, zeros, (x, dz))
    return lax.convert_element_type(_as_filter(total, conv, features, outputs), dtype)


def _batch_first(a: Any, part: Any) -> tuple[Any, tuple[int, ...]]:
    """The array with its batch axis first, and the order in which its axes are then (batch, *space, feature)."""
    batch, feature, *space = part.axes
    order = (batch, *(axis for axis in range(a.ndim) if axis != batch))
    return lax.transpose(a, order), tuple(order.index(axis) for axis in (batch, *space, feature))


def examples_at_once(batch: int, positions: int, columns: int) -> int:
    """The largest divisor of the batch with at most ROWS positions and ELEMENTS in a matrix; 1 at least."""
    most = min(ROWS // positions, ELEMENTS // (positions * columns))
    return max(n for n in range(1, batch + 1) if batch % n == 0 and (n == 1 or n <= most))


def _products(x: Any, dz: Any, conv: Any) -> Any:
    """Σ dz[i] x[i·s + k·b − p] over some examples: (offsets of the leading axes, o, K·c), or (..., K·c, o)."""
    x = _pad(x, conv)
    last = len(conv.z.sizes)  # the axis
    offsets = [range(0, k * b, b) for k, b in zip(conv.w.sizes, conv.w.step, strict=True)]
    columns = lax.concatenate([_shifted(x, last, offset, conv) for offset in offsets[-1]], last + 1)
    axes = tuple(range(last + 1))  # the batch and space
    numbers = (axes, axes), ((), ())
    products = []
    for offset in itertools.product(*offsets[:-1]):
        rows = columns
        for axis, at in enumerate(offset, 1):
            rows = _shifted(rows, axis, at, conv)
        left, right, precision = (dz, rows, swapped(conv.precision))
        if rows.shape[-1] < dz.shape[-1]:  # the left factor, contracted over its leading axes, is copied: the smaller
            left, right, precision = rows, dz, conv.precision
        products.append(
            lax.dot_general(left, right, numbers, precision=precision, preferred_element_type=accumulator(x, dz))
        )
    return lax.concatenate([lax.expand_dims(product, (0,)) for product in products], 0)


def _pad(x: Any, conv: Any) -> Any:
    """x with its padding, as long as the windows reach."""
    config = [(0, 0, 0)]
    for n, k, b, out, s, p in zip(
        conv.x.sizes, conv.w.sizes, conv.w.step, conv.z.sizes, conv.z.step, conv.front, strict=True
    ):
        config.append((p, (out - 1) * s + (k - 1) * b + 1 - n - p, 0))
    return lax.pad(x, scalar(0, x), [*config, (0, 0, 0)])


def _shifted(x: Any, axis: int, offset: int, conv: Any) -> Any:
    """x[i·s + offset] along a spatial axis, for all positions i of the output."""
    step = conv.z.step[axis - 1]
    return lax.slice_in_dim(x, offset, offset + (conv.z.sizes[axis - 1] - 1) * step + 1, step, axis)


def _as_filter(total: Any, conv: Any, features: int, outputs: int) -> Any:
    """The sums, laid out as w is."""
    *leading, last = conv.w.sizes
    if total.shape[1] == outputs and last * features >= outputs:
        total = lax.transpose(total, (0, 2, 1))
    total = lax.reshape(total, (*leading, last, features, outputs))
    output, feature, *space = conv.w.axes
    return lax.transpose(total, inverse((*space, feature, output)))
