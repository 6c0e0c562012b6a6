"""Contractions: dot_general and ragged_dot_general. `dx` is the cotangent of `x`: same shape, same dtype.

A contraction is linear in each operand: z[b, m, n] = Σ_c x[b, m, c] y[b, c, n], where b, m, n and c stand for any
number of axes, which lie anywhere in x and y. The cotangent of one operand contracts dz with the other:
dx[b, m, c] = Σ_n dz[b, m, n] y[b, c, n] and dy[b, c, n] = Σ_m x[b, m, c] dz[b, m, n].
"""

import itertools
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from ...backprop.registry import vjp_rule
from ...jaxprs.avals import aval_of, cotangent_sharding, explicit_sharding, lay_out, replicated, with_partitions
from ...jaxprs.sizes import size_of
from ..arrays.layouts import inverse


class Axes(NamedTuple):
    """The axes of one operand of a contraction, by their part in it; `free` are the others, in order."""

    contract: tuple[int, ...]
    batch: tuple[int, ...]
    free: tuple[int, ...]


class Factor(NamedTuple):
    """One factor of a product, the axes that are summed and those of the batch."""

    array: Any
    summed: tuple[int, ...]
    batch: tuple[int, ...]


@vjp_rule("dot_general", "x, y -> z", wrt="x")
def dot_general_vjp_x(dz, y, x_aval, *, dimension_numbers, precision, **params):
    """dx[b, m, c] = Σ_n dz[b, m, n] y[b, c, n]."""
    x_axes, y_axes = operand_axes(dimension_numbers, x_aval.ndim, y.ndim)
    n = range(dz.ndim - len(y_axes.free), dz.ndim)
    return _cotangent(dz, tuple(n), y, y_axes, x_aval, x_axes, precision)


@vjp_rule("dot_general", "x, y -> z", wrt="y")
def dot_general_vjp_y(dz, x, y_aval, *, dimension_numbers, precision, **params):
    """dy[b, c, n] = Σ_m x[b, m, c] dz[b, m, n]."""
    x_axes, y_axes = operand_axes(dimension_numbers, x.ndim, y_aval.ndim)
    m = range(len(x_axes.batch), dz.ndim - len(y_axes.free))
    return _cotangent(dz, tuple(m), x, x_axes, y_aval, y_axes, swapped(precision))


@vjp_rule("ragged_dot_general", "x, y, group_sizes -> z", wrt="x")
def ragged_dot_general_vjp_x(dz, y, group_sizes, x_aval, *, ragged_dot_dimension_numbers, precision, **params):
    """dx[m, c] = Σ_n dz[m, n] y[c, n], where y has the group of m if m is ragged, and dz the group of c if c is.

    A product's ragged axis is one of its left operand: in the latter case y is that, and gives dx[c, m]."""
    parts = _ragged_parts(ragged_dot_dimension_numbers, x_aval.ndim, y.ndim)
    sharding, order = product_sharding(x_aval, dz, y), parts.x_order  # (b, m, c)
    y = lax.transpose(y, parts.y_order)
    if parts.ragged[0] == "c":
        at = _spans("bmc", parts.counts)
        order = tuple(order[a] for a in (*at["b"], *at["c"], *at["m"]))
        factors, precision = (y, "bcn", dz, "gbmn"), swapped(precision)
    else:
        factors = dz, "bmn", y, parts.y_letters
    dx = _ragged_product(*factors, "n", parts, group_sizes, precision, _permuted(sharding, order))
    return lax.transpose(dx, inverse(order))


@vjp_rule("ragged_dot_general", "x, y, group_sizes -> z", wrt="y")
def ragged_dot_general_vjp_y(dz, x, group_sizes, y_aval, *, ragged_dot_dimension_numbers, precision, **params):
    """dy[c, n] = Σ_m x[m, c] dz[m, n], where dz has the group of c if c is ragged; if m is, the sum is over each group
    of it alone, which gives dy[g, c, n]."""
    parts = _ragged_parts(ragged_dot_dimension_numbers, x.ndim, y_aval.ndim)
    z_letters = "gbmn" if parts.ragged[0] == "c" else "bmn"
    sharding = _permuted(product_sharding(y_aval, dz, x), parts.y_order)
    x = lax.transpose(x, parts.x_order)
    dy = _ragged_product(x, "bmc", dz, z_letters, "m", parts, group_sizes, precision, sharding)
    return lax.transpose(dy, inverse(parts.y_order))


class RaggedParts(NamedTuple):
    """A ragged product z[b, m, n] = Σ_c x[b, m, c] y[b, c, n], in which one axis, of b, m or c, falls into groups g.

    If it is of m, y has a group axis; if of c, the sum is over each group alone, and z has a group axis, its first. If
    it is of b, the groups change nothing.
    """

    counts: dict[str, int]  # how many axes each letter stands for
    ragged: tuple[str, int]  # the letter, and which of its axes
    x_order: tuple[int, ...]  # x's axes as (b, m, c)
    y_order: tuple[int, ...]  # y's axes as (b, c, n) or (g, b, c, n)
    y_letters: str


def _ragged_parts(numbers: lax.RaggedDotDimensionNumbers, x_rank: int, y_rank: int) -> RaggedParts:
    x, y = operand_axes(numbers.dot_dimension_numbers, x_rank, y_rank)
    group = tuple(numbers.rhs_group_dimensions)
    y_free = tuple(a for a in y.free if a not in group)
    counts = {"g": 1, "b": len(x.batch), "m": len(x.free), "c": len(x.contract), "n": len(y_free)}
    (axis,) = numbers.lhs_ragged_dimensions
    letter, axes = next((k, v) for k, v in (("b", x.batch), ("m", x.free), ("c", x.contract)) if axis in v)
    x_order, y_order = (*x.batch, *x.free, *x.contract), (*group, *y.batch, *y.contract, *y_free)
    return RaggedParts(counts, (letter, axes.index(axis)), x_order, y_order, "gbcn" if group else "bcn")


