"""The walk over a program's own values: the cotangents that it carries, and where it says a wrong rule stands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.comparing.equations.audit import Audit
from fnbackprop.comparing.equations.check import COMPILED
from fnbackprop.comparing.program import make_program, trace_program

X = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1.5, (4,)), jnp.float32)
XS = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)), jnp.float32)


def audit(fun, *args, **options):
    return Audit(trace_program(make_program(fun, args, 0, None)), **options).run()


def scanned(x, reverse=False):
    carry, ys = lax.scan(lambda c, t: (jnp.sin(c * x + t), c), x, XS, reverse=reverse)
    return jnp.sum(carry * carry) + jnp.sum(ys[2] * x)


def iterated(x):
    return jnp.sum(lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.sin(s[1] * x)), (0, x))[1])


def branched(x):
    return lax.cond(x[0] > 0, lambda x: jnp.sum(jnp.sin(x) * x), lambda x: jnp.sum(x), x)


def called(x):
    return jax.checkpoint(lambda x: jnp.sum(jax.jit(lambda x: jnp.sin(x) * x)(x)))(x)


def nested(x):
    def step(c, t):
        return lax.cond(c[0] < 9, lambda c: jnp.sin(c) + t, lambda c: c, c), None

    return jnp.sum(lax.scan(step, x, XS)[0])


PROGRAMS = {
    "scan": scanned,
    "reversed scan": lambda x: scanned(x, reverse=True),
    "while": iterated,
    "cond": branched,
    "calls": called,
    "nested": nested,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_cotangents_are_the_gradient(name):
    fun = PROGRAMS[name]
    walked = audit(fun, X)
    assert walked.found == () and walked.audited >= 2 and not walked.notes
    expected = fb.grad(fun)(X) if name == "while" else jax.grad(fun)(X)
    np.testing.assert_allclose(walked.cotangents[0], expected, rtol=1e-5)
    np.testing.assert_allclose(walked.value, fun(X), rtol=1e-6)


@pytest.mark.parametrize(
    "name, within",
    [
        ("scan", "scan[4]"),
        ("reversed scan", "scan[0]"),
        ("while", "while[2]"),
        ("cond", "cond[1]"),
        ("calls", ""),
        ("nested", "scan[4]/cond[1]"),
    ],
)
def test_a_wrong_rule_is_found_where_the_backward_walk_meets_it_first(plant, name, within):
    plant("sin")
    fb.vjp_rule("sin")(lambda dy, x: 3 * dy * jnp.cos(x))
    (found,) = audit(PROGRAMS[name], X).found
    assert (found.primitive, found.within, found.operand, found.count) == ("sin", within, 0, 1)
    assert "test_audit.py" in found.where and found.hypothesis.text.startswith("a factor 1/3 is missing")


def test_equal_equations_share_one_check():
    def fun(x):
        for _ in range(6):
            x = jnp.tanh(x * 1.5) + x
        return jnp.sum(x)

    before = len(COMPILED.compiled)
    assert audit(fun, X).audited == 19 and len(COMPILED.compiled) - before <= 8


def test_a_rule_that_is_exchanged_is_asked_anew(plant):
    def fun(x):
        return jnp.sum(jnp.cos(x))

    assert audit(fun, X).found == ()
    right = plant("cos")
    fb.vjp_rule("cos")(lambda dy, x: dy * jnp.sin(x))
    assert audit(fun, X).found[0].hypothesis.kind == "sign"
    plant("cos", right)
    assert audit(fun, X).found == ()


def test_what_jax_does_not_differentiate_is_told_and_passed_by():
    """scatter-mul with repeated indices has no derivative in JAX."""

    def fun(x):
        return jnp.sum(jnp.ones(4).at[jnp.array([0, 0])].mul(x[:2]) * x)

    walked = audit(fun, X)
    assert walked.found == () and any("scatter-mul" in note and "was not checked" in note for note in walked.notes)
    np.testing.assert_allclose(walked.cotangents[0], fb.grad(fun)(X), rtol=1e-5)
