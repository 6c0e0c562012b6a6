"""What the measuring of an optimizer's response holds in memory, and what it feeds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnbackprop.balancing.linearised import Programs, random_signs
from fnbackprop.balancing.response import measure_response

SEED = jnp.uint32(3)


@pytest.fixture(autouse=True)
def standard_promotion():
    """As optax needs it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_signs_are_independent():
    """Of each other, from leaf to leaf, and from seed to seed."""
    like = {"a": jnp.zeros((128, 96)), "b": jnp.zeros(128 * 96)}
    first, second = (random_signs(seed, like) for seed in (1, 2))
    a, b, c = (np.asarray(x).ravel() for x in (first["a"], first["b"], second["a"]))
    noise = 4 / a.size**0.5
    assert set(a) == {-1.0, 1.0} and abs(a.mean()) < noise
    for one, other in ((a, b), (a, c), (a[1:], a[:-1]), (a[96:], a[:-96])):
        assert abs(np.mean(one * other)) < noise
    np.testing.assert_array_equal(first["a"], random_signs(1, like)["a"])


OPTIMIZERS = {
    "gradient descent": (optax.sgd(0.1), 0),
    "momentum": (optax.sgd(0.1, momentum=0.9), 1),
    "Adam": (optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)), 1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_few_copies(name):
    """Beside parameters and state: one of what a gradient changes in the state, and the gain."""
    optimizer, moved = OPTIMIZERS[name]
    params = {f"layers/{i}": jnp.ones((96, 96)) for i in range(8)}
    given = optimizer.init(params), (params,)
    programs = Programs(lambda g, state, params: optimizer.update(g, state, params), params)
    _, _, lost = jax.jit(programs.settled)(SEED, given)
    programs = programs.responding_too(frozenset(i for i, flag in lost.items() if flag))
    gain, steps, lost = jax.jit(programs.settled)(SEED, given)
    assert not any(lost.values())

    def copies(function, *operands, **options):
        found = jax.jit(function, **options).lower(*operands).compile().memory_analysis()
        return (found.temp_size_in_bytes + found.output_size_in_bytes) / sum(x.nbytes for x in params.values())

    few = 0.75  # of temporary arrays: leaves come one after the other
    assert copies(programs.settled, SEED, given) <= 1 + moved + few
    assert copies(programs.compared, SEED, gain, steps, given) <= moved + few
    assert copies(programs.impulse, SEED, gain, 64, given, static_argnums=2) <= 2 * moved + few / 2


def test_leaves_of_the_state_that_respond_later_are_found():
    """A gradient that is applied two steps later: the second leaf changes when the first one has."""

    def update(gradient, state, params=None):
        return state[1], (gradient, state[0])

    params = {"w": jnp.ones(3)}
    zero = jax.tree.map(jnp.zeros_like, params)
    delayed = optax.GradientTransformation(lambda params: (zero, zero), update)
    optimizer = optax.chain(delayed, optax.sgd(0.5))
    found = measure_response(
        lambda g, s: optimizer.update(g, s, params), optimizer.init(params), params, jax.random.key(0)
    )
    np.testing.assert_allclose(found.gain["w"], 0.5)
    np.testing.assert_allclose(found.impulse[:4], [0, 0, 1, 0], atol=1e-6)
