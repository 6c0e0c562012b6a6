"""A small experiment that lives through kills: a regression with dropout, Adam and evaluations.

    python -m tests.training.survivor train --checkpoint-every 5
    python -m tests.training.survivor train --kind state       # with a model state, and averages of both
    python -m tests.training.survivor train --kind updates     # two updates, one of them twice, one in every third step

SEND="17 SIGKILL" in the environment sends it that signal when the batch of step 17 is asked for; "17 SIGINT SIGINT"
sends two; "evaluate SIGTERM" sends it at the first evaluation. PAUSE=0.02 makes each step last so many seconds longer.
"""

import dataclasses
import os
import signal
import time
from typing import Any, Literal

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
    kind: Literal["plain", "state", "updates"] = "plain"
    """What else a step renews."""


def experiment(config: Config) -> fb.Experiment:
    when, *signals = os.environ.get("SEND", "-1").split()

    def send():
        for name in signals:
            os.kill(os.getpid(), signal.Signals[name])

    def evaluate(params, *model_state):
        if when == "evaluate":
            send()
        return {"size": jnp.sum(params["w"] ** 2)}

    pause = float(os.environ.get("PAUSE", 0))

    def init(key):
        one, two = jax.random.split(key)
        shape = (3, config.hidden)
        return {"w": jax.random.normal(one, shape), "v": jax.random.normal(two, shape[1:]), "none": jnp.zeros((0, 2))}

    def loss(params, batch, key, mean=0.0):
        hidden = jnp.tanh(batch["x"] @ params["w"] - mean)
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
        batch=batch,
        steps=config.steps,
        seed=config.seed,
        config=config,
        evaluate=evaluate,
        evaluate_every=10,
        **_learned(config, init, loss),
    )


def _learned(config: Config, init: Any, loss: Any) -> dict[str, Any]:
    """Parameters, loss and optimizer, of this kind."""
    adam = optax.adam(config.learning_rate)
    if config.kind == "updates":
        slower = optax.sgd(config.learning_rate, momentum=0.9)
        inner = fb.Update("inner", loss=loss, optimizer=adam, parameters="w", times=2)
        outer = fb.Update("outer", loss=loss, optimizer=slower, parameters=("v", "none"), every=3)
        return {"init": init, "updates": [inner, outer], "ema": 0.9}
    if config.kind == "plain":
        return {"init": init, "loss": loss, "optimizer": adam}

    def init_both(key):
        return init(key), {"mean": jnp.zeros(config.hidden), "count": jnp.int32(0), "key": key}

    def loss_of_both(params, model_state, batch, key):
        mean = 0.9 * model_state["mean"] + 0.1 * jnp.mean(batch["x"] @ params["w"], axis=0)
        own_key = jax.random.fold_in(model_state["key"], model_state["count"])
        after = {"mean": jax.lax.stop_gradient(mean), "count": model_state["count"] + 1, "key": own_key}
        return loss(params, batch, key, model_state["mean"]), after

    both = {"init": init_both, "loss": loss_of_both, "optimizer": adam, "has_state": True}
    return both | {"ema": 0.9, "ema_of_state": True}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started with Ctrl-C ignored
    fb.run(experiment)
