"""Replaying a step whose loss was not finite, from the last checkpoint before it, to find the origin of the number."""

import dataclasses
import math
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fnbackprop.backprop.missing_rule import MissingRule
from fnbackprop.comparing.gradient_sources import BACKWARDS
from fnbackprop.experiment import Experiment, ExperimentError, require_experiment
from fnbackprop.tracing.pipeline import trace

from .broken_update import broken_update
from .checkpoints.arrays import read_state
from .checkpoints.checkpoint import finished_checkpoints, last_good
from .checkpoints.compatibility import require_same_leaves
from .loop import train
from .record.nonfinite_batch import batch_again, leaves_not_finite, read_batch
from .run_folder import DESCRIPTION_FILE, RunFolder, has_step, numbered, runs_at, step_of
from .step.loss_gradient import loss_in_precision, make_value_and_grad
from .step.mixed_precision import precision_of
from .step.state import TrainState, initial_state

LIBRARIES = ("site-packages", "fnbackprop")


@dataclasses.dataclass(frozen=True)
class Replay:
    """The result of replaying a step.

    Attributes:
      step: its number.
      start: the step of the checkpoint that the replay started from; 0 for the initial state.
      loss: the loss of the step.
      broken: for each of "params", "batch" and "gradient", the paths of its leaves that are not finite.
      where: the origin of what is not finite in the loss or its gradient, in the sentence of `fb.trace`'s blame; None
        if both, run equation by equation, are finite.
      state: the state before the step.
      batch: the batch of the step.

    Example:
      See `fb.replay`, which returns it.

      >>> import fnbackprop as fb
      >>> [field for field in fb.Replay.__dataclass_fields__][:3]
      ['step', 'start', 'loss']
    """

    step: int
    start: int
    loss: float
    broken: dict[str, list[str]]
    where: str | None
    state: TrainState = dataclasses.field(repr=False)
    batch: Any = dataclasses.field(repr=False)

    def __str__(self) -> str:
        leaves = (f"  {name}: {', '.join(paths) or 'all finite'}" for name, paths in self.broken.items())
        where = self.where or "not found: run equation by equation, value and gradient are finite"
        head = f"step {self.step}, run again from step {self.start}: the loss is {self.loss}"
        if math.isfinite(self.loss) and not any(self.broken.values()):
            return f"{head}, and all is finite. Did the run have other options? They are in its {DESCRIPTION_FILE}."
        return "\n".join([head, "not finite:", *leaves, f"origin: {where}"])


def replay(
    experiment: Experiment, *, step: int | None = None, directory: str | Path = "runs", backward: str = "manual"
) -> Replay:
    """Run a step of `<directory>/<experiment.name>` again, with the batch that was kept, and see where it breaks.

    Args:
      experiment: the one that was trained, made from the same config.
      step: its number; by default, that of the newest batch that was kept.
      directory: the run's own folder; or where the runs are, for the newest of this name that has kept a batch.
      backward: "manual", "fused" (of a run with `fuse=True`) or "automatic", as in the run.

    Returns:
      A Replay: print it, or ask it `.where` (the line), `.broken`, `.loss`.
    Raises:
      ExperimentError: no batch was kept, or none of this step.
      CheckpointError: the checkpoints are of another model or optimizer.

    Example:
      >>> import fnbackprop as fb, jax.numpy as jnp, optax, tempfile
      >>> experiment = fb.Experiment(
      ...     name="log", init=lambda key: jnp.ones(()), batch=lambda step: jnp.float32(1 - step), steps=3,
      ...     loss=lambda w, batch, key: w * jnp.log(batch), optimizer=optax.sgd(0.1))
      >>> with tempfile.TemporaryDirectory() as runs:
      ...     try:
      ...         fb.train(experiment, directory=runs, progress=False)
      ...     except fb.NonFiniteLoss:
      ...         print(fb.replay(experiment, directory=runs).step)
      1
    """
    require_experiment("replay", experiment)
    again = step_again(experiment, step=step, directory=directory, backward=backward)
    state, batch = again.state, again.batch
    precision, scale = precision_of(experiment.precision), None if state.loss_scale is None else state.loss_scale.value
    differentiate = jax.jit(make_value_and_grad(again.experiment, backward, precision))
    (loss, _), gradient = differentiate(state.params, batch, again.key, scale, model_state=state.model_state)
    trees_of_step = {"params": state.params, "batch": batch, "gradient": gradient}
    broken = {name: leaves_not_finite(tree) for name, tree in trees_of_step.items()}
    where = _origin(again.loss, *again.arguments)
    return Replay(again.step, again.start, float(loss), broken, where, state, batch)


