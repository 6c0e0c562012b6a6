"""Adapters start as nothing, learn what a low-rank change can, leave the base alone, and merge into parameters."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnbackprop as fb
from fnbackprop import lora

BASE = {
    "blocks": {"w": np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32), "b": np.zeros(4, np.float32)},
    "head": {"w": np.eye(4, 3, dtype=np.float32)},
}


def test_nothing_is_changed_at_first_and_each_matrix_of_a_stack_has_its_own():
    adapters = lora.init(jax.random.key(0), BASE, rank=3, where=["blocks", "head/w"])
    chex.assert_trees_all_equal(lora.merge(BASE, adapters), jax.tree.map(jnp.asarray, BASE))
    assert adapters["blocks/w"]["a"].shape == (2, 5, 3) and adapters["head/w"]["b"].shape == (3, 3)
    wide = lora.init(jax.random.key(1), {"w": jnp.ones((400, 50))}, rank=9, where="w")["w"]["a"]
    assert abs(float(jnp.std(wide)) - 0.05) < 0.003
    other = lora.init(jax.random.key(0), BASE, rank=3, where="head")
    chex.assert_trees_all_equal(other["head/w"], adapters["head/w"])


def test_the_merge_is_the_formula():
    random = np.random.default_rng(1)
    pair = {"a": random.normal(size=(2, 5, 2)), "b": random.normal(size=(2, 2, 4))}
    found = lora.merge(BASE, {"blocks/w": jax.tree.map(jnp.float32, pair)}, alpha=6.0)["blocks"]["w"]
    np.testing.assert_allclose(found, BASE["blocks"]["w"] + 3 * pair["a"] @ pair["b"], rtol=1e-5)


def test_it_learns_a_change_of_its_rank_and_freezes_the_base(tmp_path):
    """The target differs from the base by a matrix of rank 1: adapters of rank 1 reach it, nearly."""
    random = np.random.default_rng(2)
    change = np.outer(random.normal(size=5), random.normal(size=4)).astype(np.float32)
    base = {"w": BASE["blocks"]["w"][0]}

    def loss(params, batch, key):
        merged = lora.merge(params["base"], params["lora"])
        return jnp.mean((batch @ merged["w"] - batch @ (base["w"] + change)) ** 2)

    experiment = fb.Experiment(
        name="lora",
        init=lambda key: {"base": base, "lora": lora.init(key, base, rank=1, where="w")},
        loss=loss,
        batch=lambda step: np.random.default_rng(step).normal(size=(32, 5)).astype(np.float32),
        optimizer=optax.adam(0.02),
        trainable="lora",
        steps=150,
    )
    state = fb.train(experiment, directory=None, progress=False)
    merged = lora.merge(state.params["base"], state.params["lora"])["w"]
    np.testing.assert_allclose(merged, base["w"] + change, atol=0.02 * np.abs(change).max())
    chex.assert_trees_all_equal(state.params["base"], jax.tree.map(jnp.asarray, base))
    shapes = [leaf.shape for leaf in jax.tree.leaves(state.opt_state)]
    assert shapes == [(), *2 * [(5, 1), (1, 4)]]


@pytest.mark.parametrize("settings, message", [
    ({"where": ["head", "tail"], "rank": 1}, "no matrix is within 'tail'; they are blocks/w, head/w"),
    ({"where": "b", "rank": 1}, "no matrix is within 'b'"),
    ({"where": "head", "rank": 4}, "between 1 and 3 for head/w"),
])  # fmt: skip
def test_what_cannot_be_adapted(settings, message):
    with pytest.raises(ValueError, match=message):
        lora.init(jax.random.key(0), BASE, **settings)


def test_an_adapter_of_no_parameter():
    with pytest.raises(ValueError, match="have no tail/w"):
        lora.merge(BASE, {"tail/w": {}})
