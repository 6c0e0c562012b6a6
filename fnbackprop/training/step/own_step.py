"""What an experiment does with its gradients itself: another gradient than the loss's, or the whole step."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax

from fnbackprop import trees
from fnbackprop.experiment import Experiment, ExperimentError, LossOutcome

from .loss_gradient import OutcomeAndGradient, make_outcome_and_grad
from .mixed_precision import precision_of
from .moving_average import next_average
from .state import TrainState

OWN_METRICS = ("loss", "gradient_norm")
"""What the metrics of an own step must hold."""


def make_own_gradient(experiment: Experiment, backward: str) -> Callable[..., OutcomeAndGradient]:
    """As `make_outcome_and_grad`, by the experiment's own `gradient(value_and_grad, params, batch, key)`."""

    def outcome_and_grad(params, batch, key, scale=None, trainable=None, model_state=None) -> OutcomeAndGradient:
        after = [model_state]
        value_and_grad = _gradients_of(experiment, backward, model_state, after, scale, trainable)
        returned = experiment.gradient(value_and_grad, params, batch, key)
        try:
            (value, metrics), gradient = returned
        except (TypeError, ValueError):
            raise ExperimentError("gradient must return ((loss, metrics), gradient), as value_and_grad does.") from None
        _require_like(gradient, params, "gradient must return a gradient like the parameters")
        return LossOutcome(value, metrics, after[-1]), gradient

    return outcome_and_grad


def own_step(experiment: Experiment, backward: str) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]]:
    """The step of an experiment that has its own `step(state, batch, key, value_and_grad)`."""

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        key = jax.random.fold_in(state.key, state.step)
        value_and_grad = _gradients_of(experiment, backward, state.model_state, [])
        returned = experiment.step(state, batch, key, value_and_grad)
        if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], TrainState)):
            raise ExperimentError("step must return (state, metrics): dataclasses.replace(state, params=...), {...}.")
        after, metrics = returned
        for name in OWN_METRICS:
            if name not in metrics:
                raise ExperimentError(f"the metrics of step must hold {name!r}, but they are {', '.join(metrics)}.")
        _require_like(after.params, state.params, "the params of step must be like those that it is given")
        with jax.numpy_dtype_promotion("standard"):
            ratio = trees.relative_change(state.params, after.params)
        ema = state.ema
        if experiment.ema is not None:
            ema = next_average(state.ema, after.params, experiment.ema, state.step)
        after = replace(after, step=state.step + 1, key=state.key, ema=ema)
        return after, {"update_ratio": ratio, **metrics}

    return step


def _gradients_of(
    experiment: Experiment, backward: str, model_state: Any, after: list[Any], scale: Any = None, trainable: Any = None
) -> Callable[[Callable], Callable]:
    """`value_and_grad(loss)(params, batch, key) -> ((loss, metrics), gradient)`, by the backward, in the precision and
    over the microbatches of the run; the model state that a loss has left is appended to `after`."""

    def value_and_grad(loss: Callable) -> Callable:
        alone = replace(experiment, loss=loss, gradient=None, step=None)
        found_by = make_outcome_and_grad(alone, backward, precision_of(experiment.precision))

        def found(params: Any, batch: Any, key: jax.Array) -> tuple[tuple[jax.Array, dict[str, Any]], Any]:
            (value, metrics, left), gradient = found_by(params, batch, key, scale, trainable, model_state)
            after.append(left)
            return (value, metrics), gradient

        return found

    return value_and_grad


def _require_like(tree: Any, like: Any, message: str) -> None:
    there, here = ({path: leaf.shape for path, leaf in trees.leaves_with_paths(x)} for x in (tree, like))
    if there != here:
        path = next(path for path in {**there, **here} if there.get(path) != here.get(path))
        raise ExperimentError(f"{message}, but {path or 'it'} is {there.get(path, 'absent')}, not {here.get(path)}.")
