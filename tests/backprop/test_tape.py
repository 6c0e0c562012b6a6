"""The tape: functions that need the numbers of their values."""

import math
import warnings

import jax
import jax.numpy as jnp
import pytest

import fnbackprop as fb
from fnbackprop.backprop.tape import ConstantWarning
from fnbackprop.jaxprs import evaluate

from ..rules.checking import assert_close

# ---------------------------------------------------------------- Python numbers


def test_float_of_a_value_works_and_warns_at_its_line():
    """`float(x)`, which `jax.grad` refuses, works too; what is computed from it is a constant, which is said."""

    def fun(x):
        return x * x if float(x) > 1 else x

    with pytest.warns(ConstantWarning, match="no gradient flows") as caught:
        assert fb.grad(fun)(3.0) == 6.0
    line = fun.__code__.co_firstlineno + 1
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, line)]
    with pytest.raises(jax.errors.ConcretizationTypeError):
        jax.grad(fun)(3.0)


def test_math_of_a_value_warns():
    with pytest.warns(ConstantWarning, match="math"):
        assert float(fb.grad(lambda x: math.sin(x) * x)(2.0)) == pytest.approx(math.sin(2.0))


def test_a_stopped_gradient_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fb.grad(lambda x: float(jax.lax.stop_gradient(x)) * x)(2.0) == 2.0


def while_from_a_number(x):
    return jax.lax.while_loop(lambda c: c[1] < 3, lambda c: (c[0] * 2, c[1] + 1), (x, 0))[0]


PROGRAMS = {
    "while": (while_from_a_number, 8.0),
    "predicate": (lambda x: jax.lax.cond(True, lambda a, b: a * b, lambda a, b: a, x, 3.0), 3.0),
    "branch operand": (lambda x: jax.lax.cond(x > 1, lambda a, b: a * b, lambda a, b: a, x, 3), 3.0),
    "bounds": (lambda x: jax.lax.fori_loop(0, 2, lambda i, c: c * x, 1.0), 4.0),
    "scan": (lambda x: jax.lax.scan(lambda c, _: (c * x, 0), 1.0, length=2)[0], 4.0),
    "index": (lambda x: jax.lax.switch(2, [lambda a: a, lambda a: 2 * a, lambda a: a**2], x), 4.0),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_python_numbers_as_operands(name):
    fun, expected = PROGRAMS[name]
    assert fb.grad(fun, eager=True)(2.0) == expected
    assert fb.grad(lambda x: fun(x) if x > 0 else x)(2.0) == expected


# ---------------------------------------------------------------- the user's rules on numbers


@jax.custom_jvp
def folded(x):
    return x if x > 0 else -x


@folded.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    return folded(x), t * (3.0 if x > 0 else -7.0) + jnp.zeros_like(x) * t


@jax.custom_vjp
def mirrored(x, y):
    return (x if x > 0 else -x) * y


def mirrored_forward(x, y):
    return (x * y, (y, 3.0)) if x > 0 else (-x * y, (y, 5.0))


mirrored.defvjp(mirrored_forward, lambda res, ct: (ct * res[0] * res[1] if ct > 0 and res[1] > 4 else ct, 0.0))


@jax.custom_jvp
def chosen(x, y):
    return x * y


def chosen_jvp(primals, tangents):
    (x, y), (t, s) = primals, tangents
    assert type(s) is jax.custom_derivatives.SymbolicZero
    return chosen(x, y), (t * y * (11 if x > 0 else 13))


chosen.defjvp(chosen_jvp, symbolic_zeros=True)


def nested(x):
    return folded(mirrored(jnp.sin(x), 2.0) * x)


@pytest.mark.parametrize("x", [2.0, -2.0])
@pytest.mark.parametrize("fun", [folded, lambda x: mirrored(x, x), lambda x: chosen(x, 2.0), nested])
def test_rules_that_branch_on_values(fun, x):
    """Only without jit, as in JAX; a residual may be a number, and a cotangent too."""
    assert_close(fb.grad(fun)(x), jax.grad(fun)(x), 1e-6)
    assert_close(fb.grad(fb.grad(lambda x: fun(x) * x**2))(x), jax.grad(jax.grad(lambda x: fun(x) * x**2))(x), 1e-6)


def test_rules_within_vmap_on_the_tape():
    x = jnp.asarray([0.5, -2.0])
    fun = lambda x: jax.vmap(jax.nn.relu)(x).sum() * (2.0 if x[0] > 0 else 1.0)  # noqa: E731
    assert_close(fb.grad(fun)(x), jax.grad(fun)(x), 1e-6)


@jax.custom_jvp
def gathered(x):
    return x * x


gathered.defjvp(lambda p, t: (gathered(*p), t[0] * jax.lax.all_gather(p[0], "i").sum() * jax.lax.psum(1.0, "i")))


def test_a_rule_that_looks_an_axis_up():
    x = jnp.arange(3.0)
    fun = lambda x: jax.vmap(gathered, axis_name="i")(x).sum()  # noqa: E731
    assert_close(fb.grad(fun)(x), jax.grad(fun)(x), 1e-6)
    assert_close(jax.jit(fb.grad(fun))(x), jax.grad(fun)(x), 1e-6)
    assert_close(jax.vmap(fb.grad(gathered), axis_name="i")(x), jax.grad(fun)(x), 1e-6)


def test_a_rule_that_closes_over_a_mapped_value():
    def scaled(x, z):
        fun = jax.custom_vjp(lambda y: x * y)
        fun.defvjp(lambda y: (x * y, (x, y)), lambda res, ct: (res[0] * ct,))
        return fun(z)

    fun = lambda z: jax.vmap(lambda x: scaled(x, z))(jnp.arange(3.0)).sum()  # noqa: E731
    assert fb.grad(fun)(3.0) == jax.grad(fun)(3.0) == 3.0


# ---------------------------------------------------------------- speed


def test_a_call_is_traced_once_at_each_place(monkeypatch):
    """A loop in Python traces its primitives in its first round; what else a call holds is not kept alive."""
    traced = []
    trace = evaluate.trace_avals
    monkeypatch.setattr(evaluate, "trace_avals", lambda call, avals: traced.append(call) or trace(call, avals))

    def fun(x):
        for _ in range(20):
            x = x * 1.01 if x > 0 else -x
        return x

    assert_close(fb.grad(fun)(jnp.asarray(1.0)), jax.grad(fun)(jnp.asarray(1.0)), 1e-6)
    assert 0 < len(traced) <= 4
