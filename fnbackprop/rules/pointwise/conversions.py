"""Rounding, and the parts of complex numbers. `dx` is the cotangent of `x`: same shape, same dtype.

Complex cotangents pair with tangents bilinearly: ⟨dy, t⟩ = Re Σ dy·t, without conjugation. So a holomorphic y(x) has
dx = y'(x)·dy, and a real y of a complex x has dx = ∂y/∂Re x - i·∂y/∂Im x.
"""

from jax import lax

from ...backprop.jvp_by_rules import bind_with_jvp
from ...backprop.registry import Structured, structured_rule
from ..expressions import complex_of_parts, full_like, is_complex, on_expressions, vjp_rule, where


@vjp_rule("reduce_precision")
def reduce_precision_vjp(dy, *, exponent_bits, mantissa_bits):
    """The cotangent is rounded likewise, since it is a value of that precision."""
    return lax.reduce_precision(dy.array, exponent_bits, mantissa_bits)


# ---------------------------------------------------------------- complex numbers


@vjp_rule("real")
def real_vjp(dy):
    return complex_of_parts(dy, full_like(dy, 0))


@vjp_rule("imag")
def imag_vjp(dy):
    """y = Im x = Re(-i·x), dx = -i·dy."""
    return complex_of_parts(full_like(dy, 0), -dy)


@vjp_rule("complex", "x, y -> z", wrt="x")
def complex_vjp_x(dz):
    """z = x + i·y, dx = Re dz."""
    return dz.real


@vjp_rule("complex", "x, y -> z", wrt="y")
def complex_vjp_y(dz):
    """z = x + i·y, dy = Re(i·dz) = -Im dz."""
    return -dz.imag


@vjp_rule("conj")
def conj_vjp(dy):
    """Re(dy·conj(t)) = Re(conj(dy)·t)."""
    return dy.conj()


@vjp_rule("abs")
def abs_vjp(dy, x):
    """Real: dy/dx = sign(x), but 1 at ±0. Complex: |x| has dx = dy·conj(x)/|x|, and 0 at 0."""
    if is_complex(x):
        size = abs(x)
        return where(size == 0, 0, dy.astype(x.dtype) * _divided(x.conj(), where(size == 0, 1, size)))
    return where(x >= 0, dy, -dy)


def _divided(x, size):
    """A complex number divided by a real one, part by part: a complex division would square the size."""
    return complex_of_parts(x.real / size, x.imag / size)


def sign_activity(engine, equation, active):
    """A real sign is piecewise constant; a complex one turns with its operand."""
    return (is_complex(equation.invars[0].aval),)


@structured_rule("sign", activity=sign_activity)
def sign_vjp(engine, equation, active, wanted):
    """Complex y = x/|x|: a tangent t turns y by t/|x| less its part along y, so dx = (dy - conj(y)·Re(dy·y))/|x|. Since
    dy = conj(y)·(dy·y), that is i·conj(y)·Im(dy·y)/|x|, where nothing cancels."""

    def forward(x):
        (y,) = bind_with_jvp(engine, equation.primitive, equation.params, [x])
        return [y], (x, y)

    @on_expressions
    def backward(residuals, cotangents):
        (x, y), (dy,) = residuals, cotangents
        across = (dy * y).imag
        size = abs(x)
        at_zero = size == 0
        return [
            where(at_zero, 0, _divided(complex_of_parts(y.imag * across, y.real * across), where(at_zero, 1, size)))
        ]

    return Structured(forward, backward, active)
