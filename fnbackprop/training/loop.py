"""The loop around the step."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from fnbackprop.experiment import Experiment, ExperimentError

from .checkpoints.resuming import Start, begin, settings_of
from .checkpoints.schedule import Policy, Saving
from .data.prefetching import batches_of
from .data.streams import Stream
from .gradient_check import GradientCheck
from .hooks import Evaluation, Hook
from .mesh import leads, make_mesh
from .record.nonfinite_batch import BatchKeeper
from .record.profiling import Profile
from .record.run_description import Documenting
from .record.run_log import Recorder
from .record.tensorboard import TensorBoard
from .sharding_rules import make_layout
from .step.state import TrainState, adopted_state, initial_state
from .step.weight_update import Update, compiled, make_update
from .stopping import Signals


def train(
    experiment: Experiment,
    *,
    backward: str = "manual",
    steps: int | None = None,
    state: TrainState | None = None,
    directory: str | Path | None = "runs",
    progress: bool = True,
    prefetch: int = 2,
    profile: bool = False,
    tensorboard: bool = False,
    compare_every: int = 100,
    mesh: str | Mapping[str, int] | Mesh | None = None,
    checkpoint_every: int | None = None,
    keep: int | None = 3,
    best: str | None = None,
    best_mode: Literal["max", "min"] = "max",
    resume: bool = False,
    overwrite: bool = False,
    new_config: bool = False,
) -> TrainState:
    """Train, and return the state after the last step.

    Everything is a function of `(seed, step)`: training to step 20 gives the same state whether it is done at once or
    by going on from the state of step 10, in memory or from a checkpoint.

    Ctrl-C and SIGTERM end the run after the step, with a checkpoint; so does an error between two steps. A second
    Ctrl-C ends at once.

    Args:
      experiment: what to train.
      backward: "manual" (this package's backward pass), "automatic" (`jax.value_and_grad`), or "both": the manual one,
        compared with the automatic one every `compare_every` steps; the run's report shows the last comparison.
      steps: the step to stop at; by default `experiment.steps`.
      state: go on from this state; by default, from the initial one of the experiment's seed.
      directory: where the run's folder `<directory>/<experiment.name>/` is made, with `metrics.jsonl`, `curves.png`,
        `report.html`, `run.json` and `checkpoints/`. A new run replaces an earlier one of the same name that has no
        checkpoint. None writes nothing.
      progress: whether to print how it goes.
      prefetch: how many batches are made ahead, by a thread; 0 makes each when its step begins.
      profile: time some steps and trace a few, into the run's folder `profile/`.
      tensorboard: write the metrics for TensorBoard too, into the run's folder `tensorboard/`.
      compare_every: steps between two comparisons of `backward="both"`.
      mesh: the devices to train on, "data=4,model=2" for instance: `experiment.sharding` says what lies where. None is
        one device; or, of several processes, all their devices along "data". Process 0 alone prints and writes.
      checkpoint_every: steps between two checkpoints; the last step has one too. None: every ten minutes.
      keep: how many of the last checkpoints are kept; None keeps all.
      best: also keep the checkpoint that is best by this metric of `evaluate`; every evaluation that is the best so
        far writes one.
      best_mode: whether the highest ("max") or the lowest ("min") is best.
      resume: go on from the last checkpoint that is whole; begin anew if there is none.
      overwrite: begin anew, even if that throws away the checkpoints of an earlier run.
      new_config: resume even if the experiment's config, its seed or the options have changed.

    Raises:
      ExperimentError: the experiment's functions do not fit together.
      NonFiniteLoss: the loss became NaN or infinite.
      GradientMismatch: the manual and the automatic gradient are not the same.
      CheckpointError: the run's folder has checkpoints and neither `resume` nor `overwrite` is given; or none of them
        is whole; or they are of another experiment. Nothing has been changed then. Or the last one cannot be written.
      RunError: the metrics cannot be written.
    """
    if not isinstance(experiment, Experiment):
        raise ExperimentError(
            f"train takes an Experiment, not {experiment!r}; for a file: train(experiment(Config()))."
        )
    if resume and state is not None:
        raise ExperimentError("resume goes on from the run's own checkpoint, not from a state: give one of them.")
    if best is not None and experiment.evaluate is None:
        raise ExperimentError(f"best={best!r} is to be a metric of evaluate, but the experiment has no evaluate.")
    policy, start = Policy(checkpoint_every, keep, best, best_mode), Start(resume, overwrite, new_config)
    stop = experiment.steps if steps is None else steps
    folder = None if directory is None else Path(directory) / experiment.name
    by = "manual" if backward == "both" else backward
    settings = settings_of(experiment, backward=by)
    stream = experiment.batch if isinstance(experiment.batch, Stream) else None
    if mesh is None and jax.process_count() > 1:
        mesh = {"data": -1}
    layout = None if mesh is None else make_layout(experiment, make_mesh(mesh))
    state, notes = initial_state(experiment, layout) if state is None else adopted_state(state, layout), []
    if folder is not None:
        state, notes = begin(state, folder, settings, start, stream.restore if stream else None)
    update = compiled(make_update(experiment, by, layout), layout)
    with ExitStack() as cleanup:
        first, shown = int(state.step), progress and leads()
        written = folder if leads() else None
        signals = cleanup.enter_context(Signals() if folder is not None else nullcontext())
        recorder = cleanup.enter_context(Recorder(experiment.name, written, start=first, stop=stop, progress=shown))
        cleanup.callback(recorder.draw, f"{experiment.name}, {backward} backward")  # of a run that was stopped, too
        hooks: list[Hook] = [Evaluation(experiment, stop, recorder)] if experiment.evaluate else []
        hooks.append(Documenting(experiment, written, recorder, state, stop, {"backward": backward}))
        if tensorboard and written is not None:
            recorder.sinks.append(TensorBoard(written, first))
        if profile and written is not None:
            hooks.append(Profile(experiment, written, recorder, first, stop))
        if backward == "both":
            hooks.append(GradientCheck(experiment, compare_every, recorder, written, layout))
        if folder is not None:
            place = stream.state if stream else None
            saving = Saving(folder, settings, recorder, signals, policy, first, stop, place)
            hooks += [BatchKeeper(experiment, folder), saving]
        for hook in hooks:
            cleanup.push(lambda kind, error, trace, hook=hook: hook.close(error))
        for note in notes:
            recorder.say(note)
        to_devices = None if layout is None else layout.place
        batches = cleanup.enter_context(batches_of(experiment.batch, first, stop, place=to_devices, ahead=prefetch))
        started = time.monotonic()
        state = run_steps(batches, update, state, stop, recorder, hooks)
        steps = f"{stop} steps" if first == 0 else f"{stop - first} steps to step {stop}"
        recorder.say(f"{experiment.name}: {steps}, {time.monotonic() - started:.1f} s, {backward} backward")
    return state


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
    """The types of a batch; raises if they are not those of the first one, for the step would be compiled again."""
    found = jax.tree.map(jax.typeof, batch)
    if expected is not None and found != expected:
        now, first = (jax.tree.map(lambda aval: (aval.shape, str(aval.dtype)), types) for types in (found, expected))
        raise ExperimentError(
            f"batch({step}) has the shapes {now}, but the first batch had {first}. The step is compiled once, "
            "for one shape: pad or leave out a batch that is shorter."
        )
    return found
