"""Elementwise primitives of two and more operands. `dx` is the cotangent of `x`: same shape, same dtype.

An operand of rank 0 may stand beside one of rank n; the engine sums its cotangent back to its shape.
"""

import numpy as np
from jax import numpy as jnp

from ...backprop.engine import sum_to_shape
from ...jaxprs.avals import aval_of
from ..expressions import (
    Expr,
    derivative,
    full_like,
    is_complex,
    log,
    maximum,
    minimum,
    rounded,
    same_shape,
    vjp_rule,
    where,
    wide,
)

# ---------------------------------------------------------------- the four operations


@vjp_rule("add", "x, y -> z")
@vjp_rule("add_any", "x, y -> z")
def add_vjp(dz):
    return dz, dz


@vjp_rule("sub", "x, y -> z", wrt="x")
def sub_vjp_x(dz):
    return dz


@vjp_rule("sub", "x, y -> z", wrt="y")
def sub_vjp_y(dz):
    return -dz


@vjp_rule("mul", "x, y -> z", wrt="x")
def mul_vjp_x(dz, y):
    return dz * y


@vjp_rule("mul", "x, y -> z", wrt="y")
def mul_vjp_y(dz, x):
    return x * dz


@vjp_rule("div", "x, y -> z", wrt="x")
def div_vjp_x(dz, y):
    return dz / y


@vjp_rule("div", "x, y -> z", wrt="y")
def div_vjp_y(dz, x, y, z_aval):
    """∂z/∂y = -x/y², as a product of two quotients: y² would leave the range, and XLA makes (x/y)/y into x/y². Where y
    is broadcast, the sum of dz·x is divided, which costs no array of z's shape."""
    if y.shape == z_aval.shape:
        return -(dz / y * (x / y))
    y = wide(y)
    total = Expr(sum_to_shape((wide(dz) * wide(x)).array, aval_of(y.array)))
    return -(total / y * (1 / y))


# ---------------------------------------------------------------- remainder, power, angle


@vjp_rule("rem", "x, y -> z", wrt="x")
def rem_vjp_x(dz):
    """z = x - y·trunc(x/y)."""
    return dz


@vjp_rule("rem", "x, y -> z", wrt="y")
def rem_vjp_y(dz, x, y, z):
    """z = x - y·q with q = trunc(x/y), ∂z/∂y = -q = -(x - z)/y. That is whole but for its rounding, whereas x/y itself
    may round up to a whole number that it does not reach, as 1/0.1 does."""
    return -(dz * rounded((x - z) / y))


@derivative("pow", "x, y -> z", wrt="x")
def pow_vjp_x(x, y):
    """y·xʸ⁻¹. For y = 0 the function is constant, and where x⁻¹ is not finite the exponent is raised to 0, lest 0 times
    it be NaN; where it is finite, ∂/∂y of this is 1/x. An integer y = 0 has no neighbours: always."""
    constant = y == 0
    if not np.issubdtype(y.dtype, np.integer):
        constant = constant & ~(abs(1 / x) < np.inf)
    exponent = y - 1 + constant.astype(y.dtype)
    return y.astype(x.dtype) * x**exponent


@derivative("pow", "x, y -> z", wrt="y")
def pow_vjp_y(x, z):
    """At x = 0 the logarithm is taken as zero."""
    return z * log(where(x == 0, 1, x))


@derivative("atan2", "x, y -> z", wrt="x")
def atan2_vjp_x(x, y):
    """z = arctan(x/y), ∂z/∂x = y/(x² + y²)."""
    return _over_squares(y, x)


@vjp_rule("atan2", "x, y -> z", wrt="y")
def atan2_vjp_y(dz, x, y):
    """∂z/∂y = -x/(x² + y²)."""
    return -(dz * _over_squares(x, y))


def _over_squares(x, y):
    """x/(x² + y²). Both are multiplied by a power of two, so that no square overflows or underflows;
    there is one division, because a compiler keeps in memory what two results share of those."""
    dtype, (x, y) = x.dtype, map(wide, same_shape(x, y))
    info, size = jnp.finfo(x.dtype), maximum(abs(x), abs(y))
    half = info.maxexp // 2
    power = where(size > 2.0 ** (half - 2), 2.0 ** -(half + 2), full_like(size, 1))
    power = where(size < 2.0 ** -(3 * half // 4), 2.0 ** (25 * half // 16), power)
    top = minimum(maximum(x * power, float(info.min)), float(info.max))  # 0, not NaN, beside an infinity
    return (top / ((x * power) ** 2 + (y * power) ** 2) * power).astype(dtype)


@vjp_rule("nextafter", "x, y -> z")
def nextafter_vjp(dz):
    """z is x moved by one unit in the last place towards y: ∂z/∂x = 1, ∂z/∂y = 0."""
    return dz, None


# ---------------------------------------------------------------- choices


def _larger(dz, x, y):
    """dz where x > y, half of it where they are equal, 0 where x < y. It is selected, not multiplied by 0: an infinite
    dz leaves no NaN where it does not belong. Beside a NaN it is 0·dz, so that a NaN in dz stays one."""
    shared = where(x == y, 0.5 * dz, where(_greater(y, x), 0, 0 * dz))
    return where(_greater(x, y), dz, shared)


def _greater(x, y):
    """x > y; of complex numbers in lexicographic order."""
    if not is_complex(x):
        return x > y
    same = x.real == y.real
    return (x.real > y.real) | (same & (x.imag > y.imag))


@vjp_rule("max", "x, y -> z", wrt="x")
def max_vjp_x(dz, x, y):
    """The larger operand gets the cotangent, a tie shares it.

    The operands are compared with each other, never with z: a fused kernel may recompute x with another
    rounding, and then x == z holds nowhere."""
    return _larger(dz, x, y)


@vjp_rule("max", "x, y -> z", wrt="y")
def max_vjp_y(dz, x, y):
    return _larger(dz, y, x)


@vjp_rule("min", "x, y -> z", wrt="x")
def min_vjp_x(dz, x, y):
    return _larger(dz, y, x)


@vjp_rule("min", "x, y -> z", wrt="y")
def min_vjp_y(dz, x, y):
    return _larger(dz, x, y)


@vjp_rule("clamp", "low, x, high -> z", wrt="x")
def clamp_vjp_x(dz, low, x, high):
    """∂z/∂x = 1 strictly between the bounds, 0 on them and outside."""
    return where((low < x) & (x < high), dz, 0)


@vjp_rule("clamp", "low, x, high -> z", wrt="low")
def clamp_vjp_low(dz, low, x, high):
    """z = min(max(x, low), high) is `low` where x < low < high."""
    return where((x < low) & (low < high), dz, 0)


@vjp_rule("clamp", "low, x, high -> z", wrt="high")
def clamp_vjp_high(dz, low, x, high):
    """z = min(max(x, low), high) is `high` where x or `low` is above it."""
    return where((high < x) | (high < low), dz, 0)


@vjp_rule("select_n", "which, *cases -> z")
def select_n_vjp(dz, which, active):
    """z = cases[which]: the selected case gets the cotangent, the others zero. `which` is boolean or an integer."""
    zero = full_like(dz, 0)

    def cotangent(case):
        if which.dtype == bool:
            return where(which, dz, zero) if case else where(which, zero, dz)
        return where(which == case, dz, zero)

    return None, *(cotangent(case) if on else None for case, on in enumerate(active[1:]))
