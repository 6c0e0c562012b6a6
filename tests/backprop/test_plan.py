"""The plan of a backward pass: which equations a gradient flows through, and which values are saved for it."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.backprop.engine import Engine
from fnbackprop.backprop.plan import active_outputs, make_plan


def fun(x, y):
    a = jnp.sin(x)
    b = a * y
    c = jnp.exp(y)
    return b, lax.floor(a), c


CLOSED = jax.make_jaxpr(fun)(1.0, 2.0)


def plan(active, wanted=(True, True, True), returned=None):
    return make_plan(Engine(), CLOSED, active, wanted, returned)


def names(plan):
    return [step.equation.primitive.name for step in plan.steps.values()]


def test_only_what_is_between_active_inputs_and_wanted_outputs():
    assert names(plan((True, False))) == ["sin", "mul"]
    assert names(plan((False, True))) == ["mul", "exp"]
    assert names(plan((True, True), wanted=(False, True, False))) == []  # floor has no derivative


def test_active_and_wanted_by_operand():
    product = list(plan((True, False)).steps.values())[1]
    assert product.active == (True, False) and product.wanted == (True,)
    assert plan((True, False)).active_out == (True, False, False)
    assert plan((True, False)).has_cotangent == (True, False)


def test_saved_are_what_the_rules_read():
    x, y = CLOSED.jaxpr.invars
    by_name = {e.primitive.name: e for e in CLOSED.jaxpr.eqns}
    assert set(plan((True, False)).saved) == {x, y}  # cos(x), and y of the product
    assert set(plan((False, True)).saved) == {by_name["sin"].outvars[0], by_name["exp"].outvars[0]}


def test_what_is_not_returned_nor_read_is_not_evaluated():
    found = [e.primitive.name for e in plan((True, False), (True, False, False), returned=1).evaluated]
    assert found == ["sin", "mul"]


def test_all_missing_rules_are_named_at_once(plant):
    plant("sin"), plant("exp")
    with pytest.raises(fb.MissingRule, match=r"2 equation\(s\)(.|\n)*sin(.|\n)*exp"):
        plan((True, True))


def test_active_outputs():
    assert active_outputs(Engine(), CLOSED, (True, False)) == (True, False, False)
