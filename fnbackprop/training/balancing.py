"""`balance` of an experiment: its step, taken apart into the pure functions that `fnbackprop.balancing` asks for."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fnbackprop import trees
from fnbackprop.balancing.config_rate import find_rate
from fnbackprop.balancing.result import Balance
from fnbackprop.balancing.subject import Subject
from fnbackprop.experiment import Experiment, ExperimentError, require_experiment
from fnbackprop.extras import needed_for

from .checkpoints.compatibility import require_own_state
from .data.first_batch import require_arrays
from .layout import Layout
from .record.throughput import amount_of
from .run import Run
from .session import layout_of
from .step.loss_gradient import first_microbatch, loss_in_precision, make_value_and_grad
from .step.mixed_precision import Precision, precision_of
from .step.partial_optimizer import optimizer_of
from .step.state import TrainState, initial_state, part_of, require_state
from .step.weight_update import WeightUpdate

with needed_for("fb.balance"):
    from fnbackprop.balancing.procedure import Options, run_procedure

LOW = ("float16", "bfloat16")


def balance(
    experiment: Experiment,
    *,
    state: TrainState | None = None,
    update: str | None = None,
    check: bool = True,
    range_test: bool = True,
    mesh: str | Mapping[str, int] | Mesh | None = None,
    progress: bool | None = None,
) -> Balance:
    """Is the learning rate too high, too low or balanced at this state, by how much, in which layer, and why?

    The gradient is checked first. Then the curvature of the loss is measured by products of its Hessian with vectors,
    the optimizer by its response to small gradients, and both give the critical rate, above which steps overshoot.
    Noise and batch sharpness come from several batches. The judge is what happens: the next 50 steps at a quarter to
    four times the rate, on copies.

    Memory, beyond that of a training step with Adam: up to three copies of the parameters at a state that is given, two
    at the initial one, whose optimizer's state is made anew where it is needed.

    Args:
      experiment: what is trained.
      state: of a run, from `fb.load_checkpoint` for instance; by default the initial one.
      update: the name of one of the experiment's updates, if it has several: it is judged alone.
      check: whether the gradient is compared with the automatic one and every rule checked in place.
      range_test: whether 100 steps at a growing rate are taken, in three orders of the data.
      mesh: the devices, as for `fb.train`.
      progress: whether a line on the terminal says what is being done; None: if there is a terminal. Ctrl-C ends the
        procedure, and what is known so far is judged.

    Returns:
      a Balance: print it, ask it `.verdict`, `.ok` or `.multiplier`, or have it write `.html(path)`.
    Raises:
      ExperimentError: the experiment's functions do not fit together, or the state is another experiment's.

    Example:
      >>> import fnbackprop as fb, jax.numpy as jnp, optax
      >>> curvatures = jnp.array([1.0, 4.0])
      >>> experiment = fb.Experiment(
      ...     name="valley", init=lambda key: jnp.ones(2), batch=lambda step: curvatures, optimizer=optax.sgd(0.25),
      ...     loss=lambda params, batch, key: jnp.sum(batch * params**2) / 2, steps=100)
      >>> found = fb.balance(experiment, check=False, range_test=False, progress=False)
      >>> print(f"{found.verdict}, {found.facts.ratio.value:.2f} of the critical rate")
      BALANCED, 0.50 of the critical rate
    """
    subject = subject_of(experiment, state, mesh, update)
    return run_procedure(subject, Options(check, range_test), progress)


def subject_of(
    experiment: Experiment,
    state: TrainState | None = None,
    mesh: str | Mapping[str, int] | Mesh | None = None,
    update: str | None = None,
) -> Subject:
    """The experiment at a state, as the pure functions of its step; of several updates, of one."""
    require_experiment("balance", experiment)
    if state is not None:
        require_state(state)
    layout, name = layout_of(Run(experiment, directory=None, mesh=mesh)), _chosen(experiment, update)
    is_given, state = state is not None, part_of(_placed_state(experiment, state, layout), name)
    experiment = experiment.parts[name]
    opt_state = _kept(state.opt_state) if is_given else _made_anew(experiment, state.params, layout, name)
    parts, step, key = _Parts(experiment, state, layout), int(state.step), state.key
    amount = amount_of(parts.batch(step))
    return Subject(
        name=f"{experiment.name}-{name}" if name else experiment.name,
        step=step,
        params=parts.trained(state.params),
        opt_state=opt_state,
        batch=parts.batch,
        key=lambda step: jax.random.fold_in(key, step),
        value_and_gradient=parts.value_and_gradient,
        gradient=parts.wide_gradient,
        loss=parts.loss,
        part=parts.part,
        update=parts.update,
        batch_size=amount.count,
        unit=amount.unit,
        rate=_learning_rate(experiment, state.opt_state),
    )


def _chosen(experiment: Experiment, update: str | None) -> str:
    """The name of the update that is judged: "" is that of an experiment without several."""
    names = list(experiment.parts)
    if update is None and len(names) == 1:
        return names[0]
    if update not in names:
        listed = ", ".join(names) if experiment.updates else "none"
        raise ExperimentError(f"balance judges one update at a time: give update=, one of {listed}, not {update!r}.")
    return update


def _learning_rate(experiment: Experiment, opt_state: Any) -> float | None:
    """The learning rate if it can be known: of `optax.inject_hyperparams`, or the option of that name."""
    for path, leaf in trees.leaves_with_paths(opt_state):
        if path.endswith("hyperparams/learning_rate"):
            return float(leaf)
    found = find_rate(experiment.config)
    return None if found is None else found[1]


def _placed_state(experiment: Experiment, state: TrainState | None, layout: Layout | None) -> TrainState:
    if state is None:
        return initial_state(experiment, layout)
    require_own_state(experiment, state)
    return state if layout is None else jax.device_put(state, layout.state)


def _kept(opt_state: Any) -> Callable[[], Any]:
    return lambda: opt_state


def _made_anew(experiment: Experiment, params: Any, layout: Layout | None, update: str) -> Callable[[], Any]:
    """A function that returns the optimizer's first state, and keeps none in memory."""
    init = optimizer_of(experiment).init
    if layout is not None:
        placed = layout.state.opt_state
        init = jax.jit(init, out_shardings=placed[update] if update else placed)
    return lambda: init(params)


