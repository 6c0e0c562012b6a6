"""What a run carries from one step to the next."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnbackprop.experiment import Experiment


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a step reads and writes, as one pytree.

    Attributes:
      params: the parameters.
      opt_state: the optimizer's state.
      step: how many updates have been made, an int32 scalar.
      key: the run's key, the same at every step; the step's own is `fold_in(key, step)`.
    """

    params: Any
    opt_state: Any
    step: jax.Array
    key: jax.Array


def initial_state(experiment: Experiment) -> TrainState:
    """The state before the first step, a function of the experiment's seed."""
    init_key, loss_key = experiment.keys()
    params = own_buffers(experiment.init(init_key))
    return TrainState(params, own_buffers(experiment.optimizer.init(params)), jnp.zeros((), jnp.int32), loss_key)


def own_buffers(tree: Any) -> Any:
    """The same values in memory of their own, so that a step may be given it for good (donated).

    Weak types (from Python scalars) become plain ones: a step that returned another type would be compiled twice.
    """
    return jax.tree.map(lambda leaf: jnp.array(leaf, dtype=jnp.asarray(leaf).dtype, copy=True), tree)
