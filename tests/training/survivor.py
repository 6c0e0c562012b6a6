"""A small experiment that lives through kills: a regression with dropout, Adam and evaluations.

    python -m tests.training.survivor train --checkpoint-every 5

SEND="17 SIGKILL" in the environment sends it that signal when the batch of step 17 is asked for; "17 SIGINT SIGINT"
sends two; "evaluate SIGTERM" sends it at the first evaluation. PAUSE=0.02 makes each step last so many seconds longer.
"""

import dataclasses
import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fnbackprop as fb


@dataclasses.dataclass(frozen=True)
class Config:
    """What is fitted, and how."""

    steps: int = 40
    """How many weight updates."""
    hidden: int = 4
    """Width of the hidden layer."""
    learning_rate: float = 0.01
    """Adam's."""
    seed: int = 0
    """Of everything."""


def experiment(config: Config) -> fb.Experiment:
    when, *signals = os.environ.get("SEND", "-1").split()

    def send():
        for name in signals:
            os.kill(os.getpid(), signal.Signals[name])

    def evaluate(params):
        if when == "evaluate":
            send()
        return {"size": jnp.sum(params["w"] ** 2)}

    pause = float(os.environ.get("PAUSE", 0))

    def init(key):
        one, two = jax.random.split(key)
        shape = (3, config.hidden)
        return {"w": jax.random.normal(one, shape), "v": jax.random.normal(two, shape[1:]), "none": jnp.zeros((0, 2))}

    def loss(params, batch, key):
        hidden = jnp.tanh(batch["x"] @ params["w"])
        kept = jax.random.bernoulli(key, 0.8, hidden.shape)
        return jnp.mean((jnp.where(kept, hidden, 0) @ params["v"] - batch["y"]) ** 2)

    def batch(step):
        if str(step) == when:
            send()
        time.sleep(pause)
        random = np.random.default_rng((config.seed, step))
        return {"x": random.normal(size=(8, 3)).astype(np.float32), "y": random.normal(size=(8,)).astype(np.float32)}

    return fb.Experiment(
        name="survivor",
        init=init,
        loss=loss,
        batch=batch,
        optimizer=optax.adam(config.learning_rate),
        steps=config.steps,
        seed=config.seed,
        config=config,
        evaluate=evaluate,
        evaluate_every=10,
    )


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started with Ctrl-C ignored
    fb.run(experiment)
