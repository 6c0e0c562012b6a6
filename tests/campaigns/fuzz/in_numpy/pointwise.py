"""Primitives that work on each element, by name: functions of the operands, and of the parameters by keyword."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special


def div(x: Any, y: Any, **_: Any) -> Any:
    if not np.issubdtype(x.dtype, np.integer):
        return np.divide(x, y)
    return x - np.fmod(x, y) if np.all(y == 1) else np.trunc(x / np.where(y == 0, 1, y)).astype(x.dtype)


def sign(x: Any, **_: Any) -> Any:
    return np.where(x == 0, x, np.sign(x))  # of a zero, its own sign stays


def round_(x: Any, *, rounding_method: Any, **_: Any) -> Any:
    """Half to even (1), or away from zero (0)."""
    if int(rounding_method) == 1:
        return np.round(x)
    whole = np.trunc(x)
    return np.where(np.abs(x - whole) >= 0.5, whole + np.copysign(1, x), whole).astype(x.dtype)


def logistic(x: Any, **_: Any) -> Any:
    return special.expit(x) if np.isrealobj(x) else 1 / (1 + np.exp(-x))


def rsqrt(x: Any, **_: Any) -> Any:
    return np.divide(np.ones((), x.dtype), np.sqrt(x))


def integer_pow(x: Any, *, y: int, **_: Any) -> Any:
    """By repeated squaring."""
    power, factor, count = np.ones_like(x), x, abs(y)
    while count:
        power = power * factor if count & 1 else power
        factor, count = factor * factor, count >> 1
    return np.divide(np.ones((), x.dtype), power) if y < 0 else power


def power(x: Any, y: Any, **_: Any) -> Any:
    return np.power(x, y.astype(x.dtype) if np.issubdtype(y.dtype, np.integer) else y)


def complex_(x: Any, y: Any, **_: Any) -> Any:
    z = np.empty(np.broadcast_shapes(x.shape, y.shape), np.result_type(x.dtype, np.complex64))
    z.real, z.imag = x, y
    return z


def polygamma(m: Any, x: Any, **_: Any) -> Any:
    found = (-1.0) ** (m + 1) * special.gamma(m + 1) * special.zeta(m + 1, x)
    return np.where(m == 0, special.digamma(x), found).astype(x.dtype)


def zeta(x: Any, q: Any, **_: Any) -> Any:
    return special.zeta(x, q)


def clamp(low: Any, x: Any, high: Any, **_: Any) -> Any:
    return np.minimum(np.maximum(x, low), high)


def select_n(which: Any, *cases: Any, **_: Any) -> Any:
    if which.dtype == bool:
        return np.where(which, cases[1], cases[0]) if len(cases) > 1 else cases[0]
    return np.choose(np.broadcast_to(which, cases[0].shape), cases)


def convert_element_type(x: Any, *, new_dtype: Any, **_: Any) -> Any:
    return x.astype(new_dtype)


def reduce_precision(x: Any, *, exponent_bits: int, mantissa_bits: int, **_: Any) -> Any:
    width = {(11, 52): np.float64, (8, 23): np.float32, (5, 10): np.float16}[exponent_bits, mantissa_bits]
    return x.astype(width).astype(x.dtype)


def conj(x: Any, *, input_dtype: Any, **_: Any) -> Any:
    return np.conj(x) if np.iscomplexobj(x) else complex_(x, np.zeros_like(x))


def bitwise_not(x: Any, **_: Any) -> Any:
    return np.invert(x)


_UFUNCS = {
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "rem": np.fmod,
    "max": np.maximum,
    "min": np.minimum,
    "abs": np.abs,
    "floor": np.floor,
    "ceil": np.ceil,
    "is_finite": np.isfinite,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "sqrt": np.sqrt,
    "cbrt": np.cbrt,
    "square": np.square,
    "real": np.real,
    "imag": np.imag,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "erf": special.erf,
    "erfc": special.erfc,
    "erf_inv": special.erfinv,
    "lgamma": special.gammaln,
    "digamma": special.digamma,
    "igamma": special.gammainc,
    "igammac": special.gammaincc,
    "bessel_i0e": special.i0e,
    "bessel_i1e": special.i1e,
    "regularized_incomplete_beta": special.betainc,
}

POINTWISE: dict[str, Callable[..., Any]] = {
    **{name: (lambda *xs, f=ufunc, **_: f(*xs)) for name, ufunc in _UFUNCS.items()},
    "div": div,
    "sign": sign,
    "round": round_,
    "logistic": logistic,
    "rsqrt": rsqrt,
    "integer_pow": integer_pow,
    "pow": power,
    "complex": complex_,
    "polygamma": polygamma,
    "zeta": zeta,
    "clamp": clamp,
    "select_n": select_n,
    "convert_element_type": convert_element_type,
    "reduce_precision": reduce_precision,
    "conj": conj,
    "not": bitwise_not,
}
