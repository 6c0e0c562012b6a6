"""A user's rule against its primal: at which line a wrong one is placed, also where JAX refuses to differentiate it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from fnbackprop.comparing.command import weighted_loss
from fnbackprop.comparing.pipeline import compare
from fnbackprop.comparing.results import Agreement, EquationKind, Verdict

X = jnp.asarray(np.random.default_rng(0).normal(size=8), jnp.float32)


def with_rule(primal, factor):
    """sin by `primal`, with a backward that is `factor` times the right one."""

    @jax.custom_vjp
    def sine(x):
        return primal(x)

    def backward(x, dy):
        return (factor * jnp.cos(x) * dy,)

    sine.defvjp(lambda x: (primal(x), x), backward)
    return sine, backward


def kernel(x):
    def body(x, out):
        out[...] = jnp.sin(x[...])

    return pl.pallas_call(body, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True)(x)


def line_of(function):
    return f"{__file__}:{function.__code__.co_firstlineno}"


def test_a_wrong_rule_of_the_compared_function_itself_is_placed_at_it():
    sine, backward = with_rule(jnp.sin, 2)
    for fun, x in ((sine, X[0]), (weighted_loss(sine), X)):
        result = compare(fun, x, directions=0)
        (found,) = result.equations
        assert found.where == line_of(sine.__wrapped__) and found.rule_at == line_of(backward)
        assert result.verdict is Verdict.FAIL and found.error > found.allowed
        assert f"at {found.rule_at}, operand 0" in str(result).replace("\n  ", " ")


def test_a_rule_of_a_kernel_is_held_against_differences():
    sine, backward = with_rule(kernel, 2)
    result = compare(lambda x: jnp.sum(sine(x) ** 2), X)
    (found,) = result.equations
    assert result.verdict is Verdict.FAIL and found.kind is EquationKind.CUSTOM_RULE
    assert "test_custom_rules.py" in found.where and found.rule_at == line_of(backward)
    assert "by differences" in found.reason and ", a factor of 2" in found.reason and found.error > 100 * found.allowed
    right, _ = with_rule(kernel, 1)
    result = compare(lambda x: jnp.sum(right(x) ** 2), X)
    assert result.ok and not any("not compared" in note for note in result.notes)


def test_a_rule_that_is_told_what_moves_may_leave_out_what_does_not():
    """As Equinox's loops do: `first` reaches nothing that is differentiated, which only a Gaussian cotangent hides."""

    @jax.custom_jvp
    def both(first, second):
        return first, second

    @both.defjvp
    def _(primals, tangents):
        return both(*primals), (jnp.zeros_like(primals[0]), tangents[1])

    def loss(x):
        first, second = both(x, jnp.sin(x))
        return jnp.sum(second) + 0 * jnp.sum(first)

    assert compare(loss, X).verdict is Verdict.FAIL  # without symbolic zeros a rule cannot know

    def jvp(primals, tangents):
        zeros = jax.custom_derivatives.zero_from_primal(primals[0], symbolic_zeros=True)
        return both(*primals), (zeros, tangents[1])

    both.defjvp(jvp, symbolic_zeros=True)
    result = compare(loss, X)
    assert result.ok and any("told what moves" in note for note in result.notes)
    assert not any(found.numeric is Agreement.MANUAL for found in result.equations)


def test_a_forward_that_computes_something_else_is_placed_at_its_line():
    @jax.custom_vjp
    def off(x):
        return jnp.sin(x)

    off.defvjp(lambda x: (jnp.sin(x) + 1e-3, x), lambda x, dy: (jnp.cos(x) * dy,))
    right, _ = with_rule(jnp.sin, 1.0)
    found = compare(lambda x: jnp.sum(right(x) * off(x)), X, progress=False)
    (failed,) = [check for check in found.contract if check.verdict is Verdict.FAIL]
    assert "; off at " in failed.reason and "its forward computes something else than its function" in failed.reason
    assert "sine" not in failed.reason


def test_a_rule_that_reads_its_own_rounded_output_is_not_accused():
    """`jnp.logaddexp` takes exp(x - z) of its output z: at -1e5, the last bit of z is 0.8 % of the slope."""
    x = jnp.float32(-1e5) + X
    result = compare(weighted_loss(jnp.logaddexp), x, x - jnp.float32(0.017), argnums=(0, 1), directions=0)
    assert result.ok, str(result)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("factor, verdict", [(1, Verdict.PASS), (1.05, Verdict.FAIL)])
