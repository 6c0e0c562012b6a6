"""The notation in which rules are written: `Expr`, an array with the operators of mathematics, each of which is one
operation of `lax`.

    1 - y**2                  lax.sub(1, lax.square(y)), with the 1 a literal of y's dtype
    where(x > 0, dy, -dy)     lax.select_n(lax.gt(x, 0), lax.neg(dy), dy)
    U @ S @ U.H               products of stacks of matrices, in the highest precision

Infix on JAX's own tracers goes through `jnp`, which promotes and broadcasts and takes twice as long to trace. Here two
arrays have the same rank, or one of them rank 0. A number takes the dtype of the array beside it; a real array beside
a complex one becomes complex; no other dtypes mix.

`derivative` and `vjp_rule` register a function of expressions. (Those of `backprop/registry.py`, which users have,
register functions of arrays.)
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from jax import lax

from ..backprop import precision, registry
from ..backprop.signatures import Argument
from ..jaxprs.avals import aval_of, cotangent_aval, explicit_sharding, zeros_like_aval

_NUMBERS, _SEQUENCES = (int, float, complex), (tuple, list)


def scalar(value: complex, like: Any) -> np.ndarray:
    """`value` as a rank-0 array of the dtype of `like`."""
    return np.array(value, like.dtype)


def is_complex(x: Any) -> bool:
    return np.issubdtype(x.dtype, np.complexfloating)


def _operands(x: Any, y: Any) -> tuple[Any, Any]:
    """An array and what stands beside it (an expression, a number or an array), as arrays of one dtype."""
    if isinstance(y, _NUMBERS):
        return x, np.array(y, x.dtype)
    y = y.array if isinstance(y, Expr) else y
    if x.dtype == y.dtype or is_complex(x) == is_complex(y):
        return x, y
    return (x, lax.convert_element_type(y, x.dtype)) if is_complex(x) else (lax.convert_element_type(x, y.dtype), y)


def _of_unreduced(operation: Callable, factor: Callable) -> Callable:
    """An operation on a cotangent x as the product of x and `factor(*ys)`, where x is unreduced (a sum over devices
    that is not yet taken): JAX multiplies such a value by one that is reduced over the same axes, and does no more."""

    def apply(x, *ys):
        try:
            return operation(x, *ys)
        except Exception:
            dual = cotangent_aval(aval_of(x))
            if not (dual.sharding.spec.reduced or dual.manual_axis_type.reduced):
                raise
        zeros = zeros_like_aval(dual)
        return lax.mul(x, lax.add(zeros, lax.convert_element_type(factor(*ys), zeros.dtype)))

    return apply


_mul = _of_unreduced(lax.mul, lambda y: y)
_rmul = _of_unreduced(lambda x, y: lax.mul(y, x), lambda y: y)
_div = _of_unreduced(lax.div, lambda y: lax.div(scalar(1, y), y))
_neg = _of_unreduced(lax.neg, lambda: np.array(-1.0))


def _operator(operation: Callable, reflected: bool = False) -> Callable[..., "Expr"]:
    """An operation of `lax` as an operator; `reflected`: as `x.__radd__(y)`, which Python calls for y + x."""

    def apply(x, y):
        x, y = _operands(x.array, y)
        return Expr(operation(y, x) if reflected else operation(x, y))

    return apply


class Expr:
    """An array in a formula. Comparisons give masks, which `&`, `|` and `~` combine and `where` reads."""

    __slots__ = ("array",)
    __array_ufunc__ = None  # a NumPy array on the left leaves the operation to the expression

    def __init__(self, array: Any):
        self.array = array

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)
    ndim = property(lambda self: self.array.ndim)

    __add__, __radd__ = _operator(lax.add), _operator(lax.add, reflected=True)
    __sub__, __rsub__ = _operator(lax.sub), _operator(lax.sub, reflected=True)
    __mul__, __rmul__ = _operator(_mul), _operator(_rmul)
    __truediv__, __rtruediv__ = _operator(_div), _operator(lax.div, reflected=True)

    __eq__, __ne__ = _operator(lax.eq), _operator(lax.ne)  # type: ignore[assignment]
    __lt__, __le__ = _operator(lax.lt), _operator(lax.le)
    __gt__, __ge__ = _operator(lax.gt), _operator(lax.ge)
    __and__, __or__ = _operator(lax.bitwise_and), _operator(lax.bitwise_or)

    def __getitem__(self, index):
        return Expr(self.array[index])

    def __invert__(self):
        return Expr(lax.bitwise_not(self.array))

    def __neg__(self):
        return Expr(_neg(self.array))

    def __abs__(self):
        return Expr(lax.abs(self.array))

    def __pow__(self, exponent):
        if isinstance(exponent, int):
            return square(self) if exponent == 2 else integer_pow(self, exponent)
        return Expr(lax.pow(self.array, exponent.array))

    def __matmul__(self, other):
        """The product of two stacks of matrices, (..., m, k) and (..., k, n)."""
        if not isinstance(other, Expr):
            return NotImplemented
        x, y = _operands(self.array, other)
        stack = tuple(range(x.ndim - 2))
        numbers = (((x.ndim - 1,), (x.ndim - 2,)), (stack, stack))
        return Expr(lax.dot_general(x, y, numbers, precision=lax.Precision.HIGHEST))

    @property
    def T(self):
        """Each matrix of a stack transposed."""
        return Expr(lax.transpose(self.array, (*range(self.ndim - 2), self.ndim - 1, self.ndim - 2)))

    @property
    def H(self):
        """Each matrix of a stack transposed and conjugated."""
        return self.conj().T

    def conj(self):
        return Expr(lax.conj(self.array)) if is_complex(self) else self

    @property
    def real(self):
        return Expr(lax.real(self.array)) if is_complex(self) else self

    @property
    def imag(self):
        return Expr(lax.imag(self.array))

    def astype(self, dtype: Any):
        return Expr(lax.convert_element_type(self.array, dtype))


def where(mask: Expr, x: Any, y: Any) -> Expr:
    """x where the mask holds, y elsewhere; one of them may be a number."""
    like = x if isinstance(x, Expr) else y
    x, y = (v.array if isinstance(v, Expr) else lax.full_like(like.array, v) for v in (x, y))
    return Expr(lax.select_n(mask.array, y, x))


def same_shape(*xs: Expr) -> list[Expr]:
    """Operands of different ranks, or with axes of size 1, in the shape that they have together."""
    shape = np.broadcast_shapes(*(x.shape for x in xs))
    whole = next((explicit_sharding(aval_of(x.array)) for x in xs if x.shape == shape), None)

    def spread(x):
        axes = range(len(shape) - x.ndim, len(shape))
        return Expr(lax.broadcast_in_dim(x.array, shape, axes, out_sharding=whole))

    return [x if x.shape == shape else spread(x) for x in xs]


def lift(operation: Callable) -> Callable[..., Expr]:
    """An operation on arrays as one on expressions."""

    def apply(*xs, **params):
        return Expr(operation(*[x.array if isinstance(x, Expr) else x for x in xs], **params))

    return apply


square, integer_pow, sqrt, rsqrt = map(lift, (lax.square, lax.integer_pow, lax.sqrt, lax.rsqrt))
exp, log, log1p, logistic = map(lift, (lax.exp, lax.log, lax.log1p, lax.logistic))
sin, cos, sinh, cosh, tanh = map(lift, (lax.sin, lax.cos, lax.sinh, lax.cosh, lax.tanh))
digamma, polygamma = map(lift, (lax.digamma, lax.polygamma))
bessel_i0e, bessel_i1e = map(lift, (lax.bessel_i0e, lax.bessel_i1e))
sign, floor, full_like = map(lift, (lax.sign, lax.floor, lax.full_like))
minimum, maximum = _operator(lax.min), _operator(lax.max)
complex_of_parts = lift(lax.complex)
rounded = lift(partial(lax.round, rounding_method=lax.RoundingMethod.TO_NEAREST_EVEN))  # to whole numbers
wide = lift(precision.wide)  # in the dtype in which it is added up: float32 for narrower floats


# ---------------------------------------------------------------- registering


def _on_arrays(function: Callable, places: Sequence[Argument]) -> Callable:
    """A rule of expressions, as one of arrays. Avals, `active` and `wanted` pass as they are."""
    wrapped = [place.kind in ("value", "cotangent") for place in places]

    def on_arrays(*arguments: Any, **params: Any) -> Any:
        pairs = zip(arguments, wrapped, strict=True)
        return unwrap(function(*[wrap(x) if on else x for x, on in pairs], **params))

    return on_arrays


vjp_rule = partial(registry.vjp_rule, adapt=_on_arrays)
derivative = partial(registry.derivative, adapt=_on_arrays)


def on_expressions(function: Callable) -> Callable:
    """A function of expressions, as one of arrays: for the backward pass of a structured rule."""
    return lambda *arguments: unwrap(function(*map(wrap, arguments)))


def wrap(x: Any) -> Any:
    """Arrays as expressions, in tuples and lists too; None stays."""
    if isinstance(x, _SEQUENCES):
        return type(x)(map(wrap, x))
    return None if x is None else Expr(x)


def unwrap(x: Any) -> Any:
    """The arrays of expressions, in tuples and lists too; anything else stays."""
    if isinstance(x, _SEQUENCES):
        return type(x)(map(unwrap, x))
    return x.array if isinstance(x, Expr) else x
