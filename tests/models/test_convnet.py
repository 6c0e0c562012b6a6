import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.models import convnet
from tests.models.sampling import random_params

KEY = jax.random.key(0)


def flax_conv(params, x, stride=1):
    conv = nn.Conv(params["w"].shape[-1], params["w"].shape[:2], strides=stride, padding="SAME")
    return conv.apply({"params": {"kernel": params["w"], "bias": params["b"]}}, x)


def flax_norm_relu(params, x):
    return nn.relu(nn.LayerNorm(epsilon=1e-5).apply({"params": params}, x))


def flax_convnet(params, x, residual, shrink):
    for i, stage in enumerate(params["stages"]):
        x = flax_norm_relu(stage["norm"], flax_conv(stage["conv"], x, 2 if i and shrink == "stride" else 1))
        if i and shrink != "stride":
            x = {"max": nn.max_pool, "mean": nn.avg_pool}[shrink](x, (2, 2), strides=(2, 2))
        for block in stage["blocks"]:
            y = flax_conv(block["conv1"], flax_norm_relu(block["norm1"], x))
            y = flax_conv(block["conv2"], flax_norm_relu(block["norm2"], y))
            x = x + y if residual else y
    x = jnp.mean(flax_norm_relu(params["norm"], x), axis=(1, 2))
    return nn.Dense(5).apply({"params": {"kernel": params["head"]["w"], "bias": params["head"]["b"]}}, x)


@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
@pytest.mark.parametrize("residual, shrink", [(False, "max"), (True, "mean"), (True, "stride")])
def test_same_as_flax(residual, shrink, size):
    params = random_params(convnet.init, inputs=2, channels=(3, 4, 6), outputs=5)
    x = jax.random.normal(jax.random.key(1), (3, *size, 2))
    y = jax.jit(lambda p, x: convnet.apply(p, x, residual=residual, shrink=shrink))(params, x)
    with jax.numpy_dtype_promotion("standard"):  # flax's avg_pool needs it
        expected = jax.jit(lambda p, x: flax_convnet(p, x, residual, shrink))(params, x)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_apply_conv_in_numpy():
    params = random_params(convnet.init_conv, inputs=2, outputs=4)
    x = jax.random.normal(jax.random.key(1), (3, 5, 6, 2))
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.asarray(params["b"], np.float64)
    for i in range(3):
        for j in range(3):
            expected = expected + padded[:, i : i + 5, j : j + 6] @ np.asarray(params["w"][i, j], np.float64)
    np.testing.assert_allclose(convnet.apply_conv(params, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("by", ["max", "mean"])
def test_pool(by):
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)
    windows = x[:, :4].reshape(2, 2, 2, 3, 2, 3)  # the odd last row is left out
    expected = getattr(np, by)(windows, axis=(2, 4))
    np.testing.assert_allclose(convnet.pool(jnp.asarray(x), by), expected, rtol=1e-6)


def test_without_blocks():
    params = random_params(convnet.init, inputs=1, channels=(4, 8), outputs=5, blocks=0)
    assert [stage["blocks"] for stage in params["stages"]] == [[], []]
    assert convnet.apply(params, jnp.ones((3, 2, 2, 1))).shape == (3, 5)


def test_init_is_he_normal_for_the_fan_in_of_the_window():
    w = convnet.init_conv(KEY, inputs=50, outputs=60)["w"]
    assert w.shape == (3, 3, 50, 60)
    np.testing.assert_allclose(np.std(w), np.sqrt(2 / (9 * 50)), rtol=0.01)
    params = random_params(convnet.init, inputs=1, channels=(16, 32), outputs=10, blocks=2)
    assert [stage["conv"]["w"].shape for stage in params["stages"]] == [(3, 3, 1, 16), (3, 3, 16, 32)]
    assert params["stages"][1]["blocks"][1]["conv2"]["w"].shape == (3, 3, 32, 32)
    assert params["head"]["w"].shape == (32, 10)


@pytest.mark.parametrize(
    "shape, options, message",
    [
        ((3, 8, 8), {}, r"\(3, 8, 8\) must be \(batch, height, width, 1\)"),
        ((3, 8, 8, 2), {}, r"must be \(batch, height, width, 1\)"),
        ((3, 8, 3, 1), {}, "images of 8x3 are too small, at least 4 each way"),
        ((3, 8, 8, 1), {"shrink": "min"}, 'shrink must be "max", "mean" or "stride", got \'min\''),
    ],
)
def test_errors(shape, options, message):
    params = random_params(convnet.init, inputs=1, channels=(2, 2, 2), outputs=5, blocks=0)
    with pytest.raises(ValueError, match=message):
        convnet.apply(params, jnp.ones(shape), **options)
