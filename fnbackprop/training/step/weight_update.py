"""The weight update: optax's, and the moving average of the parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from fnbackprop import trees
from fnbackprop.experiment import Experiment, ExperimentError
from fnbackprop.extras import needed_for

from .learning_rate import learning_rate
from .loss_gradient import loss_in_precision
from .mixed_precision import precision_of
from .moving_average import next_average
from .partial_optimizer import optimizer_of
from .state import TrainState
from .trainable import zero_outputs

with needed_for("fb.train"):
    import optax


class WeightUpdate:
    """The weight update of an experiment, traced once: to see which parameters it changes, and to make it.

    Optimizers that ask for more than the gradient are given the loss as `value`, the gradient as `grad` and the loss as
    a function of the parameters as `value_fn`: `optax.contrib.reduce_on_plateau`, `optax.polyak_sgd`, `optax.lbfgs` ...
    """

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        optimizer = optimizer_of(experiment)
        self._optimizer = optax.with_extra_args_support(optimizer)
        self._loss = loss_in_precision(experiment, precision_of(experiment.precision))
        self._asks_for_more = isinstance(optimizer, optax.GradientTransformationExtraArgs)
        self._updates = jax.jit(self._traced_once)
        self._jaxpr: Any = None

    def trainable(self, state: TrainState, batch: Any, key: jax.Array) -> list[bool]:
        """For each leaf of the parameters, whether an update can change it."""
        output = precision_of(self._experiment.precision).output or "float32"  # if it is another, it is traced twice
        loss = jax.ShapeDtypeStruct((), output) if self._asks_for_more else None
        with jax.numpy_dtype_promotion("standard"):
            arguments = state.params, state.opt_state, state.params, loss, batch, key, state.model_state
            self._jaxpr = self._updates.trace(*arguments).jaxpr
        count = len(jax.tree.leaves(state.params))
        return [not zero for zero in zero_outputs(self._jaxpr.jaxpr)[:count]]

    def learning_rate(
        self, state: TrainState, gradient: Any, loss: jax.Array, batch: Any, key: jax.Array
    ) -> dict[str, jax.Array]:
        """The metric "learning_rate" of an update, if it can be seen; after `trainable` has traced it."""
        value = loss if self._asks_for_more else None
        arguments = gradient, state.opt_state, state.params, value, batch, key, state.model_state
        rate = learning_rate(self._jaxpr, jax.tree.leaves(arguments), len(jax.tree.leaves(state.params)))
        return {} if rate is None else {"learning_rate": rate}

    def __call__(self, state: TrainState, gradient: Any, loss: jax.Array, batch: Any, key: jax.Array) -> TrainState:
        """The state after the weight update."""
        updates, opt_state = self.updates(gradient, state.opt_state, state.params, loss, batch, key, state.model_state)
        with jax.numpy_dtype_promotion("standard"):
            params = optax.apply_updates(state.params, updates)
        decay = self._experiment.ema
        ema = None if decay is None else next_average(state.ema, params, decay, state.step)
        return dataclasses.replace(state, params=params, opt_state=opt_state, step=state.step + 1, ema=ema)

    def updates(
        self,
        gradient: Any,
        opt_state: Any,
        params: Any,
        loss: jax.Array,
        batch: Any,
        key: jax.Array,
        model_state: Any = None,
    ) -> tuple[Any, Any]:
        """(what is added to the parameters, the optimizer's next state)."""
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it; the user may have set "strict"
            value = loss if self._asks_for_more else None
            return self._updates(gradient, opt_state, params, value, batch, key, model_state)

    def _traced_once(self, gradient, opt_state, params, loss, batch, key, model_state) -> tuple[Any, Any]:
        uphill = trees.conjugate(gradient)  # optimizers walk against it
        more = (
            {} if loss is None else {"value": loss, "grad": uphill, "value_fn": self._value_of(batch, key, model_state)}
        )
        try:
            return self._optimizer.update(uphill, opt_state, params, **more)
        except TypeError as error:
            if "argument" not in str(error):
                raise
            raise ExperimentError(
                f"the optimizer asks for an argument that it is not given: {error}. train gives value, grad and "
                "value_fn besides the gradient, the state and the parameters."
            ) from error

    def _value_of(self, batch: Any, key: jax.Array, model_state: Any) -> Callable[[Any], jax.Array]:
        return lambda params: self._loss(params, batch, key, model_state)[0]
