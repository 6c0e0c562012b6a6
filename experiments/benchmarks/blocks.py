"""Blocks against their plain definitions: time, temporary memory, error against float64, share of the product rate.

    python experiments/benchmarks/blocks.py                    # 22 minutes on 2 cores
    python experiments/benchmarks/blocks.py --only attention   # the workloads whose name holds a word

Value and gradient of each workload, in one interleaved run: the plain definition by `jax.value_and_grad` (the
baseline) and by `fb.value_and_grad`, the plain definition with `fuse=True`, the block by both, and PyTorch's attention,
LSTM or convolution where it is installed. Convolutions are no blocks: there it is the rule that is measured.
Ratios below 1 are in our favour. Saves runs/benchmarks/blocks.json.
"""

import argparse
import functools
import math

import jax
import jax.numpy as jnp
import measuring
import numpy as np
import torch_programs
from jax import lax

import fnbackprop as fb
from fnbackprop.blocks import norms
from fnbackprop.blocks.gru import gru
from fnbackprop.blocks.lstm import lstm
from fnbackprop.blocks.rnn import rnn

RNG = np.random.default_rng(0)


def normal(*shape, scale=1.0):
    return jnp.asarray(RNG.normal(size=shape) * scale, jnp.float32)


def plain_attention(q, k, v):
    """softmax(q kᵀ / sqrt(size)) v, causal, of (time, heads, size)."""
    scores = jnp.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
    scores = jnp.where(jnp.tril(jnp.ones(scores.shape[1:], bool)), scores, -jnp.inf)
    return jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores), v)


def attention(heads, length, size=64):
    def weighted(attend):
        return lambda q, k, v: jnp.sum(attend(q, k, v) * q)

    args = tuple(normal(length, heads, size) for _ in range(3))
    plain, block = weighted(plain_attention), weighted(functools.partial(fb.attention, causal=True))
    return plain, block, args, 6 * 2 * heads * length**2 * size / 2  # products of the lower triangle


def plain_cross_entropy(x, w, labels):
    logits = x @ w
    return jnp.mean(jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, labels[:, None], 1)[:, 0])


def cross_entropy(tokens, width, classes):
    labels = jnp.asarray(RNG.integers(0, classes, tokens), jnp.int32)
    args = normal(tokens, width), normal(width, classes, scale=width**-0.5), labels
    return plain_cross_entropy, fb.linear_cross_entropy, args, 3 * 2 * tokens * width * classes


def recurrent(block, gates, parts, steps, rows, hidden):
    """The sum of squares of all outputs, from a state of zeros."""

    def squared(layer):
        def loss(x, w, b, r):
            state = (jnp.zeros((rows, hidden), x.dtype),) * parts
            return jnp.sum(layer(x, w, b, r, None, state)[0] ** 2)

        return loss

    w, r = (normal(hidden, gates * hidden, scale=hidden**-0.5) for _ in range(2))
    args = normal(steps, rows, hidden), w, jnp.zeros(gates * hidden), r
    return squared(block.plain), squared(block), args, 6 * 2 * steps * rows * gates * hidden**2


def normalised_layers(norm, plain, layers=6, tokens=2048, width=384):
    """Scanned layers of a norm and a product."""

    def squared(norm):
        def loss(x, scale, w):
            return jnp.sum(jax.lax.scan(lambda x, p: (x + norm(x, p[0]) @ p[1], None), x, (scale, w))[0] ** 2)

        return loss

    args = normal(tokens, width), jnp.ones((layers, width)), normal(layers, width, width, scale=width**-0.5)
    return squared(plain), squared(norm), args, 6 * layers * tokens * width**2


def gated_layers(gated, activation, layers=6, tokens=2048, width=384):
    """Scanned layers of gated MLPs, four times as wide inside."""

    def squared(gated):
        def layer(x, p):
            gate, up, down = p
            return x + gated(x @ gate, x @ up) @ down, None

        return lambda x, gate, up, down: jnp.sum(jax.lax.scan(layer, x, (gate, up, down))[0] ** 2)

    inside, outside = (layers, width, 4 * width), (layers, 4 * width, width)
    args = normal(tokens, width), *(normal(*s, scale=s[1] ** -0.5) for s in (inside, inside, outside))
    return squared(lambda gate, x: activation(gate) * x), squared(gated), args, 6 * 3 * layers * tokens * 4 * width**2


def convolution(side, features, outputs, kernel=3, batch=32):
    """The sum of squares; no block, as the rule of the primitive is what is measured."""

    def loss(x, w):
        z = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.sum(z**2)

    w = normal(kernel, kernel, features, outputs, scale=(kernel**2 * features) ** -0.5)
    return loss, None, (normal(batch, side, side, features), w), 6 * batch * side**2 * w.size


