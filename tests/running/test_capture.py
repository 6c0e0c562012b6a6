"""The function and the arguments of a call, kept: under jit, vmap and scan their values come when the program runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.backprop.call import Call, run_by_rules
from fnbackprop.backprop.engine import Engine
from fnbackprop.backprop.pullback import vjp_of_call
from fnbackprop.running.capture import Captured, hand_over

X = np.array([1.0, 2.0], np.float32)


def captured(fun, *primals, eager=False):
    """The capture of `vjp(fun, *primals)`."""
    leaves, tree = jax.tree.flatten(primals)
    call = Call(fun, tree, False)
    engine = Engine(eager=eager)
    vjp_of_call(call, leaves, lambda call, leaves: run_by_rules(engine, call, leaves))
    return Captured(call, leaves)


def test_the_function_its_constants_and_arguments():
    constant = jnp.asarray(X)

    def loss(tree, key):
        return jnp.sum(tree["a"] * constant) + jax.random.normal(key)

    key = jax.random.key(3)
    found = captured(loss, {"a": X}, key)
    assert (found.reason, found.name) == ("", "loss")
    function, (tree, key_again, consts) = found.program()
    assert function(tree, key_again, consts) == loss({"a": X}, key)
    np.testing.assert_array_equal(tree["a"], X)
    doubled = [2 * np.asarray(c) if np.shape(c) == (2,) else c for c in consts]
    assert function(tree, key_again, doubled) != loss({"a": X}, key)  # constants are arguments


@pytest.mark.parametrize("wrap", [jax.jit, lambda f: jax.jit(jax.vmap(f)), lambda f: lambda xs: jax.lax.map(f, xs)])
def test_traced_arguments_are_those_of_the_first_run(wrap):
    found = []

    def gradient(x):
        found.append(captured(lambda x: jnp.sum(x**2), x))
        return x

    xs = np.stack([X, 3 * X, 5 * X])
    program = wrap(gradient)
    jax.block_until_ready(program(xs))
    program(-xs)
    jax.effects_barrier()
    function, (x, consts) = found[0].program()
    assert x.shape == ((3, 2) if wrap is jax.jit else (2,))
    np.testing.assert_array_equal(x, xs if wrap is jax.jit else xs[0])
    assert function(x, consts) == np.sum(np.square(x))


def test_values_are_sent_as_long_as_they_are_wanted():
    kept = []

    @jax.jit
    def program(x):
        hand_over(lambda x: kept.append(np.array(x)), lambda: not kept, [x])
        return x

    for factor in (1, 2, 3):
        jax.block_until_ready(program(factor * X))
    jax.effects_barrier()
    np.testing.assert_array_equal(kept, [X])


def test_what_cannot_be_compared_says_why():
    def printing(x):
        jax.debug.print("{}", x)
        return x

    def needs_values(x):
        return x if x > 0 else -x

    assert captured(printing, 1.0).reason == "it has side effects (Debug), which would happen again"
    assert captured(needs_values, 1.0).reason == "the function needs the values of its arguments, and was not traced"
    assert captured(needs_values, 1.0).arrays is None
