"""The jitted step of whole models: ours against `jax.value_and_grad`.

    python experiments/benchmarks/steps.py    # 2 minutes on 2 cores

Ratios below 1 are in our favour. Times are medians of interleaved rounds; memory is the compiler's account of
temporary buffers.
"""

import jax
import jax.numpy as jnp
import measuring
import numpy as np

import fnbackprop as fb
from fnbackprop import losses
from fnbackprop.models import convnet, lstm, mlp, transformer

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def perceptron():
    params = mlp.init(KEY, inputs=256, hidden=(512, 512), outputs=10)
    batch = jnp.asarray(RNG.normal(size=(256, 256)), jnp.float32), jnp.asarray(RNG.integers(0, 10, 256), jnp.int32)
    return lambda p, b: losses.softmax_cross_entropy(mlp.apply(p, b[0]), b[1]), params, batch


def images():
    params = convnet.init(KEY, inputs=3, channels=(16, 32), outputs=10)
    batch = (
        jnp.asarray(RNG.normal(size=(16, 32, 32, 3)), jnp.float32),
        jnp.asarray(RNG.integers(0, 10, 16), jnp.int32),
    )
    return lambda p, b: losses.softmax_cross_entropy(convnet.apply(p, b[0], residual=True), b[1]), params, batch


def recurrent():
    params = lstm.init(KEY, inputs=64, hidden=128)
    x = jnp.asarray(RNG.normal(size=(32, 64, 64)), jnp.float32)
    return lambda p, x: losses.huber(lstm.apply(p, x)[0], jnp.ones((32, 64, 128))), params, x


def gpt(layers=4, scan_layers=False):
    params = transformer.init(KEY, vocabulary=256, length=128, width=128, layers=layers, scan_layers=scan_layers)
    tokens = jnp.asarray(RNG.integers(0, 256, (8, 129)), jnp.int32)

    def loss(params, tokens):
        return losses.softmax_cross_entropy(transformer.apply(params, tokens[:, :-1], heads=4), tokens[:, 1:])

    return loss, params, tokens


WORKLOADS = {
    "MLP 256-512-512-10, batch 256": perceptron,
    "residual convnet 32x32, batch 16": images,
    "LSTM T64 B32 H128": recurrent,
    "GPT L4 D128 T128 B8, unrolled": gpt,
}


def main():
    rows = []
    for name, make in WORKLOADS.items():
        loss, params, batch = make()
        programs = [measuring.compile_step(lib.value_and_grad, loss, (params, batch)) for lib in (jax, fb)]
        rows.append(measuring.measure(name, *programs, (params, batch)))
    measuring.show(rows)
    print(f"saved to {measuring.save(rows, 'steps')}")


if __name__ == "__main__":
    main()