def test_a_rule_in_low_precision(factor, verdict, dtype):
    """GELU, whose constants are rounded otherwise in its derivative than in itself, is right; one 5 % off is not."""

    @jax.custom_vjp
    def gelu(x):
        return x / 2 * (1 + jnp.tanh(0.7978845608 * (x + 0.044715 * x**3)))

    def backward(x, dy):
        t = jnp.tanh(0.7978845608 * (x + 0.044715 * x**3))
        return (factor * dy * ((1 + t) / 2 + x / 2 * (1 - t * t) * 0.7978845608 * (1 + 0.134145 * x * x)),)

    gelu.defvjp(lambda x: (gelu(x), x), backward)
    result = compare(weighted_loss(gelu), X.astype(dtype), progress=False)
    assert result.verdict is verdict and bool(result.equations) is (factor != 1), str(result)


# ---------------------------------------------------------------- cotangents of another type


def product_with(cotangent):
    """x * y, whose rule gives this for the cotangent of y."""

    @jax.custom_vjp
    def product(x, y):
        return x * y

    product.defvjp(lambda x, y: (x * y, (x, y)), lambda saved, dz: (dz * saved[1], cotangent(dz * saved[0])))
    return product


GIVEN = {
    "int32": lambda dy: dy.astype(jnp.int32),
    "zeros": lambda dy: jnp.zeros(dy.shape, jnp.int32),
    "bool": lambda dy: dy > 0,
    "float0": lambda dy: np.zeros(dy.shape, jax.dtypes.float0),
}
AROUND = {
    "alone": lambda f, x, y: f(x, y),
    "twice used": lambda f, x, y: f(x * y, y),
    "jit": lambda f, x, y: jax.jit(f)(x, y),
    "vmap": lambda f, x, y: jax.vmap(f)(x, y),
    "checkpoint": lambda f, x, y: jax.checkpoint(f)(x, y),
    "scan": lambda f, x, y: jax.lax.scan(lambda carry, _: (f(carry, y), None), x, None, length=3)[0],
    "cond": lambda f, x, y: jax.lax.cond(x[0] > -9, f, lambda x, y: x, x, y),
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("given", GIVEN)
def test_a_rule_that_returns_no_floating_cotangent_is_named(given, around):
    product = product_with(GIVEN[given])
    if given == "float0" and around in ("checkpoint", "cond"):
        pytest.skip("JAX does not lower it, so that no single equation can be checked")
    result = compare(lambda y: jnp.sum(AROUND[around](product, X + 0.5, y)), X + 3, progress=False)
    assert result.verdict is Verdict.FAIL, str(result)
    assert Verdict.KINK not in [leaf.verdict for leaf in result.leaves], str(result)
    found = result.equations[0]
    named = "bool or float0" if given in ("bool", "float0") else "int32"
    assert f"is {named} for an operand of float32" in found.reason and "test_custom_rules.py" in found.where


# ---------------------------------------------------------------- leaves that both gradients get wrong alike


def test_a_leaf_that_both_gradients_get_wrong_does_not_pass():
    sine, _ = with_rule(jnp.sin, 1.1)
    result = compare(lambda x, y: jnp.sum(sine(x)) + jnp.sum(y**2), X, X, argnums=(0, 1), progress=False)
    assert [leaf.verdict for leaf in result.leaves] == [Verdict.FAIL, Verdict.PASS], str(result)
    assert "differences along this leaf alone agree with neither" in result.leaves[0].reason
    assert "its rule = 1.1 x its primal's derivative" in str(result)
    assert "differences of this equation agree with its primal's derivative" in " ".join(str(result).split())


def test_where_no_differences_tell_a_leaf_of_a_wrong_rule_is_not_proven():
    sine, _ = with_rule(jnp.sin, 1.1)
    result = compare(lambda x: jnp.sum(sine(x)), X, directions=0, progress=False)
    assert (result.verdict, result.leaves[0].verdict) == (Verdict.FAIL, Verdict.SKIPPED), str(result)
    assert "that they agree tells nothing" in result.leaves[0].reason