class StepAgain(NamedTuple):
    """All that a step of a run was computed from.

    Attributes:
      step: its number. start: that of the checkpoint that the steps before it were run again from; 0: the beginning.
      experiment: of several updates, the one whose numbers are not finite, or else the first; alone.
      state: before the step, or before this update. batch: of the step.
      loss: `loss(params, batch, key)`, or `loss(params, batch, key, model_state)`, in the precision of the run.
    """

    step: int
    start: int
    experiment: Experiment
    state: TrainState
    batch: Any
    loss: Callable

    @property
    def key(self) -> jax.Array:
        return jax.random.fold_in(self.state.key, self.state.step)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """Of the loss."""
        model_state = self.state.model_state
        return self.state.params, self.batch, self.key, *(() if model_state is None else (model_state,))


def step_again(
    experiment: Experiment,
    *,
    step: int | None,
    directory: str | Path = "runs",
    backward: str = "manual",
    kept: bool = True,
) -> StepAgain:
    """What a step of a run was computed from: the steps since the last good checkpoint before it are run again.

    Args:
      experiment, step, directory, backward: as for `replay`.
      kept: the batch is the one that was kept; else it is made again, and `step` may be any step of the newest run.

    Raises:
      ExperimentError, CheckpointError: as for `replay`; or there is no run of this name, or it ended before this step.
    """
    if backward not in BACKWARDS:
        raise ExperimentError(f"backward must be one of {', '.join(BACKWARDS)}, not {backward!r}.")
    runs = runs_at(directory, experiment.name)
    path = None
    if kept:
        runs = runs or [numbered(directory, experiment.name, 1)]
        folder = next((run for run in reversed(runs) if any(run.nonfinite.glob("*.npz"))), runs[-1])
        path = _kept(folder, step)
        number = step_of(path)
    elif step is None or not runs:
        raise ExperimentError(f"there is no run of {experiment.name} in {directory}, or no step of it was named.")
    else:
        folder, number = next((run for run in reversed(runs) if not _failed_at_once(run)), runs[-1]), step
        _require_made(folder, number)
    state = _state_before(experiment, folder, number)
    start = int(state.step)
    silent = dataclasses.replace(experiment, evaluate=None)
    fuse = backward == "fused"
    by = "manual" if fuse else backward
    state = train(silent, backward=by, fuse=fuse, state=state, steps=number, directory=None, progress=False, prefetch=0)
    batch = batch_again(experiment, number) if path is None else read_batch(path, experiment.batch(number))
    update, state = broken_update(experiment, state, batch, backward)
    part = experiment.parts[update]
    return StepAgain(number, start, part, state, batch, loss_in_precision(part, precision_of(part.precision)))


def _failed_at_once(run: RunFolder) -> bool:
    """Whether it ended before its first step, for an option that was mistyped for instance."""
    facts = run.read_description()
    return facts["status"] in ("finished", "stopped") and facts["step"] == 0


def _require_made(run: RunFolder, step: int) -> None:
    facts = run.read_description()
    if facts["status"] in ("finished", "stopped") and step > facts["step"]:
        raise ExperimentError(f"{run.path} ended after {facts['step']} steps: there is no step {step}.")


def _kept(run: RunFolder, step: int | None) -> Path:
    paths = [path for path in sorted(run.nonfinite.glob("*.npz")) if has_step(path)]
    chosen = [path for path in paths if step in (None, step_of(path))]
    if not chosen:
        which = "" if step is None else f" of step {step}"
        raise ExperimentError(f"{run.nonfinite} has no batch{which}: one is kept when a loss is not finite.")
    return chosen[-1]


def _state_before(experiment: Experiment, run: RunFolder, step: int) -> TrainState:
    """The state of the last good checkpoint that is not later than the step, or the initial one."""
    good, _ = last_good([found for found in finished_checkpoints(run) if found.step <= step])
    state = initial_state(experiment)
    if good is None:
        return state
    require_same_leaves(good, state)
    return read_state(good, state)


def _origin(loss: Callable, *arguments: Any) -> str | None:
    """Blame's sentence, and the trace's notes; of a loss through which no gradient can be taken, the first operation
    that breaks."""
    try:
        found = trace(loss, *arguments)
    except MissingRule:
        return _first_break(loss, *arguments)
    blame = found.blame()
    return None if blame is None else "\n".join([blame.sentence, *(f"note: {note}" for note in found.notes)])


def _first_break(loss: Callable, *arguments: Any) -> str | None:
    """Run the loss operation by operation until JAX's own checks find a NaN; then, until they find an infinity."""
    for checks in (jax.debug_nans, jax.debug_infs):
        try:
            with checks(True), jax.disable_jit():
                loss(*arguments)
        except FloatingPointError as error:
            frames = traceback.extract_tb(error.__traceback__)
            users = [frame for frame in frames if not any(name in frame.filename for name in LIBRARIES)]
            place = f", at {users[-1].filename}:{users[-1].lineno}: {users[-1].line}" if users else ""
            return f"{error}{place}"
    return None
