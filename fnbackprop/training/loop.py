"""The loop around the step."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fnbackprop.experiment import Experiment, ExperimentError

from .gradient_check import GradientCheck
from .hooks import Evaluation, Hook
from .mesh import leads, make_mesh
from .recorder import Recorder
from .sharding import Layout, make_layout
from .state import TrainState, adopted_state, initial_state
from .step import Update, compiled, make_update


def train(
    experiment: Experiment,
    *,
    backward: str = "manual",
    steps: int | None = None,
    state: TrainState | None = None,
    directory: str | Path | None = "runs",
    progress: bool = True,
    compare_every: int = 100,
    mesh: str | Mapping[str, int] | Mesh | None = None,
) -> TrainState:
    """Train, and return the state after the last step.

    Everything is a function of `(seed, step)`: training to step 20 gives the same state whether it is done at once or
    by going on from the state of step 10.

    Args:
      experiment: what to train.
      backward: "manual" (this package's backward pass), "automatic" (`jax.value_and_grad`), or "both": the manual one,
        compared with the automatic one every `compare_every` steps.
      steps: the step to stop at; by default `experiment.steps`.
      state: go on from this state; by default, from the initial one of the experiment's seed.
      directory: where the run's folder `<directory>/<experiment.name>/` is made, with `metrics.jsonl` and `curves.png`.
        A new run replaces an earlier one of the same name. None writes nothing.
      progress: whether to print how it goes.
      compare_every: steps between two comparisons of `backward="both"`.
      mesh: the devices to train on, "data=4,model=2" for instance: `experiment.sharding` says what lies where. None is
        one device; or, of several processes, all their devices along "data". Process 0 alone prints and writes.

    Raises:
      ExperimentError: the experiment's functions do not fit together.
      NonFiniteLoss: the loss became NaN or infinite.
      GradientMismatch: the manual and the automatic gradient are not the same.
    """
    if not isinstance(experiment, Experiment):
        raise ExperimentError(
            f"train takes an Experiment, not {experiment!r}; for a file: train(experiment(Config()))."
        )
    stop = experiment.steps if steps is None else steps
    folder = None if directory is None or not leads() else Path(directory) / experiment.name
    if mesh is None and jax.process_count() > 1:
        mesh = {"data": -1}
    layout = None if mesh is None else make_layout(experiment, make_mesh(mesh))
    state = initial_state(experiment, layout) if state is None else adopted_state(state, layout)
    update = compiled(make_update(experiment, "manual" if backward == "both" else backward, layout), layout)
    with ExitStack() as cleanup:
        recorder = cleanup.enter_context(
            Recorder(experiment.name, folder, start=int(state.step), stop=stop, progress=progress and leads())
        )
        cleanup.callback(recorder.draw, f"{experiment.name}, {backward} backward")  # of a run that was stopped, too
        hooks = make_hooks(experiment, stop, recorder)
        if backward == "both":
            hooks.append(GradientCheck(experiment, compare_every, layout))
        for hook in hooks:
            cleanup.callback(hook.close)
        started = time.monotonic()
        state = run_steps(placed_batches(experiment, layout), update, state, stop, recorder, hooks)
        recorder.say(f"{experiment.name}: {stop} steps, {time.monotonic() - started:.1f} s, {backward} backward")
    return state


def make_hooks(experiment: Experiment, stop: int, recorder: Recorder) -> list[Hook]:
    """What happens beside the steps, in this order: a checkpoint comes after the evaluation of the same step."""
    return [Evaluation(experiment, stop, recorder)] if experiment.evaluate else []


def placed_batches(experiment: Experiment, layout: Layout | None) -> Callable[[int], Any]:
    """`batch(step)` on the devices of the layout; without one, as it comes."""
    return experiment.batch if layout is None else lambda step: layout.place(experiment.batch(step))


def run_steps(
    batches: Callable[[int], Any], update: Update, state: TrainState, stop: int, recorder: Recorder, hooks: list[Hook]
) -> TrainState:
    """Take the steps from `state.step` to `stop`."""
    shapes = None
    for step in range(int(state.step), stop):
        batch = batches(step)
        shapes = _same_shapes(shapes, batch, step)
        for hook in hooks:
            hook.before_step(step, state, batch)
        state, values = update(state, batch)
        recorder.step(step, values)
        for hook in hooks:
            hook.after_step(step + 1, state)
    recorder.flush()
    return state


def _same_shapes(expected: Any, batch: Any, step: int) -> Any:
    """The shapes of a batch; raises if they are not those of the first one, for the step would be compiled again."""
    found = jax.tree.map(lambda leaf: (np.shape(leaf), str(jax.dtypes.result_type(leaf))), batch)
    if expected is not None and found != expected:
        raise ExperimentError(
            f"batch({step}) has the shapes {found}, but the first batch had {expected}. The step is compiled once, "
            "for one shape: pad or leave out a batch that is shorter."
        )
    return found
