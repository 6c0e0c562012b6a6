"""The arithmetic of a step: by formula, and beside the compiler's account where there is no loop."""

import jax
import jax.numpy as jnp
import pytest

from fnbackprop.models import convnet, lstm, transformer
from fnbackprop.training.record.flops import forward_flops, peak_of, step_flops


def shapes(init, **sizes):
    return jax.eval_shape(lambda key: init(key, **sizes), jax.random.key(0))


@pytest.mark.parametrize("scan_layers", [False, True])
def test_transformer(scan_layers):
    """2 FLOPs for each weight and token, and for attention 4 * time * width for each token."""
    width, layers, time, batch, vocabulary = 16, 3, 8, 2, 11
    sizes = {"vocabulary": vocabulary, "length": time, "width": width, "layers": layers, "scan_layers": scan_layers}
    params, tokens = shapes(transformer.init, **sizes), jax.ShapeDtypeStruct((batch, time), jnp.int32)
    per_token = layers * (2 * 12 * width**2 + 4 * time * width) + 2 * width * vocabulary
    assert forward_flops(lambda p, t: transformer.apply(p, t, heads=2), params, tokens) == batch * time * per_token


def test_every_turn_of_a_loop_counts():
    params, x = shapes(lstm.init, inputs=3, hidden=5), jax.ShapeDtypeStruct((2, 7, 3), jnp.float32)
    assert step_flops(lambda p, x: jnp.sum(lstm.apply(p, x)[0]), params, x) == 3 * 2 * 7 * 2 * (3 * 20 + 5 * 20)


def test_convolutions_as_the_compiler_counts_them():
    params, x = (
        shapes(convnet.init, inputs=1, channels=(4,), outputs=3),
        jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32),
    )
    convs = 2 * 2 * 64 * 9 * (1 * 4 + 4 * 4 + 4 * 4)  # what a zero-padded border saves is counted as well
    assert forward_flops(convnet.apply, params, x) == convs + 2 * 2 * 4 * 3


def test_a_branch_counts_as_its_largest():
    square = jnp.ones((4, 4))
    found = forward_flops(lambda x: jax.lax.cond(x[0, 0] > 0, lambda: x @ x @ x, lambda: x @ x), square)
    assert found == 2 * 2 * 4**3


def test_peaks():
    assert peak_of("NVIDIA H100 80GB HBM3") == 989e12 and peak_of("TPU v5 lite") == 197e12
    assert peak_of("cpu") is None
