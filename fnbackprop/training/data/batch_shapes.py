"""The shapes that batches may have: one, or some few buckets, for each of which the step is compiled."""

from typing import Any

import jax
import numpy as np

from fnbackprop.experiment import ExperimentError


class BatchShapes:
    """Looks at the shapes of each batch.

    Args:
      most: how many different ones there may be.
    """

    def __init__(self, most: int = 1):
        self._most, self._seen, self._last = most, [], None

    def look(self, batch: Any, step: int) -> str | None:
        """A line that names the shapes if they are new and not the first: the step is then compiled again.

        Raises:
          ExperimentError: there are more than there may be.
        """
        leaves, structure = jax.tree.flatten(batch)
        last, self._last = self._last, (structure, [_quick_type(leaf) for leaf in leaves])
        if last == self._last:
            return None
        found = jax.tree.map(jax.typeof, batch)
        if found in self._seen:
            return None
        first = not self._seen
        if len(self._seen) == self._most:
            before = "the first batch had" if self._most == 1 else f"there were {self._most} before:"
            raise ExperimentError(
                f"batch({step}) has the shapes {_in_words(found)}, but {before} "
                f"{' and '.join(map(_in_words, self._seen))}. The step is compiled for each: pad or leave out a batch "
                f"that is shorter; or allow buckets, Experiment(batch_shapes={self._most + 1})."
            )
        self._seen.append(found)
        return None if first else f"step {step}: compiling for batches of {_in_words(found)}"


def _quick_type(leaf: Any) -> Any:
    """What tells a leaf from those of other types: `jax.typeof` of Numpy's arrays takes longer than all the rest."""
    return (leaf.shape, leaf.dtype) if type(leaf) is np.ndarray else jax.typeof(leaf)


def _in_words(types: Any) -> str:
    return str(jax.tree.map(lambda aval: (aval.shape, str(aval.dtype)), types))