def plain_norm(centred, epsilon):
    return lambda x, scale: norms.plain_norm(x, scale, None, centred=centred, epsilon=epsilon)


WORKLOADS = {
    "causal attention 8x1024x64": lambda: attention(8, 1024),
    "causal attention 4x4096x64": lambda: attention(4, 4096),
    "linear + cross-entropy N2048 D256 V8192": lambda: cross_entropy(2048, 256, 8192),
    "linear + cross-entropy N2048 D256 V50257": lambda: cross_entropy(2048, 256, 50257),
    "LSTM T128 B32 H256": lambda: recurrent(lstm, 4, 2, 128, 32, 256),
    "LSTM T128 B32 H512": lambda: recurrent(lstm, 4, 2, 128, 32, 512),
    "LSTM T256 B4 H512": lambda: recurrent(lstm, 4, 2, 256, 4, 512),
    "GRU T256 B8 H256": lambda: recurrent(gru, 3, 1, 256, 8, 256),
    "RNN T512 B1 H256": lambda: recurrent(rnn, 1, 1, 512, 1, 256),
    "layer norm, scan L6 N2048 D384": lambda: normalised_layers(fb.layer_norm, plain_norm(True, 1e-5)),
    "RMS norm, scan L6 N2048 D384": lambda: normalised_layers(fb.rms_norm, plain_norm(False, 1e-6)),
    "SwiGLU MLP, scan L6 N2048 D384": lambda: gated_layers(fb.swiglu, jax.nn.silu),
    "GeGLU MLP, scan L6 N2048 D384": lambda: gated_layers(fb.geglu, jax.nn.gelu),
    "convolution 3x3, 32x32, 64 to 64": lambda: convolution(32, 64, 64),
    "convolution 3x3, 16x16, 128 to 128": lambda: convolution(16, 128, 128),
    "convolution 3x3, 8x8, 256 to 256": lambda: convolution(8, 256, 256),
    "convolution 3x3, 32x32, 3 to 64": lambda: convolution(32, 3, 64),
    "convolution 1x1, 32x32, 64 to 256": lambda: convolution(32, 64, 256, kernel=1, batch=8),
}


def programs(plain, block, args):
    """The compiled value and gradient, by name; the first is the baseline."""
    moving = tuple(i for i, x in enumerate(args) if jnp.issubdtype(x.dtype, jnp.floating))
    both = functools.partial(functools.partial, argnums=moving)
    found = {
        "plain by jax.grad": (both(jax.value_and_grad), plain),
        "plain by fb.grad": (both(fb.value_and_grad), plain),
    }
    if block is not None:
        found |= {
            "plain, fuse=True": (both(fb.value_and_grad, fuse=True), plain),
            "block by jax.grad": (both(jax.value_and_grad), block),
            "block by fb.grad": (both(fb.value_and_grad), block),
        }
    return {name: measuring.compile_step(transform, fun, args) for name, (transform, fun) in found.items()}


def exact(plain, args):
    """Value and gradient of the plain definition in float64."""
    moving = tuple(i for i, x in enumerate(args) if jnp.issubdtype(x.dtype, jnp.floating))
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(x), jnp.float64) if i in moving else x for i, x in enumerate(args)]
        return jax.tree.map(np.asarray, jax.jit(jax.value_and_grad(plain, moving))(*wide))


def beside_torch(name, args):
    """PyTorch's program of the same work; none where it is not installed or has none."""
    makers = {
        "causal attention": torch_programs.attention,
        "LSTM": torch_programs.lstm,
        "convolution": torch_programs.convolution,
    }
    make = next((make for kind, make in makers.items() if name.startswith(kind)), None)
    return {"torch": make(*args)} if make and torch_programs.installed() else {}


def rows_of(name, work, rounds, rate):
    plain, block, args, operations = work
    compiled, truth = programs(plain, block, args), exact(plain, args)
    theirs = beside_torch(name, args)
    for program in theirs.values():  # the same work: the same value
        np.testing.assert_allclose(program(), truth[0], rtol=1e-4)
    return measuring.rows_of(name, compiled | theirs, args, truth, operations, rounds, rate)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a word in the workload's name")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    rate, rows = measuring.product_rate(), []
    print(f"float32 products: {rate / 1e9:.0f} GFLOP/s")
    for name, make in WORKLOADS.items():
        if options.only.lower() in name.lower():
            print(name, flush=True)
            found = rows_of(name, make(), options.rounds, rate)
            rows += found
            for row in found:
                measuring.show_row(row)
    print(f"saved to {measuring.save((), 'blocks', blocks=rows, product_gflops=rate / 1e9)}")


if __name__ == "__main__":
    main()
