"""Elementwise primitives of two and more operands. `dx` is the cotangent of `x`: same shape, same dtype.

An operand of rank 0 may stand beside one of rank n; the driver sums its cotangent back to its shape.
"""

from jax import lax
from jax import numpy as jnp

from ...backprop.registry import vjp_rule
from ..expressions import scalar


def _where(mask, x):
    """x where the mask holds, else zero."""
    return lax.select_n(mask, lax.full_like(x, 0), x)


# ---------------------------------------------------------------- the four operations


@vjp_rule("add", "x, y -> z")
def add_vjp(dz):
    """z = x + y passes its cotangent on to both."""
    return dz, dz


@vjp_rule("add_any", "x, y -> z")
def add_any_vjp(dz):
    """z = x + y passes its cotangent on to both."""
    return dz, dz


@vjp_rule("sub", "x, y -> z", wrt="x")
def sub_vjp_x(dz):
    """z = x - y, ∂z/∂x = 1."""
    return dz


@vjp_rule("sub", "x, y -> z", wrt="y")
def sub_vjp_y(dz):
    """z = x - y, ∂z/∂y = -1."""
    return lax.neg(dz)


@vjp_rule("mul", "x, y -> z", wrt="x")
def mul_vjp_x(dz, y):
    """z = x·y, ∂z/∂x = y."""
    return lax.mul(dz, y)


@vjp_rule("mul", "x, y -> z", wrt="y")
def mul_vjp_y(dz, x):
    """z = x·y, ∂z/∂y = x."""
    return lax.mul(x, dz)


@vjp_rule("div", "x, y -> z", wrt="x")
def div_vjp_x(dz, y):
    """z = x/y, ∂z/∂x = 1/y."""
    return lax.div(dz, y)


@vjp_rule("div", "x, y -> z", wrt="y")
def div_vjp_y(dz, y, z):
    """z = x/y, ∂z/∂y = -x/y² = -z/y: the output is read, and y is never squared."""
    return lax.neg(lax.div(lax.mul(dz, z), y))


# ---------------------------------------------------------------- remainder, power, angle


@vjp_rule("rem", "x, y -> z", wrt="x")
def rem_vjp_x(dz):
    """z = x - y·trunc(x/y), ∂z/∂x = 1."""
    return dz


@vjp_rule("rem", "x, y -> z", wrt="y")
def rem_vjp_y(dz, x, y):
    """z = x - y·trunc(x/y), ∂z/∂y = -trunc(x/y)."""
    q = lax.div(x, y)
    return lax.neg(lax.mul(dz, lax.mul(lax.sign(q), lax.floor(lax.abs(q)))))


@vjp_rule("pow", "x, y -> z", wrt="x")
def pow_vjp_x(dz, x, y):
    """z = xʸ, ∂z/∂x = y·xʸ⁻¹. At x = y = 0 that is 0·∞ of a constant function: the exponent is raised to 0 there."""
    both_zero = lax.bitwise_and(lax.eq(x, scalar(0, x)), lax.eq(y, scalar(0, y)))
    exponent = lax.add(lax.sub(y, scalar(1, y)), lax.convert_element_type(both_zero, y.dtype))
    return lax.mul(dz, lax.mul(lax.convert_element_type(y, x.dtype), lax.pow(x, exponent)))


@vjp_rule("pow", "x, y -> z", wrt="y")
def pow_vjp_y(dz, x, z):
    """z = xʸ, ∂z/∂y = z·log x; at x = 0 the logarithm is taken as zero."""
    at_zero = lax.eq(x, scalar(0, x))
    log_x = lax.log(lax.select_n(at_zero, x, lax.full_like(x, 1)))
    return lax.mul(dz, lax.mul(z, log_x))


@vjp_rule("atan2", "x, y -> z", wrt="x")
def atan2_vjp_x(dz, x, y):
    """z = arctan(x/y), ∂z/∂x = y/(x² + y²)."""
    return lax.mul(dz, lax.div(y, lax.add(lax.square(x), lax.square(y))))


