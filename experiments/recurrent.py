"""How far back does the gradient reach? A plain recurrent network, a GRU and an LSTM.

    python experiments/recurrent.py                             # all three on the adding problem: 35 s on 2 cores
    python experiments/recurrent.py train --model gru           # one of them
    python experiments/recurrent.py train --task text           # the bytes of Python's standard library

The adding problem: of `length` random numbers two are marked, one in each half, and their sum is wanted after the last.
What is marked early must be remembered, and the gradient must come back to it: runs/reach.png shows its norm at each
step of the sequence, before training and after. Expected last line:

    mean squared error (0.1667 for guessing 1): 0.1613 rnn, 0.0006 gru, 0.0044 lstm

Source: S. Hochreiter and J. Schmidhuber, Long Short-Term Memory, 1997, section 5.4.
"""

import dataclasses
import sysconfig
from typing import Literal

import jax
import numpy as np
import optax
from matplotlib.figure import Figure

import fnbackprop as fb
from fnbackprop import losses
from fnbackprop.models import embedding, gru, linear, lstm, rnn
from fnbackprop.training import data

MODELS = {"rnn": rnn, "gru": gru, "lstm": lstm}
PICTURE = "runs/reach.png"


@dataclasses.dataclass(frozen=True)
class Config:
    """Which network learns what."""

    model: Literal["rnn", "gru", "lstm"] = "lstm"
    """The recurrent layer."""
    task: Literal["adding", "text"] = "adding"
    """The sum of two marked numbers, or the next byte of Python's standard library."""
    length: int = 100
    """Steps of a sequence."""
    hidden: int = 32
    """Width of the state."""
    steps: int = 2500
    """How many weight updates."""
    batch_size: int = 32
    """Sequences in a step."""
    learning_rate: float = 5e-3
    """The largest; it falls to zero along a cosine."""
    seed: int = 0
    """Of the parameters and the data."""


def additions(step: int, config: Config) -> dict[str, np.ndarray]:
    """Numbers from 0 to 1 and their marks, (batch, length, 2), and the sums of the marked ones, (batch, 1)."""
    random = np.random.default_rng((config.seed, step))
    numbers, half = random.random((config.batch_size, config.length)), config.length // 2
    marks = np.zeros_like(numbers)
    for first in (0, half):
        marks[np.arange(config.batch_size), first + random.integers(0, half, config.batch_size)] = 1
    sums = (numbers * marks).sum(axis=1, keepdims=True)
    return {"inputs": np.stack([numbers, marks], axis=-1).astype(np.float32), "targets": sums.astype(np.float32)}


def adding(config: Config) -> dict:
    """The parts of the experiment that belong to the adding problem."""
    recurrent = MODELS[config.model]

    def init(key):
        one, two = jax.random.split(key)
        layers = recurrent.init(one, inputs=2, hidden=config.hidden)
        return {"recurrent": layers, "head": linear.init(two, inputs=config.hidden, outputs=1)}

    def loss(params, batch, key):
        outputs, _ = recurrent.apply(params["recurrent"], batch["inputs"])  # (batch, length, hidden)
        return losses.mean_squared_error(linear.apply(params["head"], outputs[:, -1]), batch["targets"])

    test = additions(10**6, dataclasses.replace(config, batch_size=500))
    evaluate = jax.jit(lambda params: {"test_error": loss(params, test, None)})
    return {"init": init, "loss": loss, "batch": lambda step: additions(step, config), "evaluate": evaluate}


def text(config: Config) -> dict:
    """The parts of the experiment that belong to text."""
    recurrent = MODELS[config.model]
    files = data.find_files(sysconfig.get_paths()["stdlib"], "*.py", leave_out=("site-packages", "test"))

    def init(key):
        one, two = jax.random.split(key)
        bytes_in = embedding.init(one, vocabulary=data.VOCABULARY, width=config.hidden)
        return {"token": bytes_in, "recurrent": recurrent.init(two, inputs=config.hidden, hidden=config.hidden)}

    def loss(params, batch, key):
        inputs = embedding.apply(params["token"], batch["inputs"])  # (batch, length, hidden)
        outputs, _ = recurrent.apply(params["recurrent"], inputs)
        return losses.softmax_cross_entropy(embedding.logits(params["token"], outputs), batch["targets"])

    batch = data.windows(data.ByteText(files), length=config.length, batch_size=config.batch_size, seed=config.seed)
    return {"init": init, "loss": loss, "batch": batch}


def experiment(config: Config) -> fb.Experiment:
    """The experiment as pure functions."""
    rate = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    return fb.Experiment(
        name=f"{config.task}-{config.model}",
        **(adding if config.task == "adding" else text)(config),
        optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
        steps=config.steps,
        seed=config.seed,
        config=config,
    )


def reach(recurrent: fb.Experiment, params) -> np.ndarray:
    """The norm of the loss's gradient by the input of each step, as a part of the largest: (length,)."""
    batch = recurrent.batch(0)
    gradient = fb.grad(lambda inputs: recurrent.loss(params, batch | {"inputs": inputs}, None))(batch["inputs"])
    norms = np.linalg.norm(gradient, axis=(0, 2))
    return norms / norms.max()


def show(config: Config) -> None:
    """Train all three on the adding problem, and draw how far their gradients reach."""
    figure, errors = Figure(figsize=(8, 3.5), dpi=120, layout="constrained"), []
    panels = figure.subplots(1, 2, sharey=True)
    for model in MODELS:
        recurrent = experiment(dataclasses.replace(config, model=model, task="adding"))
        params = fb.train(recurrent).params
        for panel, these in zip(panels, (recurrent.arguments()[0], params), strict=True):
            panel.semilogy(reach(recurrent, these), label=model)
        errors.append(f"{float(recurrent.evaluate(params)['test_error']):.4f} {model}")
    for panel, when in zip(panels, ("before training", "after training"), strict=True):
        panel.set(xlabel="step of the sequence", title=when)
    panels[0].set_ylabel("gradient norm, of the largest")
    panels[1].legend()
    figure.savefig(PICTURE)
    print(f"\n{PICTURE}\nmean squared error (0.1667 for guessing 1): {', '.join(errors)}")


if __name__ == "__main__":
    fb.run(experiment, default=show)
