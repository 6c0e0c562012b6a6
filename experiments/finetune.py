"""A trained model learns something else by low-rank adapters: a twentieth of the numbers, few examples.

    python experiments/finetune.py                       # both runs: 17 s on 2 cores
    python experiments/finetune.py train --task turned   # the second one again: it begins from runs/finetune-upright
    fnbackprop sweep experiments/finetune.py --task turned --rank 1,2,4,8 --metric accuracy

The first run, "upright", learns scikit-learn's images of 8x8 pixels. The second reads its parameters, leaves them as
they are, and learns from 200 images of digits that are turned by a quarter: to each matrix it adds a product of two
thin ones. What comes out is one model as before, in runs/finetune-turned.safetensors. Expected last line:

    turned digits recognised: 0.0932 before, 0.8791 after learning 4392 numbers beside 85002 that stay

Source: E. Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fnbackprop as fb
from fnbackprop import losses
from fnbackprop.models import mlp
from fnbackprop.training import data

TEST_IMAGES = 397
BASE, MERGED = Path("runs/finetune-upright"), Path("runs/finetune-turned.safetensors")


@dataclasses.dataclass(frozen=True)
class Config:
    """What is learned, and by how many numbers."""

    task: Literal["upright", "turned"] = "upright"
    """The digits as they are, or turned by a quarter: then from the parameters of the first run."""
    rank: int = 4
    """Of the adapters of the second run."""
    examples: int = 200
    """Images that the second run learns from."""
    width: int = 256
    """Of the two hidden layers."""
    steps: int = 500
    """How many weight updates."""
    batch_size: int = 64
    """Images in a step."""
    learning_rate: float = 2e-3
    """The largest; it falls to zero along a cosine."""
    seed: int = 0
    """Of the parameters and the order of the data."""


def images_of(config: Config) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Images of (examples, 64) with their labels: to train with, and to test with."""
    images, labels = data.digits()
    images = (np.rot90(images, axes=(1, 2)) if config.task == "turned" else images).reshape(-1, 64)
    test, train = np.split(np.random.default_rng(0).permutation(len(images)), [TEST_IMAGES])
    train = train[: config.examples] if config.task == "turned" else train
    return {"images": images[train], "labels": labels[train]}, {"images": images[test], "labels": labels[test]}


def merged(params):
    """The parameters to compute with: adapted, or as they are."""
    return fb.lora.merge(params["base"], params["lora"]) if "lora" in params else params


def experiment(config: Config) -> fb.Experiment:
    """The experiment as pure functions."""
    train, test = images_of(config)

    def upright(key):
        return mlp.init(key, inputs=64, hidden=(config.width, config.width), outputs=10)

    def turned(key):
        base = fb.load_parameters(BASE, like=upright(key))
        return {"base": base, "lora": fb.lora.init(key, base, rank=config.rank, where="layers/*/w")}

    def predict(params, inputs):
        return mlp.apply(merged(params), inputs)

    def loss(params, batch, key):
        return losses.softmax_cross_entropy(predict(params, batch["images"]), batch["labels"])

    @jax.jit
    def evaluate(params):
        return {"accuracy": jnp.mean(predict(params, test["images"]).argmax(axis=-1) == test["labels"])}

    return fb.Experiment(
        name=f"finetune-{config.task}",
        init=turned if config.task == "turned" else upright,
        trainable="lora" if config.task == "turned" else None,
        loss=loss,
        batch=data.shuffled(train, batch_size=min(config.batch_size, len(train["labels"])), seed=config.seed),
        optimizer=optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps)),
        steps=config.steps,
        seed=config.seed,
        evaluate=evaluate,
        predict=predict,
        config=config,
    )


def count(params) -> int:
    """How many numbers these parameters are."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def learn_and_adapt(config: Config) -> None:
    """Train the upright digits, then the turned ones from there."""
    fb.train(experiment(dataclasses.replace(config, task="upright")), overwrite=True)
    turning = experiment(dataclasses.replace(config, task="turned"))
    start, params = turning.arguments()[0], fb.train(turning, overwrite=True).params
    print(f"the adapted model: {fb.save_parameters(merged(params), MERGED)}")
    before, after = (float(turning.evaluate(these)["accuracy"]) for these in (start, params))
    share = f"{count(params['lora'])} numbers beside {count(params['base'])} that stay"
    print(f"turned digits recognised: {before:.4f} before, {after:.4f} after learning {share}")


if __name__ == "__main__":
    fb.run(experiment, default=learn_and_adapt)
