"""Flax linen: parameters, inputs and mutable statistics, leaf by leaf."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import fnbackprop as fb

from .agreement import check_agreement, draw, drawn_like

X, SEQUENCE, IMAGE = draw(3, 4), draw(2, 5, 4), draw(2, 6, 5, 4)
TOKENS = np.array([[0, 3, 3], [1, 0, 6]])


def program(module, x, **options):
    """The layer as a function of its variables and its input, which is closed over where it is of integers."""
    variables = drawn_like(jax.eval_shape(partial(module.init, jax.random.key(0), **options), x))
    if "batch_stats" in variables:
        variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])

    def apply(variables, *inputs):
        return module.apply(variables, *(inputs or (x,)), mutable=["batch_stats"], **options)

    return apply, (variables, x) if np.issubdtype(x.dtype, np.floating) else (variables,)


class Scanned(nn.Module):
    """A stack of residual layers by `nn.scan`, or a layer computed again in the backward by `nn.remat`."""

    depth: int = 0

    @nn.compact
    def __call__(self, x):
        if not self.depth:
            return nn.remat(nn.Dense)(4)(jnp.tanh(nn.remat(nn.Dense)(8)(x)))
        over_layers = nn.scan(
            lambda block, x, _: (block(x), None), {"params": 0}, split_rngs={"params": True}, length=self.depth
        )
        return over_layers(Residual(), x, None)[0]


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + nn.Dense(4)(jnp.tanh(nn.Dense(3)(nn.LayerNorm()(x))))


LAYERS = {
    "linear": {
        "Dense": (nn.Dense(5), X),
        "DenseGeneral": (nn.DenseGeneral((2, 3), axis=(-2, -1)), SEQUENCE),
        "Einsum": (nn.Einsum((4, 2, 3), "...d,dhk->...hk"), SEQUENCE),
        "Embed": (nn.Embed(7, 4), TOKENS),
        "PReLU": (nn.PReLU(), X),
    },
    "convolutions": {
        "Conv": (nn.Conv(3, (3, 3)), IMAGE),
        "Conv strided": (nn.Conv(4, (3, 2), strides=2, padding="VALID", feature_group_count=2), IMAGE),
        "Conv dilated": (nn.Conv(3, (2,), kernel_dilation=2, padding="CAUSAL"), SEQUENCE),
        "Conv circular": (nn.Conv(3, (3,), padding="CIRCULAR"), SEQUENCE),
        "ConvTranspose": (nn.ConvTranspose(3, (3, 3), strides=(2, 2)), IMAGE),
        "ConvLocal": (nn.ConvLocal(2, (3,)), SEQUENCE),
    },
    "attention": {
        # Without biases: the loss does not depend on the key's, so its gradient is the rounding error alone.
        "MultiHeadDotProductAttention": (nn.MultiHeadDotProductAttention(num_heads=2, use_bias=False), SEQUENCE),
        # Heads of four: a layer norm of two numbers is their order, and its gradient cancels to rounding error.
        "normalised": (
            nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8, use_bias=False, normalize_qk=True),
            SEQUENCE,
        ),
    },
    "lstm": {
        "LSTMCell": (nn.RNN(nn.LSTMCell(3, param_dtype=float)), SEQUENCE),
        "LSTMCell reversed": (
            nn.RNN(nn.OptimizedLSTMCell(3, param_dtype=float), reverse=True, keep_order=True),
            SEQUENCE,
        ),
    },
    "gru": {
        "GRUCell": (nn.RNN(nn.GRUCell(3, param_dtype=float)), SEQUENCE),
        "ConvLSTMCell": (nn.RNN(nn.ConvLSTMCell(2, (2,), param_dtype=float)), draw(1, 3, 4, 2)),
    },
    "norms": {
        "BatchNorm": (nn.BatchNorm(use_running_average=False), SEQUENCE),
        "BatchNorm inference": (nn.BatchNorm(use_running_average=True), SEQUENCE),
        "LayerNorm": (nn.LayerNorm(), SEQUENCE),
        "GroupNorm": (nn.GroupNorm(num_groups=2), IMAGE),
        "RMSNorm": (nn.RMSNorm(), SEQUENCE),
        "InstanceNorm": (nn.InstanceNorm(), IMAGE),
        "WeightNorm": (nn.WeightNorm(nn.Dense(3)), X),
    },
    "transforms": {"scan": (Scanned(3), X), "remat": (Scanned(), X)},
}


@pytest.mark.parametrize("family", LAYERS)
def test_layers(family):
    check_agreement({name: program(*case) for name, case in LAYERS[family].items()})


def test_pooling():
    check_agreement(
        {
            "max_pool": (partial(nn.max_pool, window_shape=(2, 3), strides=(2, 1), padding="SAME"), (IMAGE,)),
            "avg_pool": (partial(nn.avg_pool, window_shape=(2, 2), strides=(1, 2)), (IMAGE,)),
            "avg_pool uncounted padding": (
                partial(nn.avg_pool, window_shape=(3, 3), padding="SAME", count_include_pad=False),
                (IMAGE,),
            ),
        }
    )


def test_dropout():
    module = nn.Dropout(0.4, deterministic=False)
    check_agreement({"Dropout": (lambda x: module.apply({}, x, rngs={"dropout": jax.random.key(1)}), (X,))})


class Dropping(nnx.Module):
    """Parameters, keys and their counts, and a function."""

    def __init__(self, rngs):
        self.linear, self.activation = nnx.Linear(2, 3, rngs=rngs), jnp.tanh
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.activation(self.dropout(self.linear(x)))


def test_an_nnx_module_is_an_argument():
    def loss(model, x):
        return jnp.sum(model(x) ** 2)

    arguments = Dropping(nnx.Rngs(0)), draw(4, 2).astype(np.float32)
    result = fb.compare(loss, *arguments, directions=0, rules=False, reference=False)
    assert result.ok and {"linear/kernel/value", "linear/bias/value"} <= {leaf.path for leaf in result.leaves}
    assert fb.coverage(loss, *arguments).ok and fb.residuals(loss, *arguments).nbytes > 0
