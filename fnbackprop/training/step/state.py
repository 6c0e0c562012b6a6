"""What a run carries from one step to the next."""

import zlib
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fnbackprop import trees
from fnbackprop.experiment import Experiment, ExperimentError

from ..layout import Layout
from .constants import from_constants
from .loss_scale import LossScale
from .mixed_precision import cast, precision_of
from .moving_average import first_average, in_dtypes_of
from .partial_optimizer import first_opt_state
from .skipping import Skipped
from .spike_window import SpikeWindow


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a step reads and writes, as one pytree.

    Attributes:
      params: the parameters.
      opt_state: the optimizer's state.
      step: how many steps have been taken, an int32 scalar.
      key: the run's key, the same at every step; the step's own is `fold_in(key, step)`.
      ema: the parameters' exponential moving average, in float32 at least; None if the experiment keeps none.
      loss_scale: of float16; None if the precision has none.
      model_state: what the loss renews beside the parameters; None if the experiment has none (`has_state`).
      skipped: how many updates were left out; None if none may be (`skip_nonfinite`).
      spikes: what a spike is told by; None if none is left out (`skip_spikes`); of several updates, one for each.
      model_state_ema: its moving average; None if the experiment keeps none (`ema_of_state`).

    Example:
      >>> import fnbackprop as fb, jax, jax.numpy as jnp
      >>> state = fb.TrainState(jnp.ones(2), opt_state=(), step=jnp.int32(0), key=jax.random.key(0))
      >>> jax.tree.map(lambda leaf: leaf.shape, state).params, state.averaged is state.params
      ((2,), True)
    """

    params: Any
    opt_state: Any
    step: jax.Array
    key: jax.Array
    ema: Any = None
    loss_scale: LossScale | None = None
    model_state: Any = None
    model_state_ema: Any = None
    skipped: Skipped | None = None
    spikes: Any = None  # SpikeWindow | dict[str, SpikeWindow] | None

    @property
    def averaged(self) -> Any:
        """The parameters' moving average in their own dtypes, or the parameters if none is kept."""
        return self.params if self.ema is None else in_dtypes_of(self.params, self.ema)

    @property
    def averaged_model_state(self) -> Any:
        """The model state's moving average in its own dtypes, or the model state if none is kept."""
        kept = self.model_state_ema
        return self.model_state if kept is None else in_dtypes_of(self.model_state, kept)

    @property
    def evaluated(self) -> tuple[Any, ...]:
        """What `evaluate` is given: the parameters, and the model state if there is one; their averages, if kept."""
        return (self.averaged,) if self.model_state is None else (self.averaged, self.averaged_model_state)


def part_of(state: TrainState, update: str) -> TrainState:
    """The state as one of several updates has it: its own optimizer's state, a key of its own, no moving averages.

    Without a name, that of an experiment without updates: the state itself.
    """
    if not update:
        return state
    key = jax.random.fold_in(state.key, zlib.crc32(update.encode()))  # whatever the other updates are
    spikes = None if state.spikes is None else state.spikes[update]
    return replace(state, opt_state=state.opt_state[update], key=key, spikes=spikes, ema=None, model_state_ema=None)


def with_part(state: TrainState, update: str, part: TrainState) -> TrainState:
    """The whole state after one of its updates has made this of its part; the step is the same."""
    opt_state = state.opt_state | {update: part.opt_state}
    spikes = None if state.spikes is None else state.spikes | {update: part.spikes}
    averages = {"ema": state.ema, "model_state_ema": state.model_state_ema}
    return replace(part, opt_state=opt_state, spikes=spikes, step=state.step, key=state.key, **averages)


def initial_state(experiment: Experiment, layout: Layout | None = None) -> TrainState:
    """The state before the first step, a function of the experiment's seed.

    With a layout, `experiment.init` is compiled and each device computes its own part: none need hold all of it.
    """
    if layout is None:
        return _initial_state(experiment)
    return jax.jit(lambda: _initial_state(experiment), out_shardings=layout.state)()


