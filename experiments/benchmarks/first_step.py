"""The time from the start to the loss of the first step, and the step of a network most of whose layers are frozen.

    python experiments/benchmarks/first_step.py              # 3 minutes on 2 cores
    python experiments/benchmarks/first_step.py --rounds 3

Against a bare loop: the initial parameters, the optimizer's state, and a jitted step of `jax.value_and_grad` and optax.
First steps are made in new processes, in turns, with nothing compiled before; imports do not count. With most layers
frozen (`optax.multi_transform` with `set_to_zero`), the bare step puts them behind `jax.lax.stop_gradient`.
Ratios below 1 are in our favour. The time of later steps is measured by training.py.
"""

import argparse
import contextlib
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measuring
import numpy as np
import optax
import training

import fnbackprop as fb
from fnbackprop.training.loop import make_step
from fnbackprop.training.step.state import initial_state

ARRAYS, FROZEN, WIDTH = 150, 20, 256


class Task(NamedTuple):
    """What is trained, by fb.train and by a bare loop."""

    init: Callable[[jax.Array], Any]
    loss: Callable[..., jax.Array]
    batch: Callable[[int], Any]
    optimizer: optax.GradientTransformation

    def experiment(self, evaluate: Callable[[Any], Any] | None = None) -> fb.Experiment:
        functions = {"init": self.init, "loss": self.loss, "batch": self.batch, "optimizer": self.optimizer}
        return fb.Experiment(name="first", steps=1, seed=0, evaluate=evaluate, **functions)


def layers(count: int, width: int, examples: int, optimizer: optax.GradientTransformation) -> Task:
    """A perceptron without biases: `count` layers of one matrix each."""

    def init(key):
        scale = width**-0.5
        names = [f"layer{i:03}" for i in range(count)]
        return {name: {"w": scale * jax.random.normal(jax.random.fold_in(key, i), (width, width))}
                for i, name in enumerate(names)}  # fmt: skip

    def loss(params, x, key=None):
        for layer in params.values():
            x = jnp.tanh(x @ layer["w"])
        return jnp.mean(x**2)

    return Task(init, loss, lambda step: normal(step, (examples, width)), optimizer)


def normal(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


TASKS = {
    f"{ARRAYS} small arrays": lambda: layers(ARRAYS, 4, 8, optax.adam(1e-3)),
    "the GPT of bytes_lm.py": lambda: Task(training.init, training.loss, training.batch, training.OPTIMIZER),
}


# ---------------------------------------------------------------- first steps, in processes of their own


class Reached(Exception):
    """The first step is done."""


def framework(task: Task) -> None:
    """`fb.train`, until it evaluates the first step: its metrics are written then."""
    calls = itertools.count()

    def evaluate(params):
        if next(calls) == 0:
            return {}  # the trial before the first step
        print(time.perf_counter() - BEGAN, flush=True)  # here: the curves and the report of a run that ends come later
        raise Reached

    with tempfile.TemporaryDirectory() as directory:
        with contextlib.suppress(Reached):
            fb.train(task.experiment(evaluate), directory=directory, progress=False, checkpoint_every=0)


def bare(task: Task) -> None:
    def update(params, opt_state, batch):
        value, gradient = jax.value_and_grad(task.loss)(params, batch)
        updates, opt_state = task.optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    params = task.init(jax.random.key(0))
    float(jax.jit(update, donate_argnums=(0, 1))(params, task.optimizer.init(params), task.batch(0))[2])
    print(time.perf_counter() - BEGAN, flush=True)


def seconds_to_first_step(contestant: str, task: str) -> float:
    command = [sys.executable, __file__, "--contestant", contestant, "--task", task]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def first_step(task: str, rounds: int) -> tuple[float, tuple[float, float, float]]:
    """(seconds of the bare loop, quartiles of the ratio), each pair of processes one after the other."""
    pairs = []
    for number in range(rounds):
        order = ("bare", "framework")[:: (-1) ** number]
        found = {contestant: seconds_to_first_step(contestant, task) for contestant in order}
        pairs.append((found["bare"], found["framework"]))
    ratios = [ours / theirs for theirs, ours in pairs]
    return statistics.median(theirs for theirs, _ in pairs), tuple(np.quantile(ratios, (0.25, 0.5, 0.75)).tolist())


# ---------------------------------------------------------------- frozen layers


def frozen_layers(rounds: int) -> measuring.Measured:
    """All layers but the last are frozen: the whole step, against a bare one with `stop_gradient`."""
    labels = lambda params: {name: {"w": name == max(params)} for name in params}  # noqa: E731
    optimizer = optax.multi_transform({True: optax.adam(1e-3), False: optax.set_to_zero()}, labels)
    task = layers(FROZEN, WIDTH, 256, optimizer)
    state, batch = initial_state(task.experiment()), task.batch(0)

    def loss(params, batch):
        stopped = {
            name: layer if name == max(params) else jax.lax.stop_gradient(layer) for name, layer in params.items()
        }
        return task.loss(stopped, batch)

    def bare_step(state, batch):
        value, gradient = jax.value_and_grad(loss)(state.params, batch)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        return optax.apply_updates(state.params, updates), opt_state, value

    programs = [jax.jit(step).lower(state, batch).compile() for step in (bare_step, make_step(task.experiment()))]
    theirs, ours = measuring.in_turns(programs, (state, batch), rounds).T
    low, middle, high = np.quantile(ours / theirs, (0.25, 0.5, 0.75)).tolist()
    memory = measuring.temp_bytes(programs[1]) / measuring.temp_bytes(programs[0])
    error = measuring.largest_error(programs[1](state, batch)[0].params, programs[0](state, batch)[0])
    name = f"{FROZEN - 1} of {FROZEN} layers frozen"
    return measuring.Measured(name, statistics.median(theirs), middle, (low, high), memory, error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of the first steps")
    parser.add_argument("--contestant", choices=["bare", "framework"], help="make one first step, in this process")
    parser.add_argument("--task", choices=list(TASKS), default=next(iter(TASKS)))
    options = parser.parse_args()
    if options.contestant:
        {"bare": bare, "framework": framework}[options.contestant](TASKS[options.task]())
        return
    found = {task: first_step(task, options.rounds) for task in TASKS}
    for task, (seconds, (low, middle, high)) in found.items():
        print(f"first step, {task:30} {seconds:6.2f} s   {middle:4.2f} ({low:4.2f} to {high:4.2f})")
    rows = [frozen_layers(rounds=31)]
    measuring.show(rows)
    print(f"saved to {measuring.save(rows, 'first_step', first_steps=found)}")


if __name__ == "__main__":
    jnp.zeros(3).block_until_ready()  # the device is there before the clock starts
    BEGAN = time.perf_counter()
    main()
