"""The derivative of each pointwise primitive as mpmath has it, and the points at which it is taken.

A derivative returns a number, `None` where there is none (outside the domain, on a pole without a sign), or a complex
number for a real operand, which is outside the domain too. Derivatives at kinks and ties are JAX's conventions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import mpmath
from jax import lax
from jax.extend.core import primitives
from mpmath import mp

from .points import CLAMP, FEW, GAMMA_A, GAMMA_X, ORDERS, PAIRS, REAL, UNIT, ZETA_Q, ZETA_X

FLOATS, BOTH = ("float32", "float64"), ("float32", "float64", "complex64", "complex128")


@dataclass(frozen=True)
class Row:
    """A function of one primitive, its derivative in one operand, and the points of each operand.

    `points` is one sequence for each operand: the table takes all their combinations. `reads` is what `derivative` is
    called with: the operands, or the operands and the output."""

    name: str
    function: Callable
    derivative: Callable
    wrt: int = 0
    points: tuple[Sequence[float], ...] = (REAL,)
    dtypes: tuple[str, ...] = FLOATS
    reads_output: bool = False


EXISTING = {p.name for p in vars(primitives).values() if hasattr(p, "bind")}
ROWS: dict[str, Row] = {}


def add(name: str, function: Callable, *derivatives: Callable, **options: Any) -> None:
    """One row for each operand that has a derivative, if this JAX has the primitive."""
    if name.split()[0] not in EXISTING:
        return
    for i, derivative in enumerate(derivatives):
        if derivative is not None:
            label = f"{name} {'xyz'[i]}" if len(derivatives) > 1 else name
            ROWS[label] = Row(label, function, derivative, i, **options)


def over(a: Any, b: Any) -> Any:
    """a/b, infinite on a pole."""
    return mp.sign(a) * mp.inf if b == 0 and a != 0 else a / b


def root(x: Any) -> Any:
    return mp.sqrt(x)


def unary(name: str, derivative: Callable, dtypes: tuple[str, ...] = BOTH, points: Any = REAL, label: str = "") -> None:
    if hasattr(lax, name):
        add(label or name, getattr(lax, name), derivative, dtypes=dtypes, points=(points,))


# ---------------------------------------------------------------- one operand

unary("neg", lambda x: -1)
unary("square", lambda x: 2 * x)
unary("one_minus_square", lambda x: -2 * x)
unary("sqrt", lambda x: over(1, 2 * root(x)))
unary("rsqrt", lambda x: over(-1, 2 * x * root(x)))
unary("cbrt", lambda x: over(1, 3 * mp.cbrt(abs(x)) ** 2), FLOATS)
unary("exp", mp.exp)
unary("exp2", lambda x: mp.ln2 * mpmath.power(2, x))
unary("expm1", mp.exp)
unary("log", lambda x: over(1, x))
unary("log2", lambda x: over(1, x * mp.ln2))
unary("log1p", lambda x: over(1, 1 + x))
unary("logistic", lambda x: 1 / (2 * mp.cosh(x / 2)) ** 2)
unary("sin", mp.cos)
unary("cos", lambda x: -mp.sin(x))
unary("tan", lambda x: 1 / mp.cos(x) ** 2)
unary("asin", lambda x: over(1, root(1 - x) * root(1 + x)))
unary("acos", lambda x: over(-1, root(1 - x) * root(1 + x)))
unary("atan", lambda x: 1 / (1 + x * x))
unary("sinh", mp.cosh)
unary("cosh", mp.sinh)
unary("tanh", lambda x: 1 / mp.cosh(x) ** 2)
unary("asinh", lambda x: 1 / (root(1 - 1j * x) * root(1 + 1j * x)) if isinstance(x, mp.mpc) else 1 / root(1 + x * x))
unary("acosh", lambda x: None if not isinstance(x, mp.mpc) and x < 1 else over(1, root(x - 1) * root(x + 1)))
unary("atanh", lambda x: None if abs(mp.re(x)) > 1 and not isinstance(x, mp.mpc) else over(1, (1 - x) * (1 + x)))


def _power_slope(y: int, x: Any) -> Any:
    if y == 1:
        return 1  # at infinity too, whose zeroth power has no value in mpmath
    return over(y, x ** (1 - y)) if y < 0 else y * x ** (y - 1) if y else 0


for _power in (3, -2, 0, 1, 7):
    add(f"integer_pow {_power}", partial(lax.integer_pow, y=_power), partial(_power_slope, _power), dtypes=BOTH)
for _name, _derivative in {"tanh": ROWS["tanh"].derivative, "logistic": ROWS["logistic"].derivative, "expm1": mp.exp,
                           "sin": mp.cos, "cos": ROWS["cos"].derivative}.items():  # fmt: skip
    add(f"{_name} accurate", partial(getattr(lax, _name), accuracy=lax.AccuracyMode.HIGHEST), _derivative, dtypes=BOTH)
add("polynomial", lambda x: lax.polynomial(x, [3.0, -1.0, 0.5]), lambda x: x - 1, points=(FEW,))

# ---------------------------------------------------------------- conversions, parts of complex numbers

unary("abs", lambda x: 1 if x >= 0 else -1, FLOATS)
add("abs complex", lax.abs, lambda x: mp.conj(x) / abs(x), dtypes=("complex64", "complex128"))
add("sign complex", lambda x: lax.real(lax.sign(x)), lambda x: _sign_slope(x), dtypes=("complex64", "complex128"))
add("reduce_precision", lambda x: lax.reduce_precision(x, 8, 23), lambda x: 1, points=(FEW,))
add("real", lax.real, lambda x: 1, dtypes=("complex64", "complex128"))
add("imag", lax.imag, lambda x: -1j, dtypes=("complex64", "complex128"))
add("conj", lambda x: lax.conj(x), lambda x: 1, dtypes=("complex64", "complex128"))
add("complex", lambda x, y: lax.real(lax.complex(x, y)), lambda x, y: 1, lambda x, y: 0, points=(FEW, FEW))


def _sign_slope(x: Any) -> Any:
    """Re(x/|x|) = a/√(a² + b²): ∂/∂a - i·∂/∂b = (b² + i·a·b)/|x|³."""
    a, b = mp.re(x), mp.im(x)
    return (b * b + 1j * a * b) / abs(x) ** 3


# ---------------------------------------------------------------- several operands


def binary(name: str, *derivatives: Callable, dtypes: tuple[str, ...] = FLOATS, points: Any = (PAIRS, PAIRS)) -> None:
    add(name, getattr(lax, name), *derivatives, dtypes=dtypes, points=points)


def _larger(x: Any, y: Any) -> Any:
    return None if mp.isnan(x) or mp.isnan(y) else 1 if x > y else 0.5 if x == y else 0


def _over_square(a: Any, b: Any) -> Any:
    """a/(a² + b²), 0 where one of them is infinite; undefined where both are."""
    if mp.isinf(a) or mp.isinf(b):
        return None if mp.isinf(a) and mp.isinf(b) else a + b if mp.isnan(a + b) else 0
    return a / (a * a + b * b)


def _power_x(x: Any, y: Any) -> Any:
    if mp.isinf(y):
        return None
    if x == 0 or y == 0:  # y = 0 is constant; at x = 0 by the sign of the exponent
        return 0 if y == 0 or y > 1 else 1 if y == 1 else None
    return y * x ** (y - 1)


def _power_y(x: Any, y: Any) -> Any:
    if x == 0:
        return 0 if mp.re(y) > 0 else None
    if x == 1:
        return 0  # as for every finite y
    return mp.log(x) * (x**y if y else 1)  # mpmath gives the zeroth power of infinity no value


binary("add", lambda x, y: 1, lambda x, y: 1, dtypes=BOTH)
binary("sub", lambda x, y: 1, lambda x, y: -1, dtypes=BOTH)
binary("mul", lambda x, y: y, lambda x, y: x, dtypes=BOTH)
binary("div", lambda x, y: over(1, y), lambda x, y: over(-x, y * y), dtypes=BOTH)
binary("rem", lambda x, y: 1, lambda x, y: None if y == 0 or mp.isinf(x) else -mp.sign(x / y) * mp.floor(abs(x / y)))
binary("pow", _power_x, _power_y, dtypes=BOTH)
binary("atan2", lambda x, y: _over_square(y, x), lambda x, y: _over_square(-x, y))
binary("nextafter", lambda x, y: 1, lambda x, y: 0)
binary("max", _larger, lambda x, y: _larger(y, x))
binary("min", lambda x, y: _larger(y, x), _larger)
add("clamp", lambda low, x, high: lax.clamp(low, x, high), lambda low, x, high: 1 if x < low < high else 0,
    lambda low, x, high: 1 if low < x < high else 0, lambda low, x, high: 1 if x > high or low > high else 0,
    points=(CLAMP,) * 3)  # fmt: skip
add("select_n", lambda x, y: lax.select_n(x > y, x, y), lambda x, y: 0 if x > y else 1, lambda x, y: 1 if x > y else 0,
    points=(FEW, FEW))  # fmt: skip

# ---------------------------------------------------------------- special functions

unary("erf", lambda x: 2 / root(mp.pi) * mp.exp(-x * x), FLOATS)
unary("erfc", lambda x: -2 / root(mp.pi) * mp.exp(-x * x), FLOATS)
unary("erf_inv", lambda y: root(mp.pi) / 2 * mp.exp(mp.erfinv(y) ** 2) if abs(y) <= 1 else None, FLOATS)
unary("lgamma", mp.digamma, FLOATS)
unary("digamma", lambda x: _trigamma(x), FLOATS)
add("polygamma", lambda m, x: lax.polygamma(m, x), None, lambda m, x: mp.polygamma(int(m) + 1, x) if x > 0 else None,
    points=(ORDERS, UNIT))  # fmt: skip
unary("bessel_i0e", lambda x: _bessel_slope(x, 0), FLOATS)
unary("bessel_i1e", lambda x: _bessel_slope(x, 1), FLOATS)
add("zeta", lax.zeta, lambda x, q: mp.zeta(x, q, 1), lambda x, q: -x * mp.zeta(x + 1, q), points=(ZETA_X, ZETA_Q))


def _trigamma(x: Any) -> Any:
    """DLMF 5.15.6 on the left, 5.15.8 far out, where mpmath's own takes very long."""
    if x < 0:
        return (mp.pi / mp.sinpi(x)) ** 2 - _trigamma(1 - x)
    if x < 60 or not mp.isfinite(x):
        return mp.polygamma(1, x)
    return 1 / x + 1 / (2 * x * x) + mp.fsum(mp.bernoulli(2 * k) / x ** (2 * k + 1) for k in range(1, 40))


