"""Why a row of the table of units in the last place is as it is: where our error is larger than JAX's, or large.

A reason that is needed no longer is an error, so that the list only gets shorter.
"""

from jax import lax

_F, _C = ("float32", "float64"), ("complex64", "complex128")

_OUTPUT = "the rule reads the output, which costs nothing and is exact to 1 ulp of 1; accuracy= asks for the tail"
_COMPLEX_TANH = "as without accuracy=, where the two factors of the tail are XLA's own complex logistic"
_VALUE = "the primitive of which the derivative consists has this error itself"
_ERF = "exp makes x² ulp of the rounding of x²; a square in two parts would need a second exp"
_RANGE = "a power on the way is denormal, thus zero, where its product with a large factor is not"
_ROOT = "three products of the output alone; JAX divides by the operand, which it must keep"
_TWO_ROOTS = "two roots and their product, which is right on every branch and never overflows"
_PARITY = "from 2^24 (2^53) on y - 1 is y, so that (-1)^(y - 1) has the wrong sign; it has in JAX too"
_CONDITION = "a complex power turns by Im(y log x), of which the rounding is 1 ulp times its size"
_LOGARITHMS = "in the tails the density is exp of a large number, whose rounding it multiplies by that number"
_SQUARES = "for small a the squares (log x - ψ(a))² and ψ'(a) are both 1/a², and cancel"
_BETA = "regularized_incomplete_beta"
_NEAR_ZERO = "next to a zero of the derivative: its terms cancel"
_NEAR = "up to where the series begins i0e and i1e agree to 1 part in 2x; by JAX everywhere beyond too"


def _rows(name: str, dtypes: tuple[str, ...], reason: str) -> dict[str, str]:
    return {f"{name} {dtype}": reason for dtype in dtypes}


REASONS = {
    **_rows("rsqrt", (*_F, *_C), _ROOT),
    "cbrt float32": "the value of a denormal number is wrong: XLA's is -6e-16",
    **_rows("exp2", (*_F, *_C), _VALUE),
    **_rows("expm1", (*_F, *_C), _OUTPUT),
    **_rows("logistic", (*_F, *_C), _OUTPUT),
    **_rows("tanh", (*_F, *_C), _OUTPUT),
    **_rows("tan", _C, _OUTPUT),
    **_rows("tanh accurate", ("complex64",), _COMPLEX_TANH),
    **_rows("sinh", _F, _VALUE),
    **_rows("cosh", _F, _VALUE),
    **_rows("asinh", ("complex64",), _TWO_ROOTS),
    **_rows("integer_pow 3", ("float32",), _RANGE),
    "div y float32": "infinite x over a y of which 1/y is denormal, thus zero: inf · 0; by JAX, all y² out of range",
    **_rows("pow x", _F, _PARITY),
    **_rows("pow x", _C, _CONDITION),
    **_rows("pow y", ("float32",), _RANGE),
    **_rows("pow y", _C, _CONDITION),
    **_rows("erf", _F, _ERF),
    **_rows("erfc", _F, _ERF),
    **_rows("erf_inv", _F, _VALUE),
    **_rows("lgamma", _F, _NEAR_ZERO),
    **_rows("polygamma y", _F, _VALUE),
    **_rows("bessel_i0e", _F, _NEAR),
    **_rows("bessel_i1e", _F, _NEAR_ZERO),
    **_rows("zeta x", ("float32",), _RANGE),
    **_rows("zeta y", ("float32",), _RANGE),
    **_rows("zeta y", ("float64",), _VALUE),
    **_rows("igamma x", _F, _VALUE),
    **_rows("igamma y", _F, _LOGARITHMS),
    **_rows("igammac x", _F, _VALUE),
    **_rows("igammac y", _F, _LOGARITHMS),
    **_rows("igamma_grad_a x", ("float32",), _RANGE),
    **_rows("igamma_grad_a x", ("float64",), _SQUARES),
    **_rows("igamma_grad_a y", ("float32",), _RANGE),
    **_rows("igamma_grad_a y", ("float64",), _LOGARITHMS),
    **{key: reason for i in "xyz" for key, reason in _rows(f"{_BETA} {i}", _F, _LOGARITHMS).items()},
    **_rows("random_gamma", ("float64",), _VALUE),
}

if hasattr(lax, "polynomial"):  # from JAX 0.12 on its asinh has another form
    REASONS |= _rows("asinh", ("complex128",), _TWO_ROOTS)