class _Parts:
    """The functions of a `Subject`: of the parameters that are trained alone, by their paths."""

    def __init__(self, experiment: Experiment, state: TrainState, layout: Layout | None):
        precision = precision_of(experiment.precision)
        self._experiment, self._layout = experiment, layout
        self._params, self._model_state = state.params, state.model_state  # it stands still while a step is judged
        wide = _wide(precision)
        own = wide if precision.loss_scaling else precision  # a loss scale is no part of what is judged
        self._both, self._wide = (make_value_and_grad(experiment, "manual", one) for one in (own, wide))
        self._loss = loss_in_precision(experiment, own)
        self._update = WeightUpdate(experiment)
        step = int(state.step)
        self._trainable = self._update.trainable(state, self.batch(step), jax.random.fold_in(state.key, step))
        self._paths = [path or "params" for path, _ in trees.leaves_with_paths(state.params)]

    def batch(self, step: int) -> Any:
        batch = self._experiment.batch(step)
        require_arrays(batch, step)
        return batch if self._layout is None else self._layout.place(batch)

    def part(self, batch: Any) -> Any:
        """One microbatch, for more may not fit."""
        if self._experiment.accumulate == 1:
            return batch
        return first_microbatch(batch, self._experiment.accumulate)

    def trained(self, tree: Any) -> dict[str, Any]:
        """The leaves that are trained, by their paths."""
        flagged = zip(self._paths, jax.tree.leaves(tree), self._trainable, strict=True)
        return {path: leaf for path, leaf, flag in flagged if flag}

    def whole(self, trained: dict[str, Any], others: Any = None) -> Any:
        """The tree of all parameters, with those that are frozen as they are, or as in `others`."""
        leaves = jax.tree.leaves(self._params if others is None else others)
        found = [trained.get(path, leaf) for path, leaf in zip(self._paths, leaves, strict=True)]
        return jax.tree.structure(self._params).unflatten(found)

    def value_and_gradient(self, params: dict[str, Any], batch: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        (loss, _), gradient = self._both(self.whole(params), batch, key, None, self._trainable, self._model_state)
        return loss, trees.conjugate(self.trained(gradient))

    def wide_gradient(self, params: dict[str, Any], batch: Any, key: jax.Array) -> dict[str, Any]:
        _, gradient = self._wide(self.whole(params), batch, key, None, self._trainable, self._model_state)
        return trees.conjugate(self.trained(gradient))

    def loss(self, params: dict[str, Any], batch: Any, key: jax.Array) -> jax.Array:
        return self._loss(self.whole(params), batch, key, self._model_state)[0]

    def update(self, gradient, opt_state, params, loss, batch, key) -> tuple[dict[str, Any], Any]:
        gradient = self.whole(trees.conjugate(gradient), jax.tree.map(jnp.zeros_like, self._params))
        arguments = gradient, opt_state, self.whole(params), loss, batch, key, self._model_state
        updates, opt_state = self._update.updates(*arguments)
        return self.trained(updates), opt_state


def _wide(precision: Precision) -> Precision:
    """The same precision, computed with in float32 at least: rounding to 16 bits is no curvature."""
    return dataclasses.replace(precision, compute="float32") if precision.compute in LOW else precision
