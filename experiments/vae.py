"""A variational autoencoder of handwritten digits: each image becomes a normal distribution over a few numbers.

    python experiments/vae.py                    # 15 s on 2 cores; its images are in the run's report.html
    python experiments/vae.py --latent 2         # two numbers an image: the report has a map of them

The data are scikit-learn's 1797 images of 8x8 pixels, light or dark, 397 of them held out. The loss is the negative
evidence lower bound: the nats that it takes to describe the pixels given the numbers, and the numbers given a standard
normal distribution. Its gradient reaches the encoder through the sample, mean + deviation x noise. Expected last line:

    an image held out takes 18.8 nats, 6.9 of them for its 8 numbers; by the mean image it takes 25.4

Source: D. P. Kingma and M. Welling, Auto-Encoding Variational Bayes, 2013.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fnbackprop as fb
from fnbackprop import losses
from fnbackprop.models import mlp
from fnbackprop.training import data

PIXELS, TEST_IMAGES, SHOWN = 64, 397, 64


@dataclasses.dataclass(frozen=True)
class Config:
    """How the autoencoder is built and trained."""

    latent: int = 8
    """How many numbers describe an image."""
    width: int = 256
    """Of the hidden layer of encoder and decoder."""
    steps: int = 3000
    """How many weight updates."""
    batch_size: int = 64
    """Images in a step."""
    learning_rate: float = 2e-3
    """The largest; it falls to zero along a cosine."""
    seed: int = 0
    """Of the parameters, the order of the data and the noise."""


def nats(logits: jax.Array, images: jax.Array) -> jax.Array:
    """What it takes to describe an image, given the probability that each pixel is light: the mean over images."""
    return PIXELS * losses.binary_cross_entropy(logits, images)


def divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """KL(N(mean, variance) | N(0, 1)), summed over the numbers of an image: (images, latent) to (images,)."""
    return jnp.sum(jnp.exp(log_variance) + mean**2 - 1 - log_variance, axis=-1) / 2


def experiment(config: Config) -> fb.Experiment:
    """The experiment as pure functions."""
    images = np.random.default_rng(0).permutation(data.digits()[0].reshape(-1, PIXELS) >= 0.5).astype(np.float32)
    train, test = images[TEST_IMAGES:], images[:TEST_IMAGES]

    def init(key):
        one, two = jax.random.split(key)
        encoder = mlp.init(one, inputs=PIXELS, hidden=(config.width,), outputs=2 * config.latent)
        decoder = mlp.init(two, inputs=config.latent, hidden=(config.width,), outputs=PIXELS)
        return {"encoder": encoder, "decoder": decoder}

    def encode(params, images):
        return jnp.split(mlp.apply(params["encoder"], images), 2, axis=-1)  # twice (images, latent)

    def decode(params, numbers):
        return mlp.apply(params["decoder"], numbers)  # (images, 64), logits

    def loss(params, batch, key):
        mean, log_variance = encode(params, batch)
        numbers = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)
        rate = jnp.mean(divergence(mean, log_variance))
        return nats(decode(params, numbers), batch) + rate, {"for_the_numbers": rate}

    def evaluate(params):
        key = jax.random.key(config.seed)
        value, metrics = loss(params, test, key)
        pixels = {
            "true": test[:SHOWN],
            "described": jax.nn.sigmoid(decode(params, encode(params, test[:SHOWN])[0])),
            "drawn": jax.nn.sigmoid(decode(params, jax.random.normal(key, (SHOWN, config.latent)))),
        }
        if config.latent == 2:  # quantiles of the standard normal distribution, in both directions
            ticks = jax.scipy.stats.norm.ppf((jnp.arange(12.0) + 0.5) / 12)
            grid = jnp.stack(jnp.meshgrid(ticks, -ticks), axis=-1).reshape(-1, 2)
            pixels["map"] = jax.nn.sigmoid(decode(params, grid))
        pictures = {name: fb.Image(rows.reshape(-1, 8, 8, 1)) for name, rows in pixels.items()}
        light = np.clip(train.mean(axis=0), 1e-3, 1 - 1e-3)  # some pixels are dark in all images
        by_the_mean = nats(jnp.broadcast_to(jax.scipy.special.logit(light), test.shape), test)
        return {"nats": value, "nats_by_the_mean": by_the_mean, **metrics, **pictures}

    rate = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    return fb.Experiment(
        name="vae",
        init=init,
        loss=loss,
        batch=data.shuffled(train, batch_size=config.batch_size, seed=config.seed),
        optimizer=optax.adam(rate),
        steps=config.steps,
        seed=config.seed,
        evaluate=jax.jit(evaluate),
        evaluate_every=1000,
        predict=lambda params, inputs: jax.nn.sigmoid(decode(params, inputs)),
        config=config,
    )


def train_and_measure(config: Config) -> None:
    """Train, and say how many nats describe an image held out."""
    made = experiment(config)
    found = made.evaluate(fb.train(made).params)
    split = f"{found['nats']:.1f} nats, {found['for_the_numbers']:.1f} of them for its {config.latent} numbers"
    print(f"an image held out takes {split}; by the mean image it takes {found['nats_by_the_mean']:.1f}")


if __name__ == "__main__":
    fb.run(experiment, default=train_and_measure)
