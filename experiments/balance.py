"""Too low, balanced, too high: one network at three learning rates, judged before it is trained.

    python experiments/balance.py                                   # 40 s on 2 cores
    fnbackprop balance experiments/balance.py --learning-rate 3     # at any other rate

A weight update is balanced when it is large enough to get somewhere and not so large that it overshoots. `fb.balance`
measures the curvature of the loss and what the optimizer makes of a gradient, takes a few steps on copies, and says
which it is before the run begins; then the network is trained at each rate, to see. The picture of losses and gradient
norms is runs/balance.svg. Expected last line (what overshoots is chaotic, and ends elsewhere on another machine):

    loss 0.632 TOO LOW, 0.010 BALANCED, 24.300 TOO HIGH: diverging
"""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax

import fnbackprop as fb
from fnbackprop import losses
from fnbackprop.models import mlp
from fnbackprop.training.record.curves_file import plot_curves

RATES = {"low": 0.003, "balanced": 0.3, "high": 10.0}


@dataclasses.dataclass(frozen=True)
class Config:
    """One of the three runs."""

    learning_rate: float = RATES["balanced"]
    """How far a weight update goes against the gradient."""
    steps: int = 2000
    """How many weight updates."""
    seed: int = 0
    """Of the parameters."""
    name: str = "balance"
    """Of the run's folder."""


def spirals(examples: int = 300) -> dict[str, np.ndarray]:
    """Two arms of a spiral in the plane, and which arm a point is on."""
    random = np.random.default_rng(0)
    turn, arm = random.uniform(0.5, 2.0, examples), random.integers(0, 2, examples)
    angle = 2 * np.pi * turn + np.pi * arm
    points = (turn * np.stack([np.cos(angle), np.sin(angle)])).T + 0.05 * random.normal(size=(examples, 2))
    return {"points": points.astype(np.float32), "arms": arm.astype(np.int32)}


def experiment(config: Config) -> fb.Experiment:
    """The experiment as pure functions; every step sees all of the data, so that its size is all there is to see."""
    everything = spirals()

    def loss(params, batch, key):
        return losses.softmax_cross_entropy(mlp.apply(params, batch["points"], activation=jnp.tanh), batch["arms"])

    return fb.Experiment(
        name=config.name,
        init=lambda key: mlp.init(key, inputs=2, hidden=(32, 32), outputs=2),
        loss=loss,
        batch=lambda step: everything,
        optimizer=optax.sgd(config.learning_rate),
        steps=config.steps,
        seed=config.seed,
        config=config,
    )


def show(config: Config) -> None:
    """Judge each of the three rates, then train at it."""
    runs, last = {}, []
    for name, rate in RATES.items():
        spiral = experiment(dataclasses.replace(config, learning_rate=rate, name=f"balance-{name}"))
        judged = fb.balance(spiral, check=name == "low")  # the gradient is the same at every rate
        print(f"{judged}\n")
        state = fb.train(spiral, overwrite=True)
        ratio = judged.facts.ratio.value
        runs[f"{rate:g}: {judged.verdict}, {ratio:.2g} of the critical rate"] = fb.read_metrics(f"runs/{spiral.name}")
        last.append(f"{float(spiral.loss(state.params, spiral.batch(0), None)):.3f} {judged.verdict}")
    picture = plot_curves(runs, Path("runs/balance.svg"), "one network at three learning rates, judged before training")
    print(f"\n{picture}\nloss {', '.join(last)}")


if __name__ == "__main__":
    fb.run(experiment, default=show)
