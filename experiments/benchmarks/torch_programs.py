"""PyTorch's value and gradient of a benchmark's workload, with the same numbers, to run in turns with JAX's programs.

Each function takes JAX's operands, turns their layout into PyTorch's and returns a program that ignores its arguments.
"""

import importlib.util

import numpy as np


def installed():
    return importlib.util.find_spec("torch") is not None


def attention(q, k, v):
    """The fused attention; of (time, heads, size)."""
    import torch

    q, k, v = leaves = [_leaf(np.asarray(x).transpose(1, 0, 2)[None]) for x in (q, k, v)]
    attend = torch.nn.functional.scaled_dot_product_attention
    return _step(lambda: (attend(q, k, v, is_causal=True) * q).sum(), leaves)


def lstm(x, w, b, r):
    """`torch.nn.LSTM`, whose gates i, f, g and o lie in the same order; x of (time, rows, inputs)."""
    import torch

    layer, x = torch.nn.LSTM(len(w), len(r)), _leaf(x)
    for name, value in {"weight_ih": w.T, "weight_hh": r.T, "bias_ih": b, "bias_hh": 0 * b}.items():
        getattr(layer, f"{name}_l0").data = _leaf(value).data
    return _step(lambda: layer(x)[0].square().sum(), [x, *layer.parameters()])


def convolution(x, w):
    """x of (batch, height, width, features), w of (height, width, features, outputs), zero-padded.

    The features go on lying last in memory: PyTorch is then as fast as it gets on a CPU.
    """
    import torch

    x, w = _leaf(x), _leaf(np.asarray(w).transpose(3, 0, 1, 2))
    conv = torch.nn.functional.conv2d
    return _step(lambda: conv(x.movedim(3, 1), w.movedim(3, 1), padding="same").square().sum(), [x, w])


def _leaf(x):
    import torch

    return torch.tensor(np.ascontiguousarray(x), requires_grad=True)


def _step(loss, leaves):
    def step(*_):
        value = loss()
        value.backward()
        for leaf in leaves:
            leaf.grad = None
        return value.item()

    return step
