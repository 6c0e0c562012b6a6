"""A residual convnet on images: scikit-learn's digits, or a folder of your own.

    python experiments/vision.py                            # the digits: 20 s on 2 cores
    python experiments/vision.py --folder photos/           # photos/<class>/<image>, one part in five held out
    python experiments/vision.py --steps 3000 --channels 64 128 256 --folder photos/

Images are shifted, and mirrored where that does not change what they show, by the key of the step: what is drawn is a
function of (seed, step). Expected last line:

    0.9805 of the images held out are recognised
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fnbackprop as fb
from fnbackprop import losses
from fnbackprop.models import convnet
from fnbackprop.training import data
from fnbackprop.training.data.permutations import permute


@dataclasses.dataclass(frozen=True)
class Config:
    """What is looked at, and how."""

    folder: Path | None = None
    """A folder of images for each class; without one, the digits."""
    size: int = 32
    """Height and width to which the images of a folder are scaled."""
    mirror: bool = True
    """Whether the images of a folder may be mirrored; digits never are."""
    channels: tuple[int, ...] = (16, 32)
    """Of each stage; every stage after the first halves height and width."""
    blocks: int = 1
    """Residual blocks in each stage."""
    steps: int = 400
    """How many weight updates."""
    batch_size: int = 64
    """Images in a step."""
    learning_rate: float = 4e-3
    """The largest; it falls to zero along a cosine."""
    seed: int = 0
    """Of the parameters, the order of the images and their shifts."""


def images_of(config: Config) -> tuple[np.ndarray, np.ndarray, int]:
    """(images of (examples, height, width, channels), labels, number of classes)."""
    if config.folder is not None:
        images, labels, classes = data.image_folder(config.folder, size=config.size)
        return images, labels, len(classes)
    images, labels = data.digits()
    return images[..., None], labels, 10


def moved(key: jax.Array, images: jax.Array, mirror: bool) -> jax.Array:
    """Each image shifted by up to an eighth of its size, and mirrored or not."""
    _, height, width, _ = images.shape
    margin = max(1, height // 8)
    padded = jnp.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
    shift_key, mirror_key = jax.random.split(key)
    shifts = jax.random.randint(shift_key, (len(images), 2), 0, 2 * margin + 1)
    cut = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), (height, width, image.shape[-1])))
    shifted = cut(padded, shifts)
    turned = jax.random.bernoulli(mirror_key, 0.5, (len(images), 1, 1, 1)) & mirror
    return jnp.where(turned, shifted[:, :, ::-1], shifted)


def experiment(config: Config) -> fb.Experiment:
    """The experiment as pure functions."""
    images, labels, classes = images_of(config)
    order = permute(np.arange(len(images)), len(images), 0)  # the same split for every seed
    held_out, train = np.split(order, [len(images) // 5])
    mirror = config.mirror and config.folder is not None

    def init(key):
        sizes = {"inputs": images.shape[-1], "channels": config.channels, "blocks": config.blocks}
        return convnet.init(key, outputs=classes, **sizes)

    def loss(params, batch, key):
        shift_key, dropout_key = jax.random.split(key)
        seen = moved(shift_key, batch["images"], mirror)
        logits = convnet.apply(params, seen, residual=True, dropout=0.1, key=dropout_key)
        return losses.softmax_cross_entropy(logits, batch["labels"])

    @jax.jit
    def right(params, images, labels):
        return jnp.sum(convnet.apply(params, images, residual=True).argmax(axis=-1) == labels)

    def evaluate(params):
        parts = [held_out[i : i + 256] for i in range(0, len(held_out), 256)]
        return {"accuracy": sum(int(right(params, images[part], labels[part])) for part in parts) / len(held_out)}

    batch = {"images": images[train], "labels": labels[train]}
    rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, config.steps // 20, config.steps)
    return fb.Experiment(
        name="vision" if config.folder is None else f"vision-{config.folder.resolve().name}",
        init=init,
        loss=loss,
        batch=data.shuffled(batch, batch_size=min(config.batch_size, len(train)), seed=config.seed),
        optimizer=optax.adamw(rate),
        steps=config.steps,
        seed=config.seed,
        evaluate=evaluate,
        evaluate_every=100,
        config=config,
    )


def train_and_test(config: Config) -> None:
    """Train, and say how many of the images held out are recognised."""
    seeing = experiment(config)
    print(f"{seeing.evaluate(fb.train(seeing).params)['accuracy']:.4f} of the images held out are recognised")


if __name__ == "__main__":
    fb.run(experiment, default=train_and_test)
