"""Arrays as shuffled epochs."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fnbackprop.experiment import ExperimentError

from .permutations import epochs


def shuffled(arrays: Any, *, batch_size: int, seed: int = 0) -> Callable[[int], Any]:
    """The function `batch(step)` that goes through the examples in another order in every epoch.

    Every batch has `batch_size` examples: an epoch has `examples // batch_size` steps, and leaves out the few at the
    end of its order.

    Args:
      arrays: a pytree of arrays (memory-mapped ones too) with the same first axis, the examples.
      batch_size: examples in a step.
      seed: chooses the orders; the order of an epoch is a function of `(seed, epoch)`.

    Raises:
      ExperimentError: the arrays differ in their first axis, or have fewer examples than a batch.
    """
    chosen = epochs(_examples(arrays), batch_size, seed)

    def batch(step: int) -> Any:
        rows = chosen(step)
        return jax.tree.map(lambda array: array[rows], arrays)

    return batch


def _examples(arrays: Any) -> int:
    """The length of the first axis, which all arrays share."""
    shapes = [np.shape(array) for array in jax.tree.leaves(arrays)]
    if not shapes or () in shapes or len({shape[0] for shape in shapes}) > 1:
        raise ExperimentError(f"arrays must share their first axis, the examples, but their shapes are {shapes}.")
    return shapes[0][0]