def abstract_state(experiment: Experiment) -> TrainState:
    """The shapes and dtypes of the state, without computing it."""
    return jax.eval_shape(lambda: _initial_state(experiment))


def _initial_state(experiment: Experiment) -> TrainState:
    init_key, loss_key = experiment.keys()
    precision = precision_of(experiment.precision)
    params, model_state = experiment.initial(init_key)
    require_floating(params)
    with jax.transfer_guard("allow"):  # zeros and numbers are to go to the device; what init does stays guarded
        params, model_state = own_buffers(cast(params, precision.params)), own_buffers(model_state)
        return TrainState(
            params=params,
            opt_state=own_buffers(from_constants(partial(first_opt_state, experiment), params)),
            step=own_buffers(np.int32(0)),
            key=loss_key,
            ema=None if experiment.ema is None else own_buffers(first_average(params)),
            loss_scale=LossScale.first() if precision.loss_scaling else None,
            model_state=model_state,
            model_state_ema=own_buffers(first_average(model_state)) if experiment.ema_of_state else None,
            skipped=None if experiment.skip_nonfinite is None else Skipped.none(),
            spikes=None if experiment.skip_spikes is None else _first_windows(experiment),
        )


def _first_windows(experiment: Experiment) -> Any:
    windows = {name: SpikeWindow.empty() for name in experiment.parts}
    return windows if experiment.updates else windows[""]


def require_floating(params: Any) -> None:
    """Raises ExperimentError for a parameter that cannot be trained: a function, an integer, a key, text."""
    for path, leaf in trees.leaves_with_paths(params):
        dtype = getattr(leaf, "dtype", None)
        if (
            dtype is None
            and isinstance(leaf, float | complex)
            or dtype is not None
            and jnp.issubdtype(dtype, jnp.inexact)
        ):
            continue
        name = f"the parameter {path}" if path else "what init returns"
        if callable(leaf) and dtype is None:
            what = f"a function, {getattr(leaf, '__name__', leaf)}"
            remedy = "Return the arrays alone, and combine them with the rest in loss: with Equinox, eqx.partition and "
            remedy += "eqx.combine; with Flax NNX, nnx.split and nnx.merge."
        elif dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
            what, remedy = "a random key", "loss is given another key at every step; derive yours from it."
        elif dtype is None and not isinstance(leaf, int):
            what, remedy = f"{leaf!r}, a {type(leaf).__name__}", "Parameters are floating arrays."
        else:
            what = f"the integer {leaf}" if dtype is None else f"an array of {dtype}"
            remedy = "What is not trained belongs in the closure of loss, in the batch or, if it "
            remedy += "changes, in the model state (has_state); else make it floating."
        raise ExperimentError(f"{name} is {what}, which has no gradient. {remedy}")


def adopted_state(state: TrainState, layout: Layout | None = None) -> TrainState:
    """A copy of a given state, placed as the layout says."""
    return own_buffers(state if layout is None else jax.device_put(state, layout.state))


def own_buffers(tree: Any) -> Any:
    """A copy of the tree, whose memory can be donated to a step.

    Weak types (of Python scalars) become plain ones: a step whose result had another type would be compiled twice.
    """
    return jax.tree.map(_copy, tree)


def _copy(leaf: Any) -> jax.Array:
    """A copy of one leaf. `jnp.array` compiles a program for every shape; an array on one device, or of Numpy, can do
    without."""
    if isinstance(leaf, np.ndarray | np.generic):
        return jax.device_put(leaf, may_alias=False)
    is_array = isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer)
    if is_array and not getattr(leaf, "weak_type", True) and leaf.is_fully_addressable and len(leaf.devices()) == 1:
        return jax.device_put(leaf, may_alias=False)
    return jnp.array(leaf, dtype=jnp.asarray(leaf).dtype, copy=True)


def require_state(given: Any) -> None:
    """Raises ExperimentError for a state that is none."""
    if not isinstance(given, TrainState):
        raise ExperimentError(f"state must be a TrainState, as train and load_checkpoint return it, not {given!r}.")
