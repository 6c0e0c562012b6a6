"""Batch normalisation: a Flax NNX model whose running statistics are renewed by each step and never differentiated.

    python experiments/batch_norm.py             # 11 s on 2 cores
    python experiments/batch_norm.py compare     # are the gradients through NNX's modules right?

With `has_state`, `init` returns the parameters and the model state, two pytrees, and `loss` returns the state anew.
NNX has both in one object: `nnx.split` takes it apart, and `nnx.merge` makes it whole. The data are scikit-learn's
1797 images of 8x8 pixels, 397 of them held out. Expected last line:

    0.9698 of the images held out are recognised; 0.8489 by the statistics of before training
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx  # pip install -e '.[examples]'

import fnbackprop as fb
from fnbackprop import losses
from fnbackprop.training import data

TEST_IMAGES = 397


@dataclasses.dataclass(frozen=True)
class Config:
    """How the convnet is built and trained."""

    channels: int = 16
    """Of the first layer; the second has twice as many."""
    momentum: float = 0.9
    """How much of a running statistic a step leaves."""
    steps: int = 300
    """How many weight updates."""
    batch_size: int = 64
    """Images in a step."""
    learning_rate: float = 1e-2
    """The largest; it falls to zero along a cosine."""
    seed: int = 0
    """Of the parameters and the order of the images."""


class ConvNet(nnx.Module):
    """Twice a convolution by steps of two, a normalisation and a ReLU; then a linear layer."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        widths = (1, config.channels, 2 * config.channels)
        self.convs = nnx.List([
            nnx.Conv(m, n, kernel_size=(3, 3), strides=2, use_bias=False, rngs=rngs)
            for m, n in zip(widths, widths[1:], strict=False)
        ])  # fmt: skip
        self.norms = nnx.List([nnx.BatchNorm(n, momentum=config.momentum, rngs=rngs) for n in widths[1:]])
        self.head = nnx.Linear(4 * widths[-1], 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(images, 8, 8, 1) to logits of (images, 10)."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(norm(conv(x)))  # (images, 4, 4, channels), then (images, 2, 2, 2 channels)
        return self.head(x.reshape(len(x), -1))


def experiment(config: Config) -> fb.Experiment:
    """The experiment as pure functions."""
    images, labels = data.digits()
    images = images[..., None]
    test, train = np.split(np.random.default_rng(0).permutation(len(images)), [TEST_IMAGES])
    graph = nnx.graphdef(nnx.eval_shape(lambda: ConvNet(config, nnx.Rngs(0))))

    def init(key):
        _, params, model_state = nnx.split(ConvNet(config, nnx.Rngs(key)), nnx.Param, ...)
        return params, model_state

    def loss(params, model_state, batch, key):
        model = nnx.merge(graph, params, model_state)
        logits = model(batch["images"])  # by the batch's own statistics; the running ones are renewed
        return losses.softmax_cross_entropy(logits, batch["labels"]), nnx.state(model, nnx.Not(nnx.Param))

    def predict(params, model_state, inputs):
        return nnx.view(nnx.merge(graph, params, model_state), use_running_average=True)(inputs)

    @jax.jit
    def evaluate(params, model_state):
        found = predict(params, model_state, images[test]).argmax(axis=-1)
        return {"accuracy": jnp.mean(found == labels[test])}

    return fb.Experiment(
        name="batch_norm",
        init=init,
        loss=loss,
        has_state=True,
        batch=data.shuffled(
            {"images": images[train], "labels": labels[train]}, batch_size=config.batch_size, seed=config.seed
        ),
        optimizer=optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps)),
        steps=config.steps,
        seed=config.seed,
        evaluate=evaluate,
        evaluate_every=100,
        predict=predict,
        config=config,
    )


def train_and_test(config: Config) -> None:
    """Train, and say how many of the images held out are recognised, by old statistics too."""
    made = experiment(config)
    state, (_, initial, *_) = fb.train(made), made.arguments()
    new, old = (float(made.evaluate(state.params, these)["accuracy"]) for these in (state.model_state, initial))
    print(f"{new:.4f} of the images held out are recognised; {old:.4f} by the statistics of before training")


if __name__ == "__main__":
    fb.run(experiment, default=train_and_test)
