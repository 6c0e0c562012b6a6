"""Optimizers and learning rates as typed options; optax does the work.

A field `optimizer: fb.Optimizer = fb.Optimizer()` of an experiment's `Config` gives the command line
`--optimizer.name lion`, `--optimizer.learning-rate 3e-4` and so on; `config.optimizer.build(config.steps)` is the optax
transformation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fnbackprop import trees
from fnbackprop.experiment import ExperimentError
from fnbackprop.extras import needed_for

with needed_for("fb.Optimizer"):
    import optax

NO_DECAY = ("b", "bias", "scale", "offset", "*norm*/weight")
"""What biases and the scales of norms are called in this package, Flax, Haiku and Equinox."""


@dataclass(frozen=True)
class Optimizer:
    """The update rule, its learning rate, and what is done to the gradient before.

    Attributes:
      name: the update rule.
      learning_rate: the largest factor of an update, after the warmup.
      schedule: how it falls after the warmup, to its end at the last step.
      warmup: steps over which it rises from zero along a line.
      end: the last learning rate as a part of the largest.
      weight_decay: a part of each weight, times the learning rate, that a step takes away from it.
      no_decay: patterns of the ends of paths, such as norm*/scale: those parameters do not decay.
      clip: the largest norm of the whole gradient; a larger one is scaled down to it. None: no bound.
      momentum: how much of the last step's average gradient is kept, a part (beta 1).
      second_momentum: the same for the squared gradient of adamw and for lion's step (beta 2).
      epsilon: the number added to adamw's divisor.

    Raises:
      ExperimentError: a value is out of its range.
    Example:
      >>> import fnbackprop as fb, jax.numpy as jnp
      >>> optimizer = fb.Optimizer("sgd", 0.1, "constant", momentum=0.0).build(steps=10)
      >>> updates, _ = optimizer.update(jnp.ones(2) / 2, optimizer.init(jnp.ones(2)))
      >>> print(updates)
      [-0.05 -0.05]
    """

    name: Literal["adamw", "sgd", "lion", "adafactor"] = "adamw"
    """The update rule."""
    learning_rate: float = 1e-3
    """The largest, after the warmup."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """How it falls after the warmup, to its end at the last step."""
    warmup: int = 0
    """Steps over which it rises from zero along a line."""
    end: float = 0.0
    """The last learning rate as a part of the largest."""
    weight_decay: float = 0.0
    """A part of each weight, times the learning rate, that a step takes away from it."""
    no_decay: tuple[str, ...] = NO_DECAY
    """Patterns of the ends of paths, such as norm*/scale: those parameters do not decay. By default biases and the
    scales of norms; a `weight` of one axis is one, too."""
    clip: float | None = 1.0
    """The largest norm of the whole gradient; a larger one is scaled down to it."""
    momentum: float = 0.9
    """How much of the last step's average gradient is kept (beta 1)."""
    second_momentum: float = 0.999
    """The same for the squared gradient of adamw and for lion's step (beta 2)."""
    epsilon: float = 1e-8
    """Added to adamw's divisor."""

    def __post_init__(self):
        _require(self.learning_rate > 0, "learning_rate", "above 0", self.learning_rate)
        _require(self.warmup >= 0, "warmup", "at least 0", self.warmup)
        _require(0 <= self.end <= 1, "end", "between 0 and 1", self.end)
        _require(self.weight_decay >= 0, "weight_decay", "at least 0", self.weight_decay)
        _require(self.clip is None or self.clip > 0, "clip", "above 0, or None", self.clip)
        for field in ("momentum", "second_momentum"):
            value = getattr(self, field)
            _require(0 <= value < 1, field, "at least 0 and below 1", value)

    def build(self, steps: int) -> optax.GradientTransformation:
        """The optax chain for a run of this number of steps: clip, update rule, weight decay, learning rate."""
        parts = [] if self.clip is None else [optax.clip_by_global_norm(self.clip)]
        parts.append(self._direction())
        if self.weight_decay:
            parts.append(optax.add_decayed_weights(self.weight_decay, mask=decay_mask(self.no_decay)))
        return optax.chain(*parts, optax.scale_by_learning_rate(self.rate(steps)))

    def rate(self, steps: int) -> Callable[[Any], Any]:
        """The learning rate as a function of the step, in a run of this number of steps.

        Raises:
          ExperimentError: the warmup is longer than the run.
        """
        _require(self.warmup <= steps, "warmup", f"at most the run's {steps} steps", self.warmup)
        rest = max(steps - self.warmup, 1)
        after = {
            "constant": lambda: optax.constant_schedule(self.learning_rate),
            "cosine": lambda: optax.cosine_decay_schedule(self.learning_rate, rest, alpha=self.end),
            "linear": lambda: optax.linear_schedule(self.learning_rate, self.end * self.learning_rate, rest),
        }[self.schedule]()
        if not self.warmup:
            return after
        # A step's rate is that of its end: the first step is not lost to a rate of zero.
        rise = optax.linear_schedule(self.learning_rate / self.warmup, self.learning_rate, max(self.warmup - 1, 1))
        return optax.join_schedules([rise, after], [self.warmup])

    def _direction(self) -> optax.GradientTransformation:
        """The update before weight decay and learning rate."""
        return {
            "adamw": lambda: optax.scale_by_adam(self.momentum, self.second_momentum, self.epsilon),
            "sgd": lambda: optax.trace(self.momentum) if self.momentum else optax.identity(),
            "lion": lambda: optax.scale_by_lion(self.momentum, self.second_momentum),
            "adafactor": lambda: optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0)),
        }[self.name]()


def decay_mask(no_decay: tuple[str, ...]) -> Callable[[Any], Any]:
    """A function from parameters to a mask of those that decay: whose paths match none of these patterns.

    It raises ExperimentError for a pattern that matches no parameter; those of `NO_DECAY` need not, if all are there.
    """
    has_defaults = set(NO_DECAY) <= set(no_decay)
    required = [pattern for pattern in no_decay if not (has_defaults and pattern in NO_DECAY)]

    def decays(path: str, leaf: Any) -> bool:
        is_norm = has_defaults and trees.matches(path, "weight") and np.ndim(leaf) < 2  # a matrix, in any other layer
        return not is_norm and not any(trees.matches(path, pattern) for pattern in no_decay)

    def mask(params: Any) -> Any:
        paths = [path for path, _ in trees.leaves_with_paths(params)]
        for pattern in required:
            if not any(trees.matches(path, pattern) for path in paths):
                raise ExperimentError(
                    f"optimizer: no_decay: no parameter matches {pattern!r}; they are {', '.join(paths)}."
                )
        return trees.map_with_paths(decays, params)

    return mask


def _require(holds: bool, field: str, wanted: str, value: Any) -> None:
    if not holds:
        raise ExperimentError(f"optimizer: {field} must be {wanted}, not {value!r}.")
