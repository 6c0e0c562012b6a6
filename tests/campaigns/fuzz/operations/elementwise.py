"""Operations on each element: of real and complex numbers, of one operand and of several."""

from .rows import rows

ELEMENTWISE = [
    *rows(
        "float",
        """
        jnp.sin({0})
        jnp.cos({0})
        jnp.tanh({0})
        jnp.exp({0})
        jnp.exp2({0})
        jnp.expm1({0})
        jnp.arctan({0})
        jnp.arcsinh({0})
        jnp.sinh({0})
        jnp.cosh({0})
        lax.logistic({0})
        lax.erf({0})
        lax.erfc({0})
        lax.square({0})
        lax.neg({0})
        lax.bessel_i1e({0})
        jax.nn.gelu({0})
        jax.nn.softplus({0})
        jax.nn.silu({0})
        lax.stop_gradient({0})
        lax.optimization_barrier({0})
        lax.reduce_precision({0}, 11, 52)
        jnp.float64(jnp.float32({0}))
        {0} * {c}
        {c} - {0}
        {0} + jnp.floor({0} * {c})
        """,
        c=(0.3, 0.7, 1.5),
    ),
    *rows("float", "lax.integer_pow({0}, {n})", n=(2, 3, 4)),
    # Of i0e at 0, a kink, JAX gives no slope and we the one from the right (test_special.py). A guard sees no values
    # within bodies, so the operation itself stays off it.
    *rows(
        "float",
        "lax.integer_pow({0}, {n})\nlax.bessel_i0e(jnp.where({0} == 0, 1.0, {0}))",
        "away from 0",
        n=(-1, -2, -3),
    ),
    *rows(
        "float",
        """
        jnp.log({0})
        jnp.log1p({0})
        jnp.sqrt({0})
        lax.rsqrt({0})
        jnp.cbrt({0})
        lax.lgamma({0})
        lax.digamma({0})
        lax.polygamma(1.0, {0})
        lax.zeta(1.5 + {0}, 2.0)
        {0} ** 1.7
        {c} ** {0}
        """,
        "positive",
        c=(0.5, 2.0),
    ),
    *rows("float", "jnp.arcsin({0})\njnp.arccos({0})\njnp.arctanh({0})\nlax.erf_inv({0})", "inside 1"),
    *rows("float", "jnp.arccosh(1.0 + {0})", "positive"),
    *rows("float", "jnp.tan({0})", "inside 1"),
    *rows("float", "jnp.abs({0})\njnp.sign({0}) * {0}\njax.nn.relu({0})\njax.nn.leaky_relu({0})", "away from 0"),
    *rows("float", "lax.clamp({low}, {0}, {high})", low=(-0.51, -1.01), high=(0.52, 1.02)),
    *rows("float", "jnp.clip({0}, {low}, {high})", low=(-0.51, -1.01), high=(0.52, 1.02)),
]

BINARY = [
    *rows("float broadcast", "{0} + {1}\n{0} - {1}\n{0} * {1}\njnp.logaddexp({0}, {1})\njnp.hypot({0}, {1})"),
    *rows("float like", "lax.add({0}, {1})\nlax.mul({0}, {1})\nlax.sub({0}, {1})\nlax.atan2({0}, {1})"),
    *rows("float scalar", "{0} * {1}\n{0} + {1}\n{1} - {0}"),
    *rows("float broadcast", "{0} / {1}\njnp.arctan2({1}, {0})", "last away from 0"),
    *rows("float like", "lax.rem({0}, {1})", "quotient apart"),
    *rows("float broadcast", "jnp.maximum({0}, {1})\njnp.minimum({0}, {1})", "apart"),
    *rows("float broadcast", "jnp.abs({0}) ** {1}\nlax.pow(jnp.abs({0}), {1} + 0.0 * {0})", "away from 0"),
    *rows("float like", "lax.igamma({0}, {1})\nlax.igammac({0}, {1})", "positive"),
    *rows("float like like", "lax.clamp(-jnp.abs({0}), {1}, 0.3 + lax.square({2}))"),
    *rows("float like bool", "jnp.where({2}, {0}, {1})\nlax.select({2}, {0}, {1})\nlax.select_n({2}, {0}, {1})"),
    *rows("float broadcast", "jnp.where({0} > {1}, {0}, {1} * {0})", "apart"),
]

SIDE = [
    *rows("float like", "{0} > {1}\n{0} <= {1}", "apart"),
    *rows("float", "{0} > {c}", c=(0.013, -0.21)),
    *rows("float", "jnp.isfinite({0})\n~({0} < 0.123)"),
    *rows("(3,)", "jnp.argsort({0}).astype(jnp.int32)\nlax.iota(jnp.int32, 3)[::-1]"),
    *rows("index", "({0} + {k}) % 3\njnp.maximum({0}, {k})\n-{0} - 1", k=(1, 2)),
    *rows("float index", "{0} * jnp.sum({1}).astype(jnp.float64)\n{0} + {1}[{k}]", k=(0, 2)),
    *rows("bool", "{0}.astype(jnp.float64)"),
]

COMPLEX = [
    *rows("float like", "lax.complex({0}, {1})\n{0} + 1j * {1}\n{0} * jnp.exp(1j * {1})"),
    *rows(
        "complex",
        """
        jnp.real({0})
        jnp.imag({0})
        jnp.conj({0})
        jnp.exp({0})
        jnp.sin({0})
        jnp.tanh({0})
        {0} * {0}
        jnp.cumsum({0})[:3]
        """,
    ),
    *rows(
        "complex",
        """
        jnp.abs({0})
        jnp.angle({0})
        1.0 / {0}
        jnp.log({0})
        jnp.sqrt({0})
        lax.integer_pow({0}, 3)
        """,
        "away from 0",
    ),
    *rows("complex complex like", "{0} * {1}\n{0} - {1}"),
    *rows("complex", "jnp.prod({0}, axis={axis})\nlax.cumprod({0}, axis={axis})"),
    *rows("complex", "{0} ** {n}", "away from 0", n=(2, 1.5, -1)),
    *rows("complex complex", "jnp.vdot({0}, {1})\n{0} @ {1}\njnp.outer({0}, {1})[:3, :3]"),
    *rows("complex float like", "{0} * {1}\njnp.where({1} > 0.1, {0}, {1})"),
    *rows(
        "array",
        """
        jnp.fft.fft({0})
        jnp.fft.rfft({0})
        jnp.abs(jnp.fft.rfft({0}))[..., :3]
        jnp.fft.ifft({0}).real
        """,
    ),
    *rows("complex", "jnp.fft.ifft({0}, axis=-1)\njnp.fft.irfft({0}, 4)\njnp.sum({0})\n{0} @ {0}"),
]