def _bessel_slope(x: Any, order: int) -> Any:
    """Of e^-|x|·Iᵥ(x); at 0 from the right. Far out by the asymptotic series: mpmath's own takes very long there."""
    side = 1 if x >= 0 else -1
    if mp.isinf(x):
        return 0
    if abs(x) < 300:
        i0, i1 = mp.besseli(0, x), mp.besseli(1, x)
        slope = i1 - side * i0 if order == 0 else i0 - (i1 / x if x else 0.5) - side * i1
        return mp.exp(-abs(x)) * slope
    terms, a = [], mp.mpf(1)
    for k in range(60):
        terms.append((k + 0.5) * a / abs(x) ** (k + 1))
        a *= -(4 * order**2 - (2 * k + 1) ** 2) / mp.mpf(8 * (k + 1))
    return -(side if order == 0 else 1) * mp.fsum(terms) / root(2 * mp.pi * abs(x))


# ---------------------------------------------------------------- incomplete gamma and beta functions


def _density(a: Any, x: Any) -> Any:
    if x == 0:
        return mp.inf if a < 1 else 1 if a == 1 else 0
    return mp.exp((a - 1) * mp.log(x) - x - mp.loggamma(a)) if x < mp.inf else 0


def _lower(a: Any, x: Any) -> Any:
    """P(a, x)."""
    return mp.gammainc(a, 0, x, regularized=True)


