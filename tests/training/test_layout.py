"""Placement on a mesh of 8 simulated devices; a step there equals the step of one device."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from fnbackprop import trees
from fnbackprop.experiment import ExperimentError
from fnbackprop.training.compiling import compiled
from fnbackprop.training.loop import make_step, train
from fnbackprop.training.run_folder import read_metrics
from fnbackprop.training.step.state import initial_state
from tests.training.compiling import times_compiled
from tests.training.test_sharding_rules import gpt, layout_on


def test_what_has_another_shape_than_its_parameter_is_on_every_device():
    """Adafactor keeps a row and a column in place of a matrix: `v_row/blocks/qkv/w` is no place for that one's spec."""
    adafactor = optax.adafactor(0.1, min_dim_size_to_factor=8, momentum=0.9)
    experiment = gpt(sharding="tensor", optimizer=adafactor)
    layout = layout_on(experiment, "model=2")
    state = initial_state(experiment, layout)  # which a spec of too many axes would not let pass
    found = {path: leaf.sharding.spec for path, leaf in trees.leaves_with_paths(state.opt_state)}
    kept = {path.removesuffix("/blocks/qkv/w"): spec for path, spec in found.items() if path.endswith("/blocks/qkv/w")}
    factors = {path: spec for path, spec in kept.items() if "/v" in path}
    assert len(factors) == 3 and set(factors.values()) == {P()}
    assert [spec for path, spec in kept.items() if path not in factors] == [P(None, None, "model")]  # the momentum


def test_a_batch_that_cannot_be_split():
    layout = layout_on(gpt(), "data=8")
    with pytest.raises(ExperimentError, match="batch's x/0 has 6 examples, .* evenly over data=8 of the mesh data=8"):
        layout.place({"x": [np.zeros((6, 2))]})
    with pytest.raises(ExperimentError, match="array has 24 examples, .* evenly in 2 microbatches over data=8"):
        layout_on(gpt(accumulate=2), "data=8").place(np.zeros(24))
    placed = layout.place({"x": np.arange(16), "scale": 0.5})
    assert placed["x"].sharding.spec == P("data") and placed["scale"].sharding.spec == P()
    np.testing.assert_array_equal(placed["x"], np.arange(16))


def three_steps(experiment, layout=None):
    """How far parameters and averages have moved, and the gradient's norms; the state must stay where it was."""
    update = compiled(make_step(experiment, "manual", layout), layout)
    state, norms, before = initial_state(experiment, layout), [], times_compiled("step")
    start = jax.device_get(state.params)
    for step in range(3):
        batch = experiment.batch(step)
        state, metrics = update(state, batch if layout is None else layout.place(batch))
        norms.append(float(metrics["gradient_norm"]))
        if layout is not None:
            jax.tree.map(lambda leaf, where: chex.assert_equal(leaf.sharding, where), state, layout.state)
    assert times_compiled("step") == before + 1
    end = jax.device_get((state.params, state.averaged))
    return jax.tree.map(np.subtract, end, (start, start)), norms


@pytest.fixture(scope="module")
def on_one_device():
    found = {}

    def run(options):
        key = str(options)
        if key not in found:
            found[key] = three_steps(gpt(**options))
        return found[key]

    return run


SEVERAL = {"accumulate": 2, "ema": 0.5, "optimizer": optax.sgd(0.5, momentum=0.9)}
LOW = {"precision": "bfloat16", "optimizer": optax.sgd(0.5)}


@pytest.mark.parametrize(
    "sharding, mesh, options, rounding",
    [
        ("data", "data=8", SEVERAL, 1e-4),
        ("fsdp", "data=4", SEVERAL, 1e-4),
        ("fsdp+tensor", "data=4,model=2", SEVERAL, 1e-4),
        ("tensor", "data=2,model=2", LOW, 3e-2),
    ],
)
def test_three_steps_are_those_of_one_device(on_one_device, sharding, mesh, options, rounding):
    experiment = gpt(sharding=sharding, **options)
    moved, norms = three_steps(experiment, layout_on(experiment, mesh))
    expected, expected_norms = on_one_device(options)
    np.testing.assert_allclose(norms, expected_norms, rtol=rounding)
    for (path, found), wanted in zip(trees.leaves_with_paths(moved), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, atol=rounding * np.max(np.abs(wanted)), rtol=0, err_msg=path)


def test_a_run_goes_on_on_another_mesh(tmp_path):
    def batch(step):
        return np.random.default_rng(step).normal(size=(8, 4)).astype(np.float32)

    parts = {
        "init": lambda key: {"w": jax.random.normal(key, (4, 8))},
        "loss": lambda params, batch, key: jnp.mean(jnp.tanh(batch @ params["w"]) ** 2),
        "batch": batch,
        "optimizer": optax.adam(0.1),
        "steps": 4,
        "sharding": "fsdp",
    }
    options = {"directory": tmp_path, "checkpoint_every": 2, "progress": False}
    whole = train(gpt(**parts, name="whole"), mesh="data=8", **options)
    train(gpt(**parts, name="parts"), mesh="data=4", steps=2, **options)
    rest = train(gpt(**parts, name="parts"), mesh="data=2", resume=True, **options)
    assert rest.step == 4 and len(rest.params["w"].sharding.device_set) == 2
    np.testing.assert_allclose(rest.params["w"], whole.params["w"], rtol=1e-5)
    assert len(read_metrics(tmp_path / "parts")) == 4