def _ragged_product(left, left_letters, right, right_letters, over, parts, group_sizes, precision, sharding) -> Any:
    """The ragged product of two arrays whose axes the letters name, summed over the letter `over`.

    sharding: of the product, on a mesh with explicit axes. JAX infers none and on a CPU runs few divided operands, so
    the compiler divides the work (`auto_axes`)."""
    at, right_at = (_spans(letters, parts.counts) for letters in (left_letters, right_letters))
    letter, index = parts.ragged
    axes = (at[over], right_at[over]), (at["b"], right_at["b"])
    numbers = lax.RaggedDotDimensionNumbers(axes, (at[letter][index],), right_at.get("g", ()))
    # No wider element type is asked for, for the reason given in `_cotangent`: the groups become a batch axis.
    product = partial(lax.ragged_dot_general, ragged_dot_dimension_numbers=numbers, precision=precision)
    if sharding is None:
        return product(left, right, group_sizes)
    factors = [lay_out(x, explicit_sharding(aval_of(x)) or replicated(sharding.mesh, x.ndim)) for x in (left, right)]
    with jax.sharding.use_abstract_mesh(sharding.mesh):
        return jax.sharding.auto_axes(product, out_sharding=sharding)(*factors, group_sizes)


def _spans(letters: str, counts: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """The axes of each letter in an array whose axes follow in the order of the letters."""
    ends = list(itertools.accumulate(counts[k] for k in letters))
    return {k: tuple(range(end - counts[k], end)) for k, end in zip(letters, ends, strict=True)}


@lru_cache
def operand_axes(dimension_numbers: Any, *ranks: int) -> tuple[Axes, ...]:
    """The axes of each operand of a contraction, from ((contracting, contracting), (batch, batch))."""
    contracts, batches = dimension_numbers
    return tuple(
        Axes(tuple(contract), tuple(batch), tuple(a for a in range(rank) if a not in (*contract, *batch)))
        for contract, batch, rank in zip(contracts, batches, ranks, strict=True)
    )


def swapped(precision: Any) -> Any:
    """The precision of y · x, from that of x · y."""
    if isinstance(precision, lax.DotAlgorithm):
        return precision._replace(
            lhs_precision_type=precision.rhs_precision_type,
            rhs_precision_type=precision.lhs_precision_type,
            lhs_component_count=precision.rhs_component_count,
            rhs_component_count=precision.lhs_component_count,
        )
    return precision[::-1] if isinstance(precision, tuple) else precision


def accumulator(x: Any, y: Any) -> Any:
    """The element type to ask of x · y: float32 where both are narrower, else None, which is their own."""
    return np.float32 if max(x.dtype.itemsize, y.dtype.itemsize) < 4 else None


def _cotangent(dz: Any, summed: tuple, other: Any, other_axes: Axes, aval: Any, axes: Axes, precision: Any) -> Any:
    """The cotangent of an operand (of `aval` and `axes`): dz · other, summed over the free axes of `other`, which are
    `summed` in dz. `precision` is of (dz, other).

    If the axes of other · dz come out in the operand's order, that product is taken; otherwise dz · other, transposed
    where necessary. The latter too if `other` is far larger than dz: a processor multiplies rows by columns, and would
    copy a left factor that is contracted over its leading axes.
    """
    contracted = tuple(axes.contract[i] for i in inverse(other_axes.contract))  # in the order of `other`
    produced, in_order = (*axes.batch, *axes.free, *contracted), tuple(range(len(aval.shape)))
    left = Factor(dz, summed, tuple(range(len(axes.batch))))
    right = Factor(other, other_axes.free, other_axes.batch)
    narrow = min(dz.dtype.itemsize, other.dtype.itemsize) < 4
    copied = not narrow and size_of(other.shape) > 2 * size_of(dz.shape)
    if (*axes.batch, *contracted, *axes.free) == in_order and not copied:
        produced, left, right, precision = in_order, right, left, swapped(precision)
    # With batch axes, JAX 0.10.2 cannot multiply every pair of bfloat16 arrays into float32 on a CPU. Without a request
    # the sum is taken in float32 all the same, and rounded to bfloat16 as the engine would round it.
    dtype = None if axes.batch else accumulator(dz, other)
    product = lax.dot_general(
        left.array,
        right.array,
        ((left.summed, right.summed), (left.batch, right.batch)),
        precision=precision,
        preferred_element_type=dtype,
        out_sharding=_permuted(product_sharding(aval, dz, other), produced),
    )
    return product if produced == in_order else lax.transpose(product, inverse(produced))


def product_sharding(aval: Any, *factors: Any) -> Any:
    """The sharding to ask of a product that is the cotangent of an operand of this aval; None: the compiler's.

    An operand that lies on no mesh, beside one with explicit axes, counts as replicated.
    """
    others = (explicit_sharding(aval_of(factor)) for factor in factors)
    mesh = next((sharding.mesh for sharding in others if sharding), None)
    return cotangent_sharding(aval) or (mesh and replicated(mesh, len(aval.shape)))


def _permuted(sharding: Any, axes: Sequence[int]) -> Any:
    """The sharding of the value whose axes are those of a sharded one in another order."""
    return sharding and with_partitions(sharding, [sharding.spec.partitions[a] for a in axes])
