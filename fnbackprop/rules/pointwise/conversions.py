"""Copies, casts, and the parts of complex numbers. `dx` is the cotangent of `x`: same shape, same dtype.

Complex cotangents pair with tangents bilinearly: ⟨dy, t⟩ = Re Σ dy·t, without conjugation. So a holomorphic y(x) has
dx = y'(x)·dy, and a real y of a complex x has dx = ∂y/∂Re x - i·∂y/∂Im x.
"""

from jax import lax
from jax import numpy as jnp

from ...backprop.registry import Structured, structured_rule, vjp_rule
from ...jaxprs.evaluate import bind
from ..expressions import scalar

# ---------------------------------------------------------------- copies and casts


@vjp_rule("copy")
def copy_vjp(dy):
    """y = x."""
    return dy


@vjp_rule("convert_element_type")
def convert_element_type_vjp(dy):
    """y = x in another dtype: the driver casts the cotangent back."""
    return dy


@vjp_rule("reduce_precision")
def reduce_precision_vjp(dy, *, exponent_bits, mantissa_bits):
    """y = x rounded to fewer bits: the cotangent is rounded likewise, since it is a value of that precision."""
    return lax.reduce_precision(dy, exponent_bits, mantissa_bits)


# ---------------------------------------------------------------- complex numbers


@vjp_rule("real")
def real_vjp(dy):
    """y = Re x, dx = dy."""
    return lax.complex(dy, lax.full_like(dy, 0))


@vjp_rule("imag")
def imag_vjp(dy):
    """y = Im x = Re(-i·x), dx = -i·dy."""
    return lax.complex(lax.full_like(dy, 0), lax.neg(dy))


@vjp_rule("complex", "x, y -> z", wrt="x")
def complex_vjp_x(dz):
    """z = x + i·y, dx = Re dz."""
    return lax.real(dz)


@vjp_rule("complex", "x, y -> z", wrt="y")
def complex_vjp_y(dz):
    """z = x + i·y, dy = Re(i·dz) = -Im dz."""
    return lax.neg(lax.imag(dz))


@vjp_rule("conj")
def conj_vjp(dy):
    """Re(dy·conj(t)) = Re(conj(dy)·t)."""
    return lax.conj(dy)


@vjp_rule("abs")
def abs_vjp(dy, x):
    """Real: dy/dx = sign(x), but 1 at ±0. Complex: |x| has dx = dy·conj(x)/|x|, and 0 at 0."""
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return lax.mul(lax.convert_element_type(dy, x.dtype), lax.conj(lax.sign(x)))
    return lax.select_n(lax.ge(x, scalar(0, x)), lax.neg(dy), dy)


def sign_activity(engine, equation, active):
    """A real sign is piecewise constant; a complex one turns with its operand."""
    return (jnp.issubdtype(equation.invars[0].aval.dtype, jnp.complexfloating),)


@structured_rule("sign", activity=sign_activity)
def sign_vjp(engine, equation, active, wanted):
    """Complex y = x/|x|: a tangent t turns y by t/|x| less its part along y, so dx = (dy - conj(y)·Re(dy·y))/|x|."""

    def forward(x):
        (y,) = bind(equation, (x,))
        return [y], (x, y)

    def backward(residuals, cotangents):
        (x, y), (dy,) = residuals, cotangents
        along = lax.mul(lax.conj(y), lax.convert_element_type(lax.real(lax.mul(dy, y)), y.dtype))
        size = lax.abs(x)
        at_zero = lax.eq(size, scalar(0, size))
        size = lax.convert_element_type(lax.select_n(at_zero, size, lax.full_like(size, 1)), y.dtype)
        across = lax.div(lax.sub(dy, along), size)
        return [lax.select_n(at_zero, across, lax.full_like(across, 0))]

    return Structured(forward, backward, active)
