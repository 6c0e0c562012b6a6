"""The training loop, and the step that it repeats."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from fnbackprop.experiment import Experiment
from fnbackprop.extras import require

from .best import BestMode
from .callbacks import Callback
from .compiling import StepFunction
from .layout import Layout
from .run import Run
from .session import Session, layout_of
from .step.loss_gradient import make_outcome_and_grad
from .step.mixed_precision import precision_of
from .step.model_state import with_model_state
from .step.own_step import make_own_gradient, own_step
from .step.several_updates import Made, UpdateFunction, one_after_another
from .step.skipping import leaves_out, skip_metrics, unless_left_out
from .step.state import TrainState
from .step.step_metrics import step_metrics
from .step.weight_update import WeightUpdate


def train(
    experiment: Experiment,
    *,
    backward: str = "manual",
    fuse: bool = False,
    steps: int | None = None,
    state: TrainState | None = None,
    directory: str | Path | None = "runs",
    progress: bool = True,
    prefetch: int = 2,
    profile: bool = False,
    loggers: Sequence[Any] = (),
    callbacks: Sequence[Callback] = (),
    compare_every: int = 100,
    balance_every: int | None = None,
    watch: int = 0,
    mesh: str | Mapping[str, int] | Mesh | None = None,
    checkpoint_every: int | None = None,
    keep: int | None = 3,
    keep_every: int | None = None,
    best: str | None = None,
    best_mode: BestMode | None = None,
    resume: bool = False,
    overwrite: bool = False,
    new_config: bool = False,
    patience: int | None = None,
    batch_timeout: float = 1800.0,
    trial: bool = True,
) -> TrainState:
    """Train, and return the state after the last step.

    Everything is a function of `(seed, step)`: training to step 20 gives the same state whether it is done at once or
    by going on from the state of step 10, in memory or from a checkpoint.

    Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP end the run after the step, with a checkpoint; so does an error between two
    steps, that of `evaluate` too. A second Ctrl-C ends at once. Of several processes, all end if one does. The state
    after the last step is the exception's `.state` as well: in a notebook, `sys.last_value.state`.

    Args:
      experiment: what to train.
      backward: "manual" (this package's backward pass), "automatic" (`jax.value_and_grad`), or "both": the manual one,
        compared with the automatic one every `compare_every` steps; the run's report shows the last comparison.
      fuse: run blocks where the loss writes out attention or cross-entropy in plain JAX: faster and in less memory. The
        run begins by saying where it does, and where not and why (`fb.fusions`). With `backward="both"`, the gradient
        so computed is compared with that of the plain loss.
      steps: the step to stop at; by default `experiment.steps`.
      state: go on from this state, in a new run; by default, from the initial one of the experiment's seed.
      directory: where the run's folder `<directory>/<experiment.name>/` is made, with `metrics.jsonl`, `curves.svg`,
        `report.html`, `run.json`, `checkpoints/` and, at the end, `model.safetensors`. If there are runs of this name,
        the new one's folder gets a number: `<experiment.name>-2/`. None writes nothing.
      progress: whether to print how it goes.
      prefetch: how many batches are made ahead, by a thread; 0 makes each when its step begins, and so does a `batch`
        that takes no more than 0.2 ms.
      profile: time some steps and trace a few, into the run's folder `profile/`.
      loggers: who is handed the metrics too: "tensorboard", "wandb", "mlflow", "aim", "csv", or loggers (`fb.loggers`).
      callbacks: pure functions `(step, state, values)` of the number of updates made, of the state after them, which
        they must not keep, and of the metrics of the step (and "evaluate/<name>", if there was an evaluation). They may
        return "stop", "checkpoint" or "evaluate", or several of them. A value is an array that the device may still be
        computing: to look at one waits for it, so `if step % 100 == 0` comes first.
      compare_every: steps between two comparisons of `backward="both"`.
      balance_every: steps between two measurements of how far an update goes (the metric "overshoot": -1 nowhere, 0 to
        the lowest point along itself, above 1 uphill; "rate_over_critical" is the same from 0 to 1, which is where a
        step ends as high as it began) and of the curvature along the gradient ("batch_sharpness"); each costs four
        passes. The run then also says where loss, gradient or update spike, and at its end whether the loss
        still falls. None measures nothing.
      watch: steps between two looks at the sizes of values and cotangents along the model (`fb.watch`: named values,
        the carries of scanned layers); the run's report has a map of them over depth and time. 0: none.
      mesh: the devices to train on, "data=4,model=2" for instance: `experiment.sharding` says what lies where. None is
        one device; or, of several processes, all their devices along "data". Process 0 alone prints and writes.
      checkpoint_every: steps between two checkpoints; None: every ten minutes. The last step has one too. 0: none.
      keep: how many of the last checkpoints are kept; None keeps all.
      keep_every: also write one at every so-many-th step, and keep it for good.
      best: also keep the checkpoint that is best by this metric of `evaluate`; every evaluation that is the best so
        far writes one.
      best_mode: whether the highest ("max") or the lowest ("min") is best; None: what the metric's name says, "min" of
        a loss or an error, "max" of an accuracy. Of a name that does not say it, it must be given.
      resume: go on with the newest run of this name, from its last checkpoint that is whole; begin anew if there is
        none.
      overwrite: begin anew in the folder of the newest run of this name, and throw away what it holds.
      new_config: resume even if the experiment's config, its seed, its data or the options have changed.
      patience: end the run after this number of evaluations on end in which `best` was not better. It is counted from
        the metrics, so that a run that is resumed ends where it would have.
      batch_timeout: of several processes: the seconds that one may take for a batch, before all are ended.
      trial: whether an evaluation and a small checkpoint are tried before the first step, so that a slip in them costs
        seconds. An `evaluate` that can be traced is not computed for it.

    Returns:
      The TrainState after the last step; its `params` are like those of `experiment.init`.

    Raises:
      ExperimentError: the experiment's functions do not fit together; `batch(step)` is not a function of the step; or
        the state is past the step to stop at, or of another model or optimizer.
      NonFiniteLoss: the loss became NaN or infinite.
      GradientMismatch: the manual and the automatic gradient are not the same.
      CheckpointError: the run to resume is in use by another process; or none of its checkpoints is whole; or they are
        of another experiment. Nothing has been changed then. Or the last checkpoint cannot be written.
      RunError: the metrics cannot be written.
      MissingExtra: a package of the extra "train" is not installed.

    Example:
      >>> import fnbackprop as fb, jax.numpy as jnp, optax
      >>> experiment = fb.Experiment(
      ...     name="line", init=lambda key: jnp.zeros(()), batch=lambda step: jnp.float32(3), steps=2,
      ...     loss=lambda w, batch, key: (w - batch) ** 2, optimizer=optax.sgd(0.25))
      >>> state = fb.train(experiment, directory=None, progress=False)
      >>> print(state.params, int(state.step))
      2.25 2
    """
    require("train", "fb.train")
    run = Run(**locals())
    layout = layout_of(run)
    step = make_step(experiment, run.differentiator, layout)
    with Session(run, step, layout) as session:
        state = session.state
        for number in session.steps():
            batch = session.batch(number, state)
            session.inspect(number, state, batch)
            state, metrics = session.step(state, batch)  # forward pass, loss, backward pass, weight update
            session.record(number, state, metrics)
            session.evaluate(number + 1, state)
            session.consult(number + 1, state, metrics)
            session.save(number + 1, state)
        session.finish(state)
    return state


def make_step(experiment: Experiment, backward: str = "manual", layout: Layout | None = None) -> StepFunction:
    """The pure function `step(state, batch) -> (state, metrics)`.

    `metrics` holds the loss, those of `step_metrics`, and those that the experiment's loss returns. With a loss
    scale, a gradient that is not finite changes nothing but that scale.
    """
    if experiment.step is not None:
        return own_step(experiment, backward)
    steps = {name: one_update(part, backward, layout) for name, part in experiment.parts.items()}
    if experiment.updates:
        return one_after_another(experiment, steps)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        after, metrics, _ = steps[""](state, batch)
        return after, metrics

    return step


def one_update(experiment: Experiment, backward: str, layout: Layout | None) -> UpdateFunction:
    """The function `updated(state, batch, measured) -> (state, metrics, made)` of one update. measured: whether its
    norms are looked at; None, always. made: whether it was, a bool scalar, or None if no update is ever left out."""
    if experiment.gradient is not None:
        outcome_and_grad = make_own_gradient(experiment, backward)
    else:
        outcome_and_grad = make_outcome_and_grad(experiment, backward, precision_of(experiment.precision))
    update = WeightUpdate(experiment)

    def updated(state: TrainState, batch: Any, measured: jax.Array | None = None) -> Made:
        key = jax.random.fold_in(state.key, state.step)
        scale = None if state.loss_scale is None else state.loss_scale.value

        trainable = update.trainable(state, batch, key)

        # Forward pass, loss, backward pass
        found, gradient = outcome_and_grad(state.params, batch, key, scale, trainable, state.model_state)
        if layout is not None:  # each device gets the sum for its own part of the parameters, and no more
            gradient = jax.lax.with_sharding_constraint(gradient, layout.state.params)

        # Weight update
        after = update(state, gradient, found.value, batch, key)
        after = with_model_state(experiment, after, found.model_state, state.step)

        wanted = None if leaves_out(state) else measured
        norms: dict[str, Any] = step_metrics(gradient, state.params, after.params, trainable, wanted)
        rate = update.learning_rate(state, gradient, found.value, batch, key)
        metrics = {"loss": found.value, **norms, **rate, **found.metrics}
        made = None
        if leaves_out(state):
            after, made = unless_left_out(experiment, state, after, found.value, gradient, norms["gradient_norm"])
        scales = {} if scale is None else {"loss_scale": scale}
        return after, {**metrics, **scales, **skip_metrics(after)}, made

    return updated
