"""The notation in which rules are written: `Expr`, an array with the operators of mathematics, which emit `lax` alone.

    1 - y**2        is   lax.sub(1, lax.square(y))        with the 1 in y's dtype: a literal, free to trace
    U @ S @ U.H     is   products of stacks of matrices, in the highest precision
    where(x > 0, y, 0)

`jnp` promotes dtypes and broadcasts, for 30 to 90 us an operation; this costs what `lax` does, about 10 us. So a number
takes the dtype of its partner, and two arrays must have one dtype and shape, or one of them rank 0.

`derivative` and `vjp_rule` register a function that is handed expressions, and may return them. (The ones of
`backprop/registry.py`, which users have, hand arrays.)
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
from jax import lax

from ..backprop import registry


def scalar(value: complex, like: Any) -> np.ndarray:
    """`value` as a rank-0 array of the dtype of `like`."""
    return np.array(value, like.dtype)


class Expr:
    """An array in a formula. Comparisons give masks, which `&`, `|` and `~` combine and `where` reads."""

    __slots__ = ("array",)
    __hash__ = None  # type: ignore[assignment]
    __array_ufunc__ = None  # a NumPy array on the left leaves the operation to the expression

    def __init__(self, array: Any):
        self.array = array

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)
    ndim = property(lambda self: self.array.ndim)

    def __add__(self, other):
        return Expr(lax.add(self.array, _operand(other, self)))

    def __radd__(self, other):
        return Expr(lax.add(_operand(other, self), self.array))

    def __sub__(self, other):
        return Expr(lax.sub(self.array, _operand(other, self)))

    def __rsub__(self, other):
        return Expr(lax.sub(_operand(other, self), self.array))

    def __mul__(self, other):
        return Expr(lax.mul(self.array, _operand(other, self)))

    def __rmul__(self, other):
        return Expr(lax.mul(_operand(other, self), self.array))

    def __truediv__(self, other):
        return Expr(lax.div(self.array, _operand(other, self)))

    def __rtruediv__(self, other):
        return Expr(lax.div(_operand(other, self), self.array))

    def __neg__(self):
        return Expr(lax.neg(self.array))

    def __pow__(self, exponent):
        if isinstance(exponent, int):
            return Expr(lax.square(self.array) if exponent == 2 else lax.integer_pow(self.array, exponent))
        return Expr(lax.pow(self.array, _operand(exponent, self)))

    def __abs__(self):
        return Expr(lax.abs(self.array))

    def __eq__(self, other):
        return Expr(lax.eq(self.array, _operand(other, self)))

    def __ne__(self, other):
        return Expr(lax.ne(self.array, _operand(other, self)))

    def __lt__(self, other):
        return Expr(lax.lt(self.array, _operand(other, self)))

    def __le__(self, other):
        return Expr(lax.le(self.array, _operand(other, self)))

    def __gt__(self, other):
        return Expr(lax.gt(self.array, _operand(other, self)))

    def __ge__(self, other):
        return Expr(lax.ge(self.array, _operand(other, self)))

    def __and__(self, other):
        return Expr(lax.bitwise_and(self.array, _operand(other, self)))

    def __or__(self, other):
        return Expr(lax.bitwise_or(self.array, _operand(other, self)))

    def __invert__(self):
        return Expr(lax.bitwise_not(self.array))

    def __getitem__(self, index):
        return Expr(self.array[index])

    def __matmul__(self, other):
        """The product of two stacks of matrices, (..., m, k) and (..., k, n)."""
        if not isinstance(other, Expr):
            return NotImplemented
        stack = tuple(range(self.ndim - 2))
        numbers = (((self.ndim - 1,), (other.ndim - 2,)), (stack, stack))
        return Expr(lax.dot_general(self.array, other.array, numbers, precision=lax.Precision.HIGHEST))

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


def _operand(value: Any, partner: Expr) -> Any:
    """The other operand's array; a number in the dtype of its partner."""
    if isinstance(value, Expr):
        return value.array
    return np.array(value, partner.array.dtype) if isinstance(value, int | float | complex) else value


def is_complex(x: Any) -> bool:
    return np.issubdtype(x.dtype, np.complexfloating)


def where(mask: Expr, x: Any, y: Any) -> Expr:
    """x where the mask holds, y elsewhere; one of them may be a number."""
    like = x if isinstance(x, Expr) else y
    x, y = (v.array if isinstance(v, Expr) else lax.full_like(like.array, v) for v in (x, y))
    return Expr(lax.select_n(mask.array, y, x))


def _function(function: Callable) -> Callable[..., Expr]:
    def on_expressions(*xs: Any) -> Expr:
        return Expr(function(*[x.array if isinstance(x, Expr) else x for x in xs]))

    on_expressions.__name__ = function.__name__
    on_expressions.__doc__ = f"`lax.{function.__name__}` of expressions."
    return on_expressions


exp, log, log1p, sqrt, rsqrt = map(_function, (lax.exp, lax.log, lax.log1p, lax.sqrt, lax.rsqrt))
sin, cos, sinh, cosh = map(_function, (lax.sin, lax.cos, lax.sinh, lax.cosh))
sign, floor = map(_function, (lax.sign, lax.floor))


# ---------------------------------------------------------------- registering


def vjp_rule(primitive: Any, signature: str = "x -> y", wrt: str | None = None) -> Callable:
    """As `registry.vjp_rule`, for a function of expressions: where the order of the factors matters."""
    return registry.vjp_rule(primitive, signature, wrt, adapt=_on_arrays)


def derivative(primitive: Any, signature: str = "x -> y", wrt: str | None = None) -> Callable:
    """As `registry.derivative`, for a function of expressions: of an elementwise primitive only dy/dx is written."""
    return registry.derivative(primitive, signature, wrt, adapt=_on_arrays)


def _on_arrays(function: Callable, places: Sequence[registry.Place]) -> Callable:
    """A function of expressions, as one of arrays. What is neither a value nor a cotangent passes as it is."""
    wrapped = [place.kind in ("value", "cotangent") for place in places]

    def on_arrays(*arguments: Any, **params: Any) -> Any:
        pairs = zip(arguments, wrapped, strict=True)
        return unwrap(function(*[wrap(x) if on else x for x, on in pairs], **params))

    return on_arrays


def on_expressions(function: Callable) -> Callable:
    """A function of expressions, as one of arrays: for the backward pass of a structured rule."""

    @wraps(function)
    def on_arrays(*arguments: Any) -> Any:
        return unwrap(function(*map(wrap, arguments)))

    return on_arrays


def wrap(x: Any) -> Any:
    """Arrays as expressions, in tuples and lists too; None stays."""
    if isinstance(x, tuple | list):
        return type(x)(map(wrap, x))
    return None if x is None else Expr(x)


def unwrap(x: Any) -> Any:
    """The arrays of expressions, in tuples and lists too; anything else stays."""
    if isinstance(x, tuple | list):
        return type(x)(map(unwrap, x))
    return x.array if isinstance(x, Expr) else x