def _slope_in_a(a: Any, x: Any, order: int = 1) -> Any:
    return 0 if x in (0, mp.inf) else mp.diff(lambda a: _lower(a, x), a, order)


def _mixed_slope(a: Any, x: Any) -> Any:
    if x in (0, mp.inf):
        return -mp.inf if x == 0 and a <= 1 else 0
    return _density(a, x) * (mp.log(x) - mp.digamma(a))


def _sample_slope(a: Any, y: Any) -> Any:
    return -_slope_in_a(a, y) / _density(a, y)


GAMMA = {"points": (GAMMA_A, GAMMA_X)}
add("igamma", lax.igamma, _slope_in_a, _density, **GAMMA)
add("igammac", lax.igammac, lambda a, x: -_slope_in_a(a, x), lambda a, x: -_density(a, x), **GAMMA)
add("igamma_grad_a", lax.igamma_grad_a, lambda a, x: _slope_in_a(a, x, 2), _mixed_slope, **GAMMA)
add("random_gamma", lambda a: jax.random.gamma(jax.random.key(1), a), lambda a, y: _sample_slope(a, y),
    points=(GAMMA_A,), reads_output=True)  # fmt: skip


def _beta(a: Any, b: Any, x: Any) -> Any:
    return mp.betainc(a, b, 0, x, regularized=True)


add("regularized_incomplete_beta", lax.betainc,
    lambda a, b, x: mp.diff(lambda a: _beta(a, b, x), a), lambda a, b, x: mp.diff(lambda b: _beta(a, b, x), b),
    lambda a, b, x: mp.exp((a - 1) * mp.log(x) + (b - 1) * mp.log(1 - x)) / mp.beta(a, b),
    points=((0.3, 1.0, 2.5, 40.0), (0.5, 1.0, 3.0, 25.0), (1e-6, 0.01, 0.3, 0.5, 0.9, 0.999)))  # fmt: skip
