"""A network that solves a differential equation: its loss is the equation, and holds the network's second derivative.

    python experiments/physics.py                        # 10 s on 2 cores; draws runs/solution.png
    python experiments/physics.py --strength 3.4         # near 3.514, beyond which there is no solution
    python experiments/physics.py compare                # third derivatives in all: are they right?

Bratu's equation is u'' + strength exp(u) = 0 with u(0) = u(1) = 0: the temperature within a wall whose material burns
the faster, the hotter it is. The network is times x (1 - x), so that it is right at both ends. The solution is known,

    u(x) = 2 log(cosh(s / 4) / cosh(s (x - 1/2) / 2)),  s = sqrt(2 strength) cosh(s / 4)

Expected last line:

    largest error 2.6e-05 of a solution that goes up to 0.3290

Source: M. Raissi, P. Perdikaris and G. E. Karniadakis, Physics-informed neural networks, 2019.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from scipy.optimize import brentq

import fnbackprop as fb
from fnbackprop.models import mlp

PICTURE = Path("runs/solution.png")
MARKS = np.linspace(0, 1, 101, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Config:
    """Which equation is solved, and by what."""

    strength: float = 2.0
    """How fast the material burns; at most 3.5138."""
    width: int = 32
    """Of the two hidden layers."""
    steps: int = 3000
    """How many weight updates."""
    batch_size: int = 64
    """Points of a step, where the equation is to hold."""
    learning_rate: float = 3e-3
    """The largest; it falls to zero along a cosine."""
    seed: int = 0
    """Of the parameters and the points."""


def solution(x: np.ndarray, strength: float) -> np.ndarray:
    """The lower of the equation's two solutions."""
    most = 4 * 1.19967864  # the s of the strength that is the largest: where both solutions are one
    s = brentq(lambda s: s - np.sqrt(2 * strength) * np.cosh(s / 4), 0.0, most)
    return 2 * np.log(np.cosh(s / 4) / np.cosh(s * (x - 0.5) / 2))


def experiment(config: Config) -> fb.Experiment:
    """The experiment as pure functions."""

    def init(key):
        return mlp.init(key, inputs=1, hidden=(config.width, config.width), outputs=1)

    def u(params, x):
        return x * (1 - x) * mlp.apply(params, x[None], activation=jnp.tanh)[0]

    def residual(params, x):
        return fb.grad(fb.grad(u, argnums=1), argnums=1)(params, x) + config.strength * jnp.exp(u(params, x))

    def loss(params, points, key):
        return jnp.mean(jax.vmap(residual, in_axes=(None, 0))(params, points) ** 2)

    def points(step):  # one in each of as many equal parts
        inside = np.random.default_rng((config.seed, step)).random(config.batch_size)
        return ((np.arange(config.batch_size) + inside) / config.batch_size).astype(np.float32)

    def predict(params, inputs):
        return jax.vmap(u, in_axes=(None, 0))(params, inputs)

    true = solution(MARKS, config.strength)
    evaluate = jax.jit(lambda params: {"largest_error": jnp.max(jnp.abs(predict(params, MARKS) - true))})
    return fb.Experiment(
        name="physics",
        init=init,
        loss=loss,
        batch=points,
        optimizer=optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps)),
        steps=config.steps,
        seed=config.seed,
        evaluate=evaluate,
        evaluate_every=1000,
        predict=predict,
        config=config,
    )


def show(config: Config) -> None:
    """Train, and draw the network beside the solution."""
    made = experiment(config)
    start, params = made.arguments()[0], fb.train(made).params
    figure, true = Figure(figsize=(5, 3.5), dpi=120, layout="constrained"), solution(MARKS, config.strength)
    panel = figure.subplots()
    panel.plot(MARKS, true, linewidth=6, alpha=0.3, label="solution")
    panel.plot(MARKS, made.predict(start, MARKS), ":", label="network before training")
    panel.plot(MARKS, made.predict(params, MARKS), label="network after training")
    panel.set(xlabel="x", ylabel="u")
    panel.legend()
    figure.savefig(PICTURE)
    error = float(made.evaluate(params)["largest_error"])
    print(f"{PICTURE}\nlargest error {error:.1e} of a solution that goes up to {true.max():.4f}")


if __name__ == "__main__":
    fb.run(experiment, default=show)
