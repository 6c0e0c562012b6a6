"""Rules for primitives of one's own, written as a user would: elementwise, indexed, and structured.

The structured one follows the worked example in `fnbackprop/rules/calls/call.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import mlir

import fnbackprop as fb
from fnbackprop.backprop.registry import Structured, derivative, structured_rule
from fnbackprop.jaxprs.views import Call

from .checking import check_equal, random_cotangent

RNG = np.random.default_rng(0)
W, X = RNG.normal(size=(3, 3)), RNG.normal(size=3)
pytestmark = pytest.mark.usefixtures("x64")


def new_primitive(name, function, abstract, multiple_results=False):
    """A primitive that is evaluated by a function of JAX operations."""
    primitive = Primitive(name)
    primitive.multiple_results = multiple_results
    primitive.def_impl(function)
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=multiple_results))
    return primitive


# ---------------------------------------------------------------- elementwise: the derivative, in two lines

softsign_p = new_primitive("user_softsign", lambda x: x / (1 + jnp.abs(x)), lambda x: x)


@derivative("user_softsign")
def softsign_vjp(x):
    return 1 / (1 + jnp.abs(x)) ** 2


def test_an_elementwise_rule():
    check_equal(softsign_p.bind, lambda x: x / (1 + jnp.abs(x)), X, batched=False)


# ---------------------------------------------------------------- indexed: cotangents of several operands

gather_rows_p = new_primitive(
    "user_gather_rows",
    lambda table, rows: table[rows],
    lambda table, rows: table.update(shape=(*rows.shape, table.shape[1])),
)


@fb.vjp_rule("user_gather_rows", "table, rows -> picked", wrt="table")
def gather_rows_vjp(dpicked, table_aval, rows):
    """picked = table[rows]: each row of dpicked is added to the row that it was read from."""
    return jnp.zeros(table_aval.shape, table_aval.dtype).at[rows].add(dpicked)


def test_an_indexed_rule():
    rows = jnp.asarray([2, 0, 2, 1])
    check_equal(lambda w: gather_rows_p.bind(w * w, rows), lambda w: (w * w)[rows], W, batched=False)


# ---------------------------------------------------------------- structured: a primitive that holds a jaxpr


def apply_twice(w, x, *, jaxpr):
    (x,) = jaxpr_as_fun(jaxpr)(w, x)
    return jaxpr_as_fun(jaxpr)(w, x)


twice_p = new_primitive("user_twice", apply_twice, lambda w, x, *, jaxpr: [x], multiple_results=True)


def twice(f, w, x):
    """f(w, f(w, x))"""
    return twice_p.bind(w, x, jaxpr=jax.make_jaxpr(f)(w, x))[0]


@structured_rule("user_twice")
def twice_vjp(engine, equation, active, wanted):
    """(1) h = f(w, x); (2) y = f(w, h). Backward: (2) dw, dh = fᵀ(dy); (1) dw += ..., dx = fᵀ(dh)."""
    f = Call.of(equation).body
    w_active, x_active = active
    h_active = any(engine.active_outputs(f, active))
    first = engine.plan(f, (w_active, x_active), (h_active,))
    second = engine.plan(f, (w_active, h_active), wanted)

    def forward(w, x):
        (h,), r1 = engine.forward(first, (w, x))  # (1)
        y, r2 = engine.forward(second, (w, h))  # (2)
        return y, (r1, r2)

    def backward(residuals, cotangents):
        r1, r2 = residuals
        dw, dh = engine.backward(second, r2, cotangents)  # (2)
        dw_first, dx = engine.backward(first, r1, [dh])  # (1)
        dw = dw_first if dw is None else dw if dw_first is None else dw + dw_first  # None is zero
        return [dw, dx]

    return Structured(forward, backward, has_cotangent=active)


def layer(w, x):
    return jnp.tanh(w @ x) + jnp.sum(x)


def reference(w, x):
    return layer(w, layer(w, x))


def test_a_structured_rule():
    """To second order, as `check_equal` does; and with one operand that is not differentiated."""
    check_equal(lambda w, x: twice(layer, w, x), reference, W, X, batched=False)
    check_equal(lambda w: twice(layer, w, X), lambda w: reference(w, X), W, batched=False)
    check_equal(lambda x: twice(layer, W, x), lambda x: reference(W, x), X, batched=False)


def test_a_structured_rule_composes():
    """Within jit and scan, around a scan, and in itself."""

    def inner(w, x):
        return jax.lax.scan(lambda h, _: (jnp.sin(w @ h), None), x, None, length=3)[0]

    def nested(w, x):
        return twice(lambda w, x: twice(inner, w, x), w, x)

    def scanned(w, x):
        return jax.lax.scan(lambda h, _: (twice(layer, w, h) / 9, None), x, None, length=3)[0]

    def scanned_reference(w, x):
        return jax.lax.scan(lambda h, _: (reference(w, h) / 9, None), x, None, length=3)[0]

    def nested_reference(w, x):
        for _ in range(4):
            x = inner(w, x)
        return x

    ct = random_cotangent(X)
    for fun, plain in ((nested, nested_reference), (scanned, scanned_reference)):
        got = jax.jit(lambda w, x, fun=fun: fb.vjp(fun, w, x)[1](ct))(W, X)
        want = jax.vjp(plain, W, X)[1](ct)
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-12, atol=1e-12 * np.abs(w).max())


def test_a_body_that_depends_on_nothing_differentiable():
    def rounded(w, x):
        return jnp.round(x) + 0 * jnp.round(w).sum()

    value, pullback = fb.vjp(lambda w, x: twice(rounded, w, x) * x, W, X)
    dw, dx = pullback(jnp.ones(3))
    np.testing.assert_allclose(dw, np.zeros((3, 3)))
    np.testing.assert_allclose(dx, value / X)


def test_an_unknown_primitive_is_named():
    """With the lines that would register a rule."""
    unknown = new_primitive("user_unknown", lambda x: x, lambda x: x)
    with pytest.raises(fb.MissingRule, match=r'@fb.vjp_rule\("user_unknown", "x0 -> y0"\)'):
        fb.grad(lambda x: jnp.sum(unknown.bind(softsign_p.bind(x))))(X)
