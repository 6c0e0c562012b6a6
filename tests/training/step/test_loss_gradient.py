"""The gradient of a step: over microbatches that of the batch, in its precision, and scaled where that is needed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnbackprop.experiment import Experiment, ExperimentError
from fnbackprop.training.step.loss_gradient import make_value_and_grad
from fnbackprop.training.step.mixed_precision import Precision, precision_of, uncast_note

KEY = jax.random.key(0)


def experiment_of(loss, **changes) -> Experiment:
    parts = {"name": "g", "init": lambda key: 0, "loss": loss, "batch": lambda step: 0, "optimizer": optax.sgd(1.0)}
    return Experiment(**(parts | {"steps": 1} | changes))


def regression(params, batch, key):
    errors = jnp.tanh(batch["x"] @ params["w"]) * batch["weight"] - batch["y"]
    return jnp.mean(errors**2), {"bias": jnp.mean(errors), "large": jnp.sum(jnp.abs(errors) > 1)}


def regression_data():
    rng = np.random.default_rng(1)
    params = {"w": jnp.asarray(rng.normal(size=(5,)), jnp.float32)}
    x, y = rng.normal(size=(12, 5)).astype(np.float32), rng.normal(size=(12,)).astype(np.float32)
    return params, {"x": x, "y": y, "weight": np.float32(1.5)}


@pytest.mark.parametrize("backward", ["manual", "automatic"])
def test_accumulation_is_the_gradient_of_the_whole_batch(backward):
    params, batch = regression_data()
    gradient = make_value_and_grad(experiment_of(regression, accumulate=3), backward, Precision())
    (loss, metrics), found = jax.jit(gradient)(params, batch, KEY)
    (expected_loss, expected), expected_gradient = jax.value_and_grad(regression, has_aux=True)(params, batch, KEY)
    np.testing.assert_allclose(found["w"], expected_gradient["w"], rtol=1e-5)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["bias"], expected["bias"], rtol=1e-5)
    np.testing.assert_allclose(metrics["large"], expected["large"] / 3, rtol=1e-6)


def test_microbatches_take_every_nth_example_and_have_their_own_keys():
    def loss(params, batch, key):
        return params * jnp.mean(batch["x"] * jax.random.normal(key, ()))

    gradient = make_value_and_grad(experiment_of(loss, accumulate=2), "manual", Precision())
    _, found = gradient(jnp.float32(1), {"x": jnp.arange(6.0)}, KEY)
    one, two = (jax.random.normal(jax.random.fold_in(KEY, i), ()) for i in range(2))
    np.testing.assert_allclose(found, (2 * one + 3 * two) / 2, rtol=1e-6)  # the means of 0, 2, 4 and of 1, 3, 5


def test_sums_are_kept_in_float32():
    def loss(params, batch, key):
        return params * jnp.mean(batch)

    gradient = make_value_and_grad(experiment_of(loss, accumulate=512), "manual", Precision())
    (value, _), found = jax.jit(gradient)(jnp.bfloat16(1), jnp.ones((512,), jnp.bfloat16), KEY)
    assert found.dtype == jnp.bfloat16 and found == 1  # in bfloat16, 256 + 1 is 256: the mean would be 0.5
    assert value.dtype == jnp.bfloat16 and value == 1


@pytest.mark.parametrize(
    "batch, found",
    [
        ({"x": np.zeros((7, 2)), "y": np.zeros(7)}, "x has 7, y has 7"),
        ({"x": np.zeros((6, 2)), "y": np.zeros(3)}, "x has 6, y has 3"),
        (np.zeros(4), "batch has 4"),
        (np.float32(1), "there are only scalars"),
    ],
)
def test_a_batch_that_cannot_be_split(batch, found):
    gradient = make_value_and_grad(
        experiment_of(lambda params, batch, key: params, accumulate=3), "manual", Precision()
    )
    with pytest.raises(ExperimentError, match=f"accumulate=3 splits .* multiple of 3 examples; but {found}"):
        gradient(jnp.float32(1), batch, KEY)


def test_precision_is_what_the_loss_sees():
    seen = {}

    def loss(params, batch, key):
        seen.update(params=params.dtype, x=batch["x"].dtype, index=batch["index"].dtype)
        return params * jnp.sum(batch["x"]), {"size": jnp.max(batch["x"])}

    batch = {"x": np.array([1.0, 2.0 + 2**-12], np.float32), "index": np.arange(2, dtype=np.int32)}
    gradient = make_value_and_grad(experiment_of(loss), "manual", precision_of("bfloat16"))
    (value, metrics), found = gradient(jnp.float32(1 + 2**-12), batch, KEY)
    assert seen == {"params": jnp.bfloat16, "x": jnp.bfloat16, "index": jnp.int32}
    assert {value.dtype, metrics["size"].dtype, found.dtype} == {jnp.dtype("float32")}
    assert value == 3 and found == 3  # 2**-12 was lost in bfloat16


def test_the_loss_scale_keeps_small_cotangents():
    def loss(params, batch, key):
        return jnp.mean(batch * params) * jnp.float16(2**-10)

    batch = np.array([1.0, 1.25], np.float32) * np.float32(2**-16)
    gradient = make_value_and_grad(experiment_of(loss), "manual", precision_of("float16"))
    params = jnp.ones((2,), jnp.float32)
    (value, _), found = gradient(params, batch, KEY, jnp.float32(2**14))
    _, without = gradient(params, batch, KEY)
    np.testing.assert_allclose(found, batch * 2.0**-11, rtol=1e-2)
    assert np.all(without == 0) and value < 2**-15


def test_the_rest_of_the_batch_keeps_its_dtype():
    """Positions, times and targets are not rounded, whatever they are in: a dict, a tuple, a tree."""

    def seen(tree, **changes):
        found = []

        def loss(params, batch, key):
            found.append(jax.tree.map(lambda leaf: leaf.dtype.name, batch))
            return params * jnp.float32(1).astype(params.dtype)

        precision = Precision("float32", "bfloat16", "float32", **changes)
        make_value_and_grad(experiment_of(loss), "manual", precision)(jnp.float32(1), tree, KEY)
        return found[0]

    one = np.ones(2, np.float32)
    kept, cut = "float32", "bfloat16"
    assert seen({"inputs": one, "times": one, "y": one}) == {"inputs": cut, "times": kept, "y": kept}
    assert seen({"x": {"left": one}, "position": (one, one)}) == {"x": {"left": cut}, "position": (kept, kept)}
    assert seen((one, one)) == (cut, kept) and seen(one) == cut
    assert seen({"x": one, "times": one}, batch=("times",)) == {"x": kept, "times": cut}
    assert seen((one, one), batch=("*",)) == (cut, cut) and seen((one, one), batch=()) == (kept, kept)
    with pytest.raises(ExperimentError, match="no array of the batch matches 'time'; they are times, x"):
        seen({"x": one, "times": one}, batch=("time",))
    note = uncast_note({"times": one, "index": np.arange(2)}, precision_of("bfloat16"))
    assert note.startswith("precision bfloat16: times of the batch keep") and "batch=('times',)" in note
    for batch, setting in (({"x": one, "y": one}, "bfloat16"), ({"i": np.arange(2)}, "bfloat16"), ({"t": one}, None)):
        assert uncast_note(batch, precision_of(setting)) is None


@pytest.mark.parametrize("output", ["float32", "bfloat16"])
def test_a_weight_makes_unequal_microbatches_exact(output):
    """Means over tokens that count, of which microbatches have 1, 0 and 290: the mean of means is another number."""

    def loss(params, batch, key):
        errors = (batch["x"] @ params["w"] - batch["y"]) * batch["mask"]
        count = jnp.sum(batch["mask"])
        return jnp.sum(errors**2) / count, {"bias": jnp.sum(errors) / count, "weight": count.astype(jnp.int32)}

    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=5), jnp.float32)}
    batch = {"x": rng.normal(size=(900, 5)).astype(np.float32), "y": rng.normal(size=900).astype(np.float32)}
    batch["mask"] = (np.arange(900) % 3 == 2).astype(np.float32) * (np.arange(900) >= 30)
    batch["mask"][0] = 1
    precision = Precision(output=output)
    split_up = make_value_and_grad(experiment_of(loss, accumulate=3), "manual", precision)
    (value, metrics), found = jax.jit(split_up)(params, batch, KEY)
    (expected_value, expected), gradient = jax.value_and_grad(loss, has_aux=True)(params, batch, KEY)
    assert metrics["weight"] == expected["weight"] == 291 and metrics["weight"].dtype == jnp.int32
    tolerance = {"rtol": 1e-5 if output == "float32" else 1e-2}
    np.testing.assert_allclose(found["w"], gradient["w"], **tolerance)
    np.testing.assert_allclose(value, expected_value, **tolerance)
    np.testing.assert_allclose(metrics["bias"], expected["bias"], **tolerance)
