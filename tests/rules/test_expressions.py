"""Each operator of the notation is one equation of `lax`, on operands of one dtype, with numbers as literals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive

import fnbackprop as fb
from fnbackprop.backprop import registry
from fnbackprop.rules import expressions
from fnbackprop.rules.expressions import Expr, unwrap, where, wrap

from .checking import assert_close, random_like

X, Y = np.float32([[1.5, -0.5], [2.0, 0.25]]), np.float32([[0.5, 2.0], [-1.0, 4.0]])
Z = X + 1j * Y

# formula: the primitive that it is
OPERATORS = {
    "x + y": "add",
    "x + 2": "add",
    "2 + x": "add",
    "x - y": "sub",
    "x - 2": "sub",
    "2 - x": "sub",
    "x * y": "mul",
    "x * 0.5": "mul",
    "0.5 * x": "mul",
    "x / y": "div",
    "x / 2": "div",
    "2 / x": "div",
    "-x": "neg",
    "abs(x)": "abs",
    "x**2": "square",
    "x**3": "integer_pow",
    "x**-1": "integer_pow",
    "y**x": "pow",
    "x == y": "eq",
    "x != y": "ne",
    "x < y": "lt",
    "x <= 2": "le",
    "x > y": "gt",
    "x >= 2": "ge",
    "2 > x": "lt",
    "x @ y": "dot_general",
    "x.T": "transpose",
    "x.H": "transpose",
    "x.astype('float16')": "convert_element_type",
}
MASKS = {"m & n": "and", "m | n": "or", "~m": "not"}
COMPLEX = {"z.conj()": "conj", "z.real": "real", "z.imag": "imag", "1j * z": "mul"}


def equations(formula, **arrays):
    """The equations that a formula emits, and its value by NumPy."""

    def evaluate(*values):
        return eval(formula, {}, dict(zip(arrays, map(Expr, values), strict=True))).array

    return jax.make_jaxpr(evaluate)(*arrays.values()).eqns, evaluate(*arrays.values())


def assert_one(formula, primitive, **arrays):
    (equation,), got = equations(formula, **arrays)
    assert equation.primitive.name == primitive
    for atom in equation.invars:
        assert atom.aval.dtype == next(iter(arrays.values())).dtype
        assert atom.aval.shape in ((), (2, 2)) and not atom.aval.weak_type
    want = eval(formula.replace(".H", ".conj().T"), {}, arrays)
    np.testing.assert_allclose(np.asarray(got), want, rtol=1e-6)


@pytest.mark.parametrize("formula", OPERATORS)
def test_operator_is_one_equation(formula):
    assert_one(formula, OPERATORS[formula], x=X, y=Y)


@pytest.mark.parametrize("formula", MASKS)
def test_mask_operator_is_one_equation(formula):
    assert_one(formula, MASKS[formula], m=X > 1, n=Y > 1)


@pytest.mark.parametrize("formula", COMPLEX)
def test_complex_operator_is_one_equation(formula):
    assert_one(formula, COMPLEX[formula], z=Z)


@pytest.mark.parametrize("formula", ["x.conj()", "x.real"])
def test_real_of_a_real_array_is_itself(formula):
    assert equations(formula, x=X)[0] == []


@pytest.mark.parametrize("formula", ["x * z", "z * x", "z - x", "x @ z"])
def test_real_beside_complex_becomes_complex(formula):
    found, got = equations(formula, x=X, z=Z)
    assert [equation.primitive.name for equation in found][0] == "convert_element_type" and len(found) == 2
    np.testing.assert_allclose(np.asarray(got), eval(formula, {}, {"x": X, "z": Z}), rtol=1e-6)


def test_other_dtypes_do_not_mix():
    with pytest.raises(TypeError, match="same dtypes"):
        Expr(X) + Expr(X.astype("float16"))


def test_matmul_of_stacks_in_the_highest_precision():
    x, y = random_like(np.zeros((5, 2, 3), "float32")), random_like(np.zeros((5, 3, 4), "float32"), 1)
    jaxpr = jax.make_jaxpr(lambda x, y: (Expr(x) @ Expr(y)).array)(x, y)
    assert jaxpr.eqns[0].params["precision"] == (lax.Precision.HIGHEST,) * 2
    assert_close((Expr(x) @ Expr(y)).array, jnp.asarray(np.asarray(x) @ np.asarray(y)), 1e-6)
    z = random_like(np.zeros((5, 2, 3), "complex64"))
    assert_close(Expr(z).H.array, jnp.asarray(np.conj(np.swapaxes(np.asarray(z), 1, 2))), 0)


def test_where_takes_numbers():
    x, mask = Expr(X), Expr(X > 1)
    for got, want in [
        (where(mask, x, Expr(Y)), np.where(X > 1, X, Y)),
        (where(mask, 1, x), np.where(X > 1, 1, X)),
        (where(mask, x, 0), np.where(X > 1, X, 0)),
    ]:
        assert got.dtype == np.float32
        np.testing.assert_array_equal(np.asarray(got.array), want)


def test_functions_are_those_of_lax():
    """Every function of the module that has the name of one of `lax` is that, of one equation."""
    for name, count in {"exp": 1, "log1p": 1, "rsqrt": 1, "digamma": 1, "minimum": 2, "maximum": 2}.items():
        function = getattr(expressions, name)
        operation = getattr(lax, {"minimum": "min", "maximum": "max"}.get(name, name))
        x = [np.abs(X) + 1, np.abs(Y)][:count]
        got = function(*map(Expr, x))
        np.testing.assert_array_equal(np.asarray(got.array), np.asarray(operation(*x)))
    np.testing.assert_array_equal(np.asarray(expressions.minimum(Expr(X), 1).array), np.minimum(X, 1))


def test_wrap_and_unwrap_are_inverse():
    tree = (X, [Y, None], ())
    wrapped = wrap(tree)
    assert isinstance(wrapped[0], Expr) and isinstance(wrapped[1][0], Expr) and wrapped[1][1] is None
    back = unwrap(wrapped)
    assert back[0] is X and back[1][0] is Y and back[1][1] is None and back[2] == ()
    assert unwrap(3) == 3


def test_rules_are_handed_expressions():
    """`derivative` and `vjp_rule` of the rules' notation; those of the registry, the users', get arrays."""
    scale = Primitive("expressions_test_scale")
    scale.def_impl(lambda x: 3 * x)
    scale.def_abstract_eval(lambda x: x)
    given = []

    def derivative_of_scale(x):
        given.append(x)
        return 3

    def vjp_of_scale(dy):
        given.append(dy)
        return dy * 3

    for module, rule, kind in [
        (expressions, "derivative", Expr),
        (registry, "derivative", jax.Array),
        (expressions, "vjp_rule", Expr),
        (registry, "vjp_rule", jax.Array),
    ]:
        getattr(module, rule)(scale)(derivative_of_scale if rule == "derivative" else vjp_of_scale)
        got = fb.grad(lambda x: jnp.sum(scale.bind(x) * Y))(jnp.asarray(X))
        assert isinstance(given.pop(), kind)
        np.testing.assert_allclose(np.asarray(got), 3 * Y, rtol=1e-6)
