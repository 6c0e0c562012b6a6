"""`balance_every`: before some steps, how far the update will go along itself, and how sharp the loss of the batch
is."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from fnbackprop import trees
from fnbackprop.balancing import curvature
from fnbackprop.balancing.vectors import add, dot
from fnbackprop.experiment import Experiment

from .step.loss_gradient import make_value_and_grad
from .step.mixed_precision import precision_of
from .step.state import TrainState
from .step.weight_update import WeightUpdate


class StepBalance:
    """Measures two numbers before a step: they cost four forward-backward passes.

    Args:
      experiment: what is trained.
      every: steps between two measurements.
    """

    def __init__(self, experiment: Experiment, every: int):
        self._every = every
        self._value_and_grad = make_value_and_grad(experiment, "manual", precision_of(experiment.precision))
        self._update = WeightUpdate(experiment)
        self._product = ""  # how products with the Hessian are taken
        self._measured = jax.jit(self._measure)

    def before_step(self, step: int, state: TrainState, batch: Any) -> dict[str, float]:
        """{"overshoot", "rate_over_critical", "batch_sharpness"}, where they are numbers; nothing between measurements.

        The overshoot is -1 if the update goes nowhere, 0 if it goes to the lowest point along itself, 1 across the
        valley to the same height, and above 1 if it ends higher; an update uphill has none. It is the critical rate
        of a step along itself that takes it to the same height: the rate over that is (1 + overshoot) / 2. The
        sharpness is the curvature along the gradient.
        """
        if step % self._every:
            return {}
        found = {name: float(value) for name, value in self._measured(state, batch).items()}
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def _measure(self, state: TrainState, batch: Any) -> dict[str, jax.Array]:
        key = jax.random.fold_in(state.key, state.step)
        scale = None if state.loss_scale is None else state.loss_scale.value
        trainable = self._update.trainable(state, batch, key)

        def uphill_at(params: Any) -> Any:
            return trees.conjugate(self._value_and_grad(params, batch, key, scale, trainable, state.model_state)[1])

        (loss, _), gradient = self._value_and_grad(state.params, batch, key, scale, trainable, state.model_state)
        after = self._update(state, gradient, loss, batch, key).params
        moved = add(after, state.params, -1.0)
        uphill = trees.conjugate(gradient)
        before, behind = dot(uphill, moved), dot(uphill_at(after), moved)
        overshoot = jnp.where(before < 0, -behind / before, math.nan)

        def product(vector: Any) -> Any:
            return self._hessian_product(uphill_at, state.params, vector)

        sharpness = curvature.rayleigh_quotient(product, uphill)
        return {"overshoot": overshoot, "rate_over_critical": (1 + overshoot) / 2, "batch_sharpness": sharpness}

    def _hessian_product(self, gradient: Any, params: Any, vector: Any) -> Any:
        if not self._product:
            self._product, _ = curvature.choose_product(gradient, params)
        return curvature.PRODUCTS[self._product](gradient, params, vector)