@vjp_rule("atan2", "x, y -> z", wrt="y")
def atan2_vjp_y(dz, x, y):
    """z = arctan(x/y), ∂z/∂y = -x/(x² + y²)."""
    return lax.neg(lax.mul(dz, lax.div(x, lax.add(lax.square(x), lax.square(y)))))


@vjp_rule("nextafter", "x, y -> z")
def nextafter_vjp(dz):
    """z is x moved by one unit in the last place towards y: ∂z/∂x = 1, ∂z/∂y = 0."""
    return dz, None


# ---------------------------------------------------------------- choices


def _share(x, y):
    """1 where x > y, 1/2 where they are equal, else 0, in their dtype; complex numbers in lexicographic order."""
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        a, b = lax.real(x), lax.real(y)
        imag = _share(lax.imag(x), lax.imag(y))
        tie = lax.select_n(lax.eq(a, b), lax.full_like(imag, 0), imag)
        return lax.convert_element_type(lax.select_n(lax.gt(a, b), tie, lax.full_like(tie, 1)), x.dtype)
    above = lax.convert_element_type(lax.gt(x, y), x.dtype)
    level = lax.convert_element_type(lax.eq(x, y), x.dtype)
    return lax.add(above, lax.mul(scalar(0.5, x), level))


@vjp_rule("max", "x, y -> z", wrt="x")
def max_vjp_x(dz, x, y):
    """z = max(x, y): the larger operand gets the cotangent, a tie shares it.

    The operands are compared with each other, never with z: a fused kernel may recompute x with another
    rounding, and then x == z holds nowhere."""
    return lax.mul(dz, _share(x, y))


@vjp_rule("max", "x, y -> z", wrt="y")
def max_vjp_y(dz, x, y):
    """As `max_vjp_x`, the operands exchanged."""
    return lax.mul(dz, _share(y, x))


@vjp_rule("min", "x, y -> z", wrt="x")
def min_vjp_x(dz, x, y):
    """z = min(x, y): the smaller operand gets the cotangent, a tie shares it."""
    return lax.mul(dz, _share(y, x))


@vjp_rule("min", "x, y -> z", wrt="y")
def min_vjp_y(dz, x, y):
    """As `min_vjp_x`, the operands exchanged."""
    return lax.mul(dz, _share(x, y))


@vjp_rule("clamp", "low, x, high -> z", wrt="x")
def clamp_vjp_x(dz, low, x, high):
    """∂z/∂x = 1 strictly between the bounds, 0 on them and outside."""
    return _where(lax.bitwise_and(lax.lt(low, x), lax.lt(x, high)), dz)


@vjp_rule("clamp", "low, x, high -> z", wrt="low")
def clamp_vjp_low(dz, low, x, high):
    """z = min(max(x, low), high) is `low` where x < low < high."""
    return _where(lax.bitwise_and(lax.lt(x, low), lax.lt(low, high)), dz)


@vjp_rule("clamp", "low, x, high -> z", wrt="high")
def clamp_vjp_high(dz, low, x, high):
    """z = min(max(x, low), high) is `high` where x or `low` is above it."""
    return _where(lax.bitwise_or(lax.lt(high, x), lax.lt(high, low)), dz)


@vjp_rule("select_n", "which, *cases -> z")
def select_n_vjp(dz, which, active):
    """z = cases[which]: the selected case gets the cotangent, the others zero. `which` is boolean or an integer."""
    none = lax.full_like(dz, 0)

    def cotangent(case):
        if which.dtype == bool:
            return lax.select_n(which, none, dz) if case else lax.select_n(which, dz, none)
        return lax.select_n(lax.eq(which, scalar(case, which)), none, dz)

    return None, *(cotangent(case) if on else None for case, on in enumerate(active[1:]))
