"""The size of gradient and update, by layers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.training.step.step_metrics import LAYER_NORMS, LayerNorms, expand_layer_norms, step_metrics

PARAMS = {"blocks": [{"w": jnp.array([3.0, 4.0]), "b": jnp.array([12.0])}, {"w": jnp.array([8.0])}], "scale": 1.0}
NORMS = [13.0, 8.0, 1.0]


def test_step_metrics():
    before = jax.tree.map(lambda leaf: 2 * jnp.asarray(leaf), PARAMS)
    after = jax.tree.map(lambda leaf: 2.2 * jnp.asarray(leaf), PARAMS)
    found = jax.jit(step_metrics)(PARAMS, before, after)
    assert found[LAYER_NORMS].names == ("blocks/0", "blocks/1", "scale")
    np.testing.assert_allclose(found[LAYER_NORMS].values, NORMS, rtol=1e-6)
    np.testing.assert_allclose(found["gradient_norm"], np.linalg.norm(NORMS), rtol=1e-6)
    np.testing.assert_allclose(found["update_ratio"], 0.1, rtol=1e-4)


def test_layers_of_any_size_are_measured():
    gradient = {"a": {"w": jnp.array([3e-30, 4e-30])}, "b": {"w": jnp.array([1e30])}, "c": {"w": jnp.zeros(2)}}
    norms = step_metrics(gradient, gradient, gradient)[LAYER_NORMS].values
    np.testing.assert_allclose(norms[:2], [5e-30, 1e30], rtol=1e-6)
    assert norms[2] == 0


def test_frozen_leaves_are_left_out():
    trained = [True, False, True, False]  # blocks/0/b, blocks/0/w, blocks/1/w, scale
    found = step_metrics(PARAMS, PARAMS, jax.tree.map(lambda leaf: 2 * leaf, PARAMS), trained)
    assert found[LAYER_NORMS].names == ("blocks/0", "blocks/1") and found["update_ratio"] == 1
    np.testing.assert_allclose(found[LAYER_NORMS].values, [12, 8])
    np.testing.assert_allclose(found["gradient_norm"], np.hypot(12, 8), rtol=1e-6)


def test_nothing_is_computed_of_an_update_that_is_not_measured():
    after = jax.tree.map(lambda leaf: 1.5 * leaf, PARAMS)
    found = jax.jit(lambda measured: step_metrics(PARAMS, PARAMS, after, measured=measured))
    chex.assert_trees_all_close(found(True), jax.jit(step_metrics)(PARAMS, PARAMS, after), rtol=1e-6)
    chex.assert_trees_all_equal(found(False), jax.tree.map(jnp.zeros_like, found(True)))


def test_a_layer_of_several_parts_has_their_joint_norm():
    norms = LayerNorms(np.array([3e30, 4e30, 7.0], np.float32), ("a", "b"), ((0, 1), (2,)))
    np.testing.assert_allclose(norms.values, [5e30, 7.0], rtol=1e-6)


def test_a_layer_with_nan_has_no_norm_even_beside_an_infinity():
    gradient = {"a": {"w": jnp.array([jnp.inf]), "b": jnp.array([jnp.nan])}, "b": {"w": jnp.array([-jnp.inf, 1.0])}}
    norms = step_metrics(gradient, gradient, gradient)[LAYER_NORMS].values
    np.testing.assert_array_equal(norms, [np.nan, np.inf])


def test_expand_layer_norms():
    record = {"step": 3, "loss": 1.0, LAYER_NORMS: LayerNorms(np.array(NORMS), tuple("abc"))}
    kept = {"step": 3, "loss": 1.0, "gradient_norm/a": 13.0, "gradient_norm/b": 8.0, "gradient_norm/c": 1.0}
    assert expand_layer_norms(dict(record), kept=True) == kept
    assert expand_layer_norms(dict(record), kept=False) == {"step": 3, "loss": 1.0}
    assert expand_layer_norms({"step": 3}, kept=True) == {"step": 3}
