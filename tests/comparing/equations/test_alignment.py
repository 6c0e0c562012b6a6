"""Two functions that should have the same gradient."""

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.comparing.pipeline import compare
from fnbackprop.comparing.results import Verdict

X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 6)), jnp.float32)


def by_hand(x, w):
    e = jnp.exp(x @ w - jnp.max(x @ w, 1, keepdims=True))
    return jnp.sum(jnp.sin(e / jnp.sum(e, 1, keepdims=True)) * w)


def by_library(x, w):
    return jnp.sum(jnp.sin(jax.nn.softmax(x @ w)) * w)


def test_two_ways_to_write_it_pass():
    result = compare(by_hand, X, X, argnums=(0, 1), against=by_library)
    assert result.ok and result.sides == ("by_hand", "by_library") and result.equations == ()
    assert result.numeric.verdict is Verdict.PASS and "by_library by" in str(result).replace("\n", " ")


def test_other_values_are_named_where_they_part():
    def other(x, w):
        return jnp.sum(jnp.cos(jax.nn.softmax(x @ w)) * w)

    result = compare(by_hand, X, X, against=other, directions=1)
    (found,) = result.equations
    assert found.verdict is Verdict.FAIL and "its values differ from those of" in found.reason
    assert "(by_hand)" in found.where and ".other)" in found.reason and result.first_difference is found


def test_a_detached_path_is_named():
    def detached(x, w):
        return jnp.sum(jnp.sin(jax.nn.softmax(jax.lax.stop_gradient(x) @ w)) * w)

    result = compare(by_hand, X, X, argnums=(0, 1), against=detached, directions=1)
    (found,) = result.equations
    assert found.primitive == "dot_general" and "the cotangent of its operand 0 differs" in found.reason
    assert ".detached)" in found.reason


def test_a_function_without_gradient_is_told():
    result = compare(lambda x: jnp.sum(jnp.sin(x)), X, against=lambda x: jnp.sum(jax.lax.stop_gradient(jnp.sin(x))))
    assert result.verdict is Verdict.FAIL and any(
        "no gradient flows through <lambda> (test_alignment.py" in n for n in result.notes
    )


def test_the_names_of_the_functions_stand_as_they_are():
    """A function called automatic_loss is not renamed by what the other one is called."""

    def automatic_loss(x):
        return 2 * jnp.sum(jnp.sin(x))

    def other(x):
        return jnp.sum(jnp.sin(x))

    said = str(compare(automatic_loss, X, against=other, directions=1))
    assert "automatic_loss = 2 x other" in said and "other_loss" not in said and "manual" not in said
