"""A generator of handwritten digits against a critic: two losses and two optimizers in a step.

    python experiments/gan.py                    # 25 s on 2 cores; its images are in the run's report.html
    python experiments/gan.py compare            # are the gradients of both losses right?
    fnbackprop sweep experiments/gan.py --critic-rate 1e-4,3e-4 --width 128,256 --steps 500 --metric distance

The data are scikit-learn's 1797 images of 8x8 pixels. The critic is updated twice for each update of the generator,
with the same images and other noise. The distance is that of Fréchet between the true images and the generated ones, as
if the pixels of each were normally distributed. Expected last line:

    distance from the digits: 65.1 before training, 0.8 after

Source: J. H. Lim and J. C. Ye, Geometric GAN, 2017 (the hinge loss).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fnbackprop as fb
from fnbackprop.models import mlp
from fnbackprop.training import data

SAMPLES, SHOWN = 1000, 64


@dataclasses.dataclass(frozen=True)
class Config:
    """How generator and critic are trained."""

    width: int = 256
    """Of the two hidden layers of each."""
    noise: int = 16
    """How many numbers an image is made from."""
    steps: int = 2000
    """Each has two updates of the critic and one of the generator."""
    batch_size: int = 64
    """True images in a step, and generated ones."""
    generator_rate: float = 2e-4
    """The generator's learning rate."""
    critic_rate: float = 4e-4
    """The critic's."""
    seed: int = 0
    """Of the parameters, the order of the data and the noise."""


def frechet_distance(one: np.ndarray, other: np.ndarray) -> float:
    """|m - n|² + tr(A + B - 2 (A B)^½), of the means m, n and the covariances A, B of two sets of rows."""
    (m, a), (n, b) = ((rows.mean(axis=0), np.cov(rows, rowvar=False)) for rows in (one, other))
    shared = np.sqrt(np.maximum(np.linalg.eigvals(a @ b).real, 0)).sum()
    return float(np.sum((m - n) ** 2) + np.trace(a) + np.trace(b) - 2 * shared)


def experiment(config: Config) -> fb.Experiment:
    """The experiment as pure functions."""
    images = 2 * data.digits()[0].reshape(-1, 64) - 1  # between -1 and 1
    hidden = (config.width, config.width)

    def init(key):
        one, two = jax.random.split(key)
        generator = mlp.init(one, inputs=config.noise, hidden=hidden, outputs=64)
        return {"generator": generator, "critic": mlp.init(two, inputs=64, hidden=hidden, outputs=1)}

    def generate(params, key, count):
        return jnp.tanh(mlp.apply(params["generator"], jax.random.normal(key, (count, config.noise))))

    def score(params, x):
        return mlp.apply(params["critic"], x, activation=lambda y: jax.nn.leaky_relu(y, 0.2))

    def critic_loss(params, batch, key):
        true, false = score(params, batch), score(params, generate(params, key, len(batch)))
        told_apart = (jnp.mean(true > 0) + jnp.mean(false < 0)) / 2
        return jnp.mean(jax.nn.relu(1 - true)) + jnp.mean(jax.nn.relu(1 + false)), {"told_apart": told_apart}

    def generator_loss(params, batch, key):
        return -jnp.mean(score(params, generate(params, key, len(batch))))

    sample = jax.jit(lambda params: generate(params, jax.random.key(config.seed), SAMPLES))

    def evaluate(params):
        made = np.asarray(sample(params))
        pixels = (made[:SHOWN].reshape(SHOWN, 8, 8, 1) + 1) / 2
        return {"distance": frechet_distance(images, made), "generated": fb.Image(pixels)}

    critic = optax.adam(config.critic_rate, b1=0.5, b2=0.99)
    generator = optax.adam(config.generator_rate, b1=0.5, b2=0.99)
    return fb.Experiment(
        name="gan",
        init=init,
        batch=data.shuffled(images, batch_size=config.batch_size, seed=config.seed),
        updates=[
            fb.Update("critic", loss=critic_loss, optimizer=critic, parameters="critic", times=2),
            fb.Update("generator", loss=generator_loss, optimizer=generator, parameters="generator"),
        ],
        ema=0.995,
        steps=config.steps,
        seed=config.seed,
        evaluate=evaluate,
        evaluate_every=500,
        config=config,
    )


def train_and_measure(config: Config) -> None:
    """Train, and say how far generated images are from true ones."""
    made = experiment(config)
    before = made.evaluate(made.arguments()[0])["distance"]
    after = made.evaluate(fb.train(made).averaged)["distance"]
    print(f"distance from the digits: {before:.1f} before training, {after:.1f} after")


if __name__ == "__main__":
    fb.run(experiment, default=train_and_measure)
