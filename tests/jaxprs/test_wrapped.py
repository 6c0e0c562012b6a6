"""The user's function and rule, where a library stands between them and JAX."""

import sys
import types

import jax
import jax.numpy as jnp
import pytest

import fnbackprop as fb
from fnbackprop.jaxprs.evaluate import as_function
from fnbackprop.jaxprs.wrapped import called_at, custom_rule_place, library_of, trace_wrapped_rules, users_function

LIBRARY = """
import jax

def ruled(function, forward, backward):
    def wrapper(x):
        return function(x)

    def wrapped_forward(x):
        return forward(x)

    def wrapped_backward(saved, dy):
        return (backward(saved, 2 * dy) / 2,)

    inner = jax.custom_vjp(wrapper)
    inner.defvjp(wrapped_forward, wrapped_backward)
    return lambda x: inner(x)

def pushed(function, rule):
    inner = jax.custom_jvp(lambda x: function(x))
    inner.defjvp(lambda primals, tangents: (function(*primals), rule(*primals, *tangents)))
    return lambda x: inner(x)

def scaled(x):
    return ruled(lambda x: 2 * x, lambda x: (2 * x, None), lambda saved, dy: 2 * dy)(x)
"""


@pytest.fixture
def library():
    module, path = types.ModuleType("outside"), f"{sys.prefix}/site-packages/outside/rules.py"
    exec(compile(LIBRARY, path, "exec"), module.__dict__)
    module.path = path
    return module


def sine(x):
    return jnp.sin(x)


def backward(x, dy):
    return jnp.cos(x) * dy


def line_of(function):
    return f"{__file__}:{function.__code__.co_firstlineno}"


def equation_of(function):
    closed = jax.make_jaxpr(function)(1.0)
    trace_wrapped_rules(closed)
    return next(e for e in closed.jaxpr.eqns if e.primitive.name.startswith("custom"))


def test_a_wrapped_backward(library):
    ruled = library.ruled(sine, lambda x: (sine(x), x), backward)
    equation = equation_of(lambda x: ruled(x))
    assert users_function(equation) == ("sine", line_of(sine))
    assert custom_rule_place(equation, (True,), 0) == line_of(backward)
    assert called_at(equation).startswith(__file__)


def test_a_wrapped_jvp_that_was_evaluated_before(library):
    pushed = library.pushed(sine, backward)
    closed = jax.make_jaxpr(lambda x: pushed(x))(1.0)
    trace_wrapped_rules(closed)
    (equation,) = closed.jaxpr.eqns
    fb.grad(lambda x: as_function(closed)(x)[0])(1.0)
    assert users_function(equation) == ("sine", line_of(sine))
    assert custom_rule_place(equation, (True,), 0) == line_of(backward)


def test_the_partial_derivatives_of_defjvps():
    @jax.custom_jvp
    def product(x, y):
        return x * y

    def along_x(dx, z, x, y):
        return dx * y

    def along_y(dy, z, x, y):
        return dy * x

    product.defjvps(along_x, along_y)
    equation = equation_of(lambda x: product(x, 2 * x))
    assert [custom_rule_place(equation, (True, True), i) for i in (0, 1)] == [line_of(along_x), line_of(along_y)]


def test_a_librarys_own_rule_is_its_own(library):
    equation = equation_of(library.scaled)
    assert users_function(equation)[1].startswith(library.path)
    assert custom_rule_place(equation, (True,), 0).startswith(library.path)


def test_the_folder_of_a_library():
    assert library_of("/a/site-packages/flax/core/lift.py:3") == "/a/site-packages/flax/"
    assert library_of(f"{jax.__file__}:1").endswith("/jax/")
    assert library_of("/home/me/site-packages.py:3") == library_of("/a/site-packages/one.py:3") == library_of("") == ""
