"""Elementwise primitives of two and more operands. `dx` is the cotangent of `x`: same shape, same dtype.

An operand of rank 0 may stand beside one of rank n; the engine sums its cotangent back to its shape.
"""

from ...backprop.engine import sum_to_shape
from ...jaxprs.avals import aval_of
from ..expressions import Expr, derivative, floor, full_like, is_complex, log, sign, vjp_rule, where, wide

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
def div_vjp_y(dz, y, z):
    """∂z/∂y = -x/y² = -z/y: the output is read, and y is never squared. Where y is broadcast, the sum is divided."""
    if y.shape == z.shape:
        return -(dz * z / y)
    return -(Expr(sum_to_shape((dz * z).array, aval_of(y.array))) / wide(y))


# ---------------------------------------------------------------- remainder, power, angle


@vjp_rule("rem", "x, y -> z", wrt="x")
def rem_vjp_x(dz):
    """z = x - y·trunc(x/y)."""
    return dz


@vjp_rule("rem", "x, y -> z", wrt="y")
def rem_vjp_y(dz, x, y):
    """z = x - y·trunc(x/y), ∂z/∂y = -trunc(x/y)."""
    q = x / y
    return -(dz * (sign(q) * floor(abs(q))))


@derivative("pow", "x, y -> z", wrt="x")
def pow_vjp_x(x, y):
    """y·xʸ⁻¹. At x = y = 0 that is 0·∞ of a constant function: the exponent is raised to 0 there."""
    both_zero = (x == 0) & (y == 0)
    exponent = y - 1 + both_zero.astype(y.dtype)
    return y.astype(x.dtype) * x**exponent


@derivative("pow", "x, y -> z", wrt="y")
def pow_vjp_y(x, z):
    """At x = 0 the logarithm is taken as zero."""
    return z * log(where(x == 0, 1, x))


@derivative("atan2", "x, y -> z", wrt="x")
def atan2_vjp_x(x, y):
    """z = arctan(x/y)."""
    return y / (x**2 + y**2)


@vjp_rule("atan2", "x, y -> z", wrt="y")
def atan2_vjp_y(dz, x, y):
    return -(dz * (x / (x**2 + y**2)))


@vjp_rule("nextafter", "x, y -> z")
def nextafter_vjp(dz):
    """z is x moved by one unit in the last place towards y: ∂z/∂x = 1, ∂z/∂y = 0."""
    return dz, None


# ---------------------------------------------------------------- choices


def _share(x, y):
    """1 where x > y, 1/2 where they are equal, else 0, in their dtype; complex numbers in lexicographic order."""
    if is_complex(x):
        a, b = x.real, y.real
        imag = _share(x.imag, y.imag)
        tie = where(a == b, imag, 0)
        return where(a > b, 1, tie).astype(x.dtype)
    return (x > y).astype(x.dtype) + 0.5 * (x == y).astype(x.dtype)


@derivative("max", "x, y -> z", wrt="x")
def max_vjp_x(x, y):
    """The larger operand gets the cotangent, a tie shares it.

    The operands are compared with each other, never with z: a fused kernel may recompute x with another
    rounding, and then x == z holds nowhere."""
    return _share(x, y)


@derivative("max", "x, y -> z", wrt="y")
def max_vjp_y(x, y):
    return _share(y, x)


@derivative("min", "x, y -> z", wrt="x")
def min_vjp_x(x, y):
    return _share(y, x)


@derivative("min", "x, y -> z", wrt="y")
def min_vjp_y(x, y):
    return _share(x, y)


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
