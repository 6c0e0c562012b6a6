"""What the steps of a subject need in memory, in copies of its parameters: as compiled, so on a CPU alone."""

import jax
import jax.numpy as jnp
import optax
import pytest

import fnbackprop as fb
from fnbackprop.balancing.subject import Machine
from fnbackprop.training.balancing import subject_of

SIZE, LAYERS = 128, 8


def deep() -> fb.Experiment:
    def loss(params, batch, key):
        for w in params:
            batch = batch + jnp.tanh(batch @ w)
        return jnp.mean(batch**2)

    return fb.Experiment(
        name="deep",
        init=lambda key: [jax.random.normal(k, (SIZE, SIZE)) / 50 for k in jax.random.split(key, LAYERS)],
        loss=loss,
        batch=lambda step: jnp.ones((2, SIZE)),
        optimizer=optax.adam(1e-3),
        steps=100,
    )


@pytest.mark.parametrize("begun", [False, True])
def test_a_step_whose_update_is_seen(begun):
    state = fb.train(deep(), steps=2, directory=None) if begun else None
    subject = subject_of(deep(), state)
    machine, batch = Machine(subject, 4), subject.batch(0)
    params, opt_state, loss = subject.params, subject.opt_state(), jnp.float32(1)

    def copies(program, *operands):
        found = program.lower(*operands, batch, subject.key(0)).compile().memory_analysis()
        beside = found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
        return beside / sum(leaf.nbytes for leaf in params.values())

    few = 2 / LAYERS  # leaves come one after the other
    assert copies(machine._downhill, params, opt_state, params, loss) <= few
    assert copies(machine._advance_seen, params, opt_state, params, loss, jnp.float32(1)) <= few
    assert copies(machine._slope, params, params) <= few


def test_the_state_of_an_optimizer_that_is_new_is_not_kept():
    def arrays():
        return sum(array.shape == (SIZE, SIZE) for array in jax.live_arrays())

    before = arrays()
    subject = subject_of(deep())
    assert all(bool(jnp.all(leaf == 0)) for leaf in jax.tree.leaves(subject.opt_state()))
    assert arrays() - before == LAYERS  # the parameters
