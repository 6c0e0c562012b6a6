"""The edge of stability: training on full batches sharpens a loss until the rate is the critical one.

Source: J. Cohen et al., Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability, 2021; for Adam,
Adaptive Gradient Methods at the Edge of Stability, 2022. For SGD it is the sharpness of batches that rises to 2 / rate,
while the whole loss stays flatter: A. Andreyev and P. Beneventano, Edge of Stochastic Stability, 2024.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import fnbackprop as fb
from fnbackprop.balancing.facts import Facts
from fnbackprop.balancing.procedure import Measured, Options, measure_curvature, measure_noise, measure_optimizer
from fnbackprop.models import mlp
from fnbackprop.training.balancing import subject_of
from fnbackprop.training.loop import make_step
from fnbackprop.training.step.state import TrainState, initial_state

from .results import Finding, Measurement

POINTS, DEGREE = 20, 5
TAIL = 10  # states along the end of a run at which the curvature is measured


class Tail(NamedTuple):
    """The end of a run: the facts at some of its last states, its losses, the curvature of the loss on all points."""

    name: str
    facts: list[Facts]
    losses: tuple[float, float]
    whole: list[float]

    def mean(self, of: Callable[[Facts], float]) -> float:
        return float(np.mean([of(facts) for facts in self.facts]))


def chebyshev(optimizer: Any, name: str, batch_size: int = POINTS, hidden: tuple[int, ...] = (50, 50)) -> fb.Experiment:
    """A tanh network that learns a Chebyshev polynomial from its values at a few points."""
    x = np.linspace(-1, 1, POINTS, dtype=np.float32)[:, None]
    y = np.cos(DEGREE * np.arccos(x)).astype(np.float32)

    def loss(params, batch, key):
        return 0.5 * jnp.mean((mlp.apply(params, batch["x"], activation=jnp.tanh) - batch["y"]) ** 2)

    def batch(step):
        chosen = np.random.default_rng(step).permutation(POINTS)[:batch_size]
        return {"x": x[np.sort(chosen)], "y": y[np.sort(chosen)]}

    def init(key):
        return mlp.init(key, inputs=1, hidden=hidden, outputs=1)

    return fb.Experiment(name=name, init=init, loss=loss, batch=batch, optimizer=optimizer, steps=1)


def tail_of(experiment: fb.Experiment, steps: int, between: int = 50, count: int = TAIL) -> Tail:
    """Train for so many steps, then measure at `count` states that are `between` steps apart."""
    run = jax.jit(_many_steps(experiment), static_argnums=1)
    state = initial_state(experiment)
    state, first = run(state, 1)
    state, losses = run(state, steps)
    found, whole = [], []
    for _ in range(count):
        found.append(facts_at(experiment, state))
        whole.append(whole_loss(experiment, state).curvature.largest.value)
        state, losses = run(state, between)
    return Tail(experiment.name, found, (float(first[0]), float(losses[-1])), whole)


def _many_steps(experiment: fb.Experiment) -> Callable[[TrainState, int], tuple[TrainState, jax.Array]]:
    """Many steps as one program; batches are drawn in turn from the first hundred."""
    step = make_step(experiment)
    batches = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(experiment.batch, range(100)))

    def run(state: TrainState, steps: int) -> tuple[TrainState, jax.Array]:
        def turn(state: TrainState, _: None) -> tuple[TrainState, jax.Array]:
            state, metrics = step(state, jax.tree.map(lambda leaf: leaf[state.step % 100], batches))
            return state, metrics["loss"]

        return lax.scan(turn, state, None, length=steps)

    return run


def facts_at(experiment: fb.Experiment, state: TrainState) -> Facts:
    """Curvature, response and noise alone."""
    measured = Measured(subject_of(experiment, state))
    for stage in (measure_noise, measure_optimizer, measure_curvature):
        stage(measured, Options(), lambda text: None)
    return measured.facts


def sharpness(experiment: fb.Experiment) -> float:
    """The largest curvature at the beginning."""
    return facts_at(experiment, initial_state(experiment)).curvature.largest.value


# ---------------------------------------------------------------- what is measured


def measurements() -> Iterator[Measurement]:
    yield Measurement("edge", "gradient descent", full_batch)
    yield Measurement("edge", "Adam", adam)
    for batch_size in (4, 8):
        yield Measurement("edge", f"SGD, batches of {batch_size}", partial(stochastic, batch_size))


def full_batch(rate: float = 0.1, steps: int = 20_000) -> Finding:
    """The curvature rises to 2 / rate."""
    start = sharpness(chebyshev(optax.sgd(rate), "start"))
    tail = tail_of(chebyshev(optax.sgd(rate), f"gradient descent at {rate:g}"), steps)
    sharp = tail.mean(lambda facts: facts.curvature.largest.value)
    found = f"curvature {sharp:.2f} at the end, {start:.2f} at first"
    return Finding(f"2 / rate = {2 / rate:g} within 5 %", found, abs(sharp * rate / 2 - 1) < 0.05)


def adam(rate: float = 3e-3, steps: int = 10_000) -> Finding:
    """The curvature with Adam's gain rises to 38 / rate."""
    ratio = tail_of(chebyshev(optax.adam(rate), f"Adam at {rate:g}"), steps).mean(lambda facts: facts.ratio.value)
    return Finding("38 / rate within 10 %", f"scaled curvature {38 * ratio:.1f} / rate", abs(ratio - 1) < 0.1)


def stochastic(batch_size: int, rate: float = 0.1, steps: int = 20_000) -> Finding:
    """The sharpness of batches is near 2 / rate, and that of the whole loss below."""
    tail = tail_of(chebyshev(optax.sgd(rate), f"SGD at {rate:g}", batch_size), steps)
    batches = tail.mean(lambda facts: facts.batch_sharpness.value)
    whole = float(np.mean(tail.whole))
    near = 0.5 < batches * rate / 2 < 1.5
    found = f"batches {batches:.1f}, whole loss {whole:.1f}"
    return Finding(f"batches near {2 / rate:g}, whole loss below", found, near and whole < min(batches, 2 / rate))


def whole_loss(experiment: fb.Experiment, state: TrainState) -> Facts:
    """The facts of the loss on all points at a state of a run on batches."""
    return facts_at(chebyshev(experiment.optimizer, "all points"), state)
