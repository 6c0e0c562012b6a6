"""A small loss of each model, for tests of the whole engine: name -> (loss, params, batch)."""

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop import losses
from fnbackprop.models import convnet, gru, lstm, mlp, rnn, transformer

KEY = jax.random.key(0)


def gpt(dtype, scan_layers=False, layers=2):
    params = transformer.init(
        KEY, vocabulary=17, length=8, width=16, layers=layers, scan_layers=scan_layers, dtype=dtype
    )
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 17, (2, 9)), jnp.int32)

    def loss(params, tokens):
        logits = transformer.apply(params, tokens[:, :-1], heads=2, dropout=0.1, key=jax.random.key(1))
        return losses.softmax_cross_entropy(logits, tokens[:, 1:])

    return loss, params, tokens


def images(dtype):
    params = convnet.init(KEY, inputs=1, channels=(4, 8), outputs=10, dtype=dtype)
    rng = np.random.default_rng(0)
    batch = (jnp.asarray(rng.normal(size=(3, 8, 8, 1)), dtype), jnp.asarray(rng.integers(0, 10, 3), jnp.int32))

    def loss(params, batch):
        return losses.softmax_cross_entropy(convnet.apply(params, batch[0], residual=True), batch[1])

    return loss, params, batch


def recurrent(dtype, model=lstm):
    params = model.init(KEY, inputs=3, hidden=5, layers=2, dtype=dtype)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 3)), dtype)

    def loss(params, x):
        return losses.huber(model.apply(params, x)[0], jnp.ones((2, 6, 5), dtype) / 2)

    return loss, params, x


def perceptron(dtype):
    params = mlp.init(KEY, inputs=4, hidden=(8, 8), outputs=3, dtype=dtype)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), dtype)

    def loss(params, x):
        return losses.mean_squared_error(mlp.apply(params, x, activation=jax.nn.gelu), jnp.ones((5, 3), dtype))

    return loss, params, x


LOSSES = {
    "gpt": gpt,
    "scanned gpt": lambda dtype: gpt(dtype, scan_layers=True),
    "convnet": images,
    "lstm": recurrent,
    "gru": lambda dtype: recurrent(dtype, gru),
    "rnn": lambda dtype: recurrent(dtype, rnn),
    "mlp": perceptron,
}
