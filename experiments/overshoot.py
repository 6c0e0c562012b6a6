"""Too low, balanced, too high: one network at three learning rates.

    python experiments/overshoot.py        # 20 s on 2 cores

A weight update is balanced when it is large enough to get somewhere and not so large that it overshoots. Along a
direction of curvature c, a step of gradient descent lands on the other side of the valley, and higher up, as soon as
the learning rate is above 2 / c. So the largest curvature of the loss, measured by power iteration of which each round
is a gradient of a gradient, says what is too high before any step is taken. The picture of losses and gradient norms
is runs/overshoot.png. Expected last line (what overshoots is chaotic, and ends elsewhere on another machine):

    loss 0.632 too-low, 0.010 balanced, 24.300 too-high
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fnbackprop as fb
from fnbackprop import losses, trees
from fnbackprop.models import mlp
from fnbackprop.training.record.plots import plot_curves

RATES = {"too-low": 0.003, "balanced": 0.3, "too-high": 10.0}


@dataclasses.dataclass(frozen=True)
class Config:
    """One of the three runs."""

    learning_rate: float = RATES["balanced"]
    """How far a weight update goes against the gradient."""
    steps: int = 2000
    """How many weight updates."""
    seed: int = 0
    """Of the parameters."""
    name: str = "overshoot"
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


def largest_curvature(spiral: fb.Experiment, params, rounds: int = 40) -> float:
    """The largest eigenvalue of the loss's Hessian, by power iteration: each round is a gradient of a gradient."""
    gradient = fb.grad(lambda params: spiral.loss(params, spiral.batch(0), None))

    @jax.jit
    def turn(_, direction):
        product = fb.grad(lambda p: optax.tree.vdot(gradient(p), direction))(params)
        return jax.tree.map(lambda leaf: leaf / trees.global_norm(product), product)

    direction = jax.lax.fori_loop(0, rounds, turn, jax.tree.map(jnp.ones_like, params))
    return float(optax.tree.vdot(direction, fb.grad(lambda p: optax.tree.vdot(gradient(p), direction))(params)))


def show(config: Config) -> None:
    """Say what the curvature allows, then train at the three rates."""
    spiral = experiment(config)
    allowed = 2 / largest_curvature(spiral, spiral.arguments()[0])
    print(f"the curvature of the loss at the beginning allows learning rates below {allowed:.3g}\n")
    runs, last = {}, []
    for name, rate in RATES.items():
        spiral = experiment(dataclasses.replace(config, learning_rate=rate, name=f"overshoot-{name}"))
        state = fb.train(spiral)
        runs[f"{name}: {rate:g}, {rate / allowed:.2g} of what is allowed"] = fb.read_metrics(f"runs/{spiral.name}")
        last.append(f"{float(spiral.loss(state.params, spiral.batch(0), None)):.3f} {name}")
    picture = plot_curves(runs, Path("runs/overshoot.png"), "one network at three learning rates")
    print(f"\n{picture}\nloss {', '.join(last)}")


if __name__ == "__main__":
    fb.run(experiment, default=show)
