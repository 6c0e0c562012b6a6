"""An optimizer of a part of the parameters: the others are frozen, and it keeps nothing about them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fnbackprop import trees
from fnbackprop.experiment import Experiment, ExperimentError

from .trainable import divide, joined, trained_only


def first_opt_state(experiment: Experiment, params: Any) -> Any:
    """The optimizer's first state; of several updates, a dict of them by their names."""
    states = {name: optimizer_of(part).init(params) for name, part in experiment.parts.items()}
    return states if experiment.updates else states[""]


def optimizer_of(experiment: Experiment) -> optax.GradientTransformation:
    """The experiment's optimizer, of those parameters that it names as trainable."""
    patterns = experiment.trainable
    if patterns is None:
        return experiment.optimizer
    return of_parameters(experiment.optimizer, [patterns] if isinstance(patterns, str) else patterns)


def of_parameters(optimizer: optax.GradientTransformation, patterns: Sequence[str]) -> optax.GradientTransformation:
    """The optimizer of the parameters whose paths are `trees.within` the patterns: it sees a tree without the others.

    Raises:
      ExperimentError: when it is given parameters of which none matches a pattern.
    """
    full = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> Any:
        return optimizer.init(trained_only(params, flags_of(params, patterns)))

    def update(gradient: Any, opt_state: Any, params: Any = None, **more: Any) -> tuple[Any, Any]:
        flags = flags_of(gradient, patterns)

        def part(tree: Any) -> Any:
            return trained_only(tree, flags)

        def whole(own: Any, others: Any) -> Any:
            return joined(own if all(flags) else jax.tree.leaves(own), divide(others, flags)[1], others, flags)

        if "grad" in more:
            more["grad"] = part(more["grad"])
        if "value_fn" in more:
            value_of = more["value_fn"]
            more["value_fn"] = lambda own: value_of(whole(own, params))
        updates, opt_state = full.update(part(gradient), opt_state, None if params is None else part(params), **more)
        return whole(updates, jax.tree.map(jnp.zeros_like, gradient)), opt_state

    asks_for_more = isinstance(optimizer, optax.GradientTransformationExtraArgs)
    return (optax.GradientTransformationExtraArgs if asks_for_more else optax.GradientTransformation)(init, update)


def flags_of(params: Any, patterns: Sequence[str]) -> list[bool]:
    """Whether each leaf is within one of the patterns; raises ExperimentError for a pattern that holds none."""
    paths = [path for path, _ in trees.leaves_with_paths(params)]
    for pattern in patterns:
        if not any(trees.within(path, [pattern]) for path in paths):
            raise ExperimentError(f"trainable: no parameter matches {pattern!r}; they are {', '.join(paths)}.")
    return [trees.within(path, patterns) for path in paths]
