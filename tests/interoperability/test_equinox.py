"""Equinox: modules split into arrays and the rest by `eqx.partition`."""

import equinox as eqx
import jax
import numpy as np
import pytest
from equinox import nn

import fnbackprop as fb

from .agreement import check_agreement, draw, drawn_like

KEY = jax.random.key(0)
X, SEQUENCE, IMAGE = draw(4), draw(5, 4), draw(2, 6, 5)


def run(cell, carry):
    """The cell over a sequence, by `lax.scan`."""

    def over(xs):
        return jax.lax.scan(lambda carry, x: (cell(x, carry),) * 2, carry, xs)

    return over


MODULES = {
    "feedforward": {
        "MLP": (lambda: nn.MLP(4, 3, 5, 2, activation=jax.nn.gelu, key=KEY), (X,)),
        "Linear": (lambda: nn.Linear(4, "scalar", key=KEY), (X,)),
        "LayerNorm": (lambda: nn.LayerNorm(4), (X,)),
        "RMSNorm": (lambda: nn.RMSNorm(4), (X,)),
        "GroupNorm": (lambda: nn.GroupNorm(1, 2), (IMAGE,)),
        "PReLU": (lambda: nn.PReLU(0.25), (X,)),
        "RotaryPositionalEmbedding": (lambda: nn.RotaryPositionalEmbedding(4), (SEQUENCE,)),
    },
    "spatial": {
        "Conv1d": (lambda: nn.Conv1d(5, 3, 2, dilation=2, key=KEY), (SEQUENCE,)),
        "Conv2d": (lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, key=KEY), (IMAGE,)),
        "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1, key=KEY), (IMAGE,)),
        "MaxPool2d": (lambda: nn.MaxPool2d(3, 2), (IMAGE,)),
        "AvgPool2d": (lambda: nn.AvgPool2d(2, 2), (IMAGE,)),
        "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d((2, 3)), (IMAGE,)),
    },
    "attention": {
        "MultiheadAttention": (lambda: nn.MultiheadAttention(2, 4, key=KEY), (SEQUENCE, SEQUENCE + 1, SEQUENCE[::-1])),
    },
}


def program(module, inputs, call=lambda module, *inputs: module(*inputs)):
    """The module's floating arrays, redrawn in float64, and its inputs."""
    arrays, rest = eqx.partition(module, eqx.is_inexact_array)
    return lambda arrays, *inputs: call(eqx.combine(arrays, rest), *inputs), (drawn_like(arrays), *inputs)


@pytest.mark.parametrize("family", MODULES)
def test_modules(family):
    check_agreement({name: program(make(), inputs) for name, (make, inputs) in MODULES[family].items()})


def test_masked_attention():
    mask = np.tri(5, dtype=bool)
    layer = nn.MultiheadAttention(2, 4, key=KEY)
    check_agreement({"masked": program(layer, (SEQUENCE,), lambda layer, x: layer(x, x, x, mask=mask))})


def test_recurrent():
    h, c = draw(3), draw(3)[::-1].copy()
    cells = {"GRUCell": (nn.GRUCell(4, 3, key=KEY), h), "LSTMCell": (nn.LSTMCell(4, 3, key=KEY), (h, c))}
    check_agreement(
        {
            name: program(cell, (SEQUENCE, carry), lambda cell, xs, carry: run(cell, carry)(xs))
            for name, (cell, carry) in cells.items()
        }
    )


def test_filtered_scan_with_checkpoints():
    """`eqx.internal.while_loop(kind="checkpointed")` is Equinox's own `custom_vjp` around a loop."""

    def fun(x):
        body = lambda carry: (carry[0] + 1, jax.numpy.sin(carry[1]) * 1.1)  # noqa: E731
        return eqx.internal.while_loop(lambda carry: carry[0] < 5, body, (0, x), max_steps=8, kind="checkpointed")[1]

    check_agreement({"checkpointed": (fun, (X,))})


def test_a_model_is_an_argument():
    """Its functions stay what they are, as under `eqx.filter_grad`."""

    def loss(model, x):
        return jax.numpy.sum(jax.vmap(model)(x) ** 2)

    arguments = nn.MLP(4, "scalar", 3, 1, key=KEY), draw(2, 4)
    result = fb.compare(loss, *arguments, directions=0, rules=False, reference=False)
    assert result.ok and len(result.leaves) == 4
    assert fb.coverage(loss, *arguments).ok and fb.residuals(loss, *arguments).nbytes > 0
