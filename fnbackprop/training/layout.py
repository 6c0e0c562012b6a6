"""Where the state and the batches of a run are placed on a mesh."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fnbackprop import trees
from fnbackprop.experiment import Experiment, ExperimentError

from .sharding_rules import axes_of, checked_spec, preset_of, split_axes


@dataclass(frozen=True)
class Layout:
    """Where the state and the batches of a run are placed.

    Attributes:
      mesh: the devices.
      state: a TrainState with a NamedSharding for every leaf.
      batch_axis: the mesh axis over which the examples of a batch are split; None if they are not.
      accumulate: the number of microbatches that a batch is split into first.
    """

    mesh: Mesh
    state: Any
    batch_axis: str | None
    accumulate: int = 1

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, P())

    def place(self, batch: Any) -> Any:
        """The batch on the devices, its first axis split over the batch axis; each process puts its own part there.

        Raises:
          ExperimentError: the number of examples is not divisible.
        """
        return trees.map_with_paths(self._place, batch)

    def _place(self, path: str, leaf: Any) -> jax.Array:
        shape = np.shape(leaf)
        count = self.mesh.shape[self.batch_axis] if self.batch_axis and shape else 1
        if shape and shape[0] % (count * self.accumulate):
            micro = f" in {self.accumulate} microbatches" if self.accumulate > 1 else ""
            raise ExperimentError(
                f"the batch's {path or 'array'} has {shape[0]} examples, which cannot be split evenly{micro} over "
                f"{self.batch_axis}={count} of the mesh {axes_of(self.mesh)}."
            )
        sharding = NamedSharding(self.mesh, P(self.batch_axis)) if count > 1 else self.replicated
        if jax.process_count() == 1:
            return jax.device_put(leaf, sharding)
        array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf, jax.dtypes.result_type(leaf))
        return jax.make_array_from_callback(shape, sharding, lambda index: array[index])


def make_layout(experiment: Experiment, mesh: Mesh, state: Any) -> Layout:
    """The layout of a run on this mesh.

    Args:
      experiment: its `sharding` says how the parameters are split.
      mesh: the devices.
      state: a TrainState of arrays or of their shapes.

    Raises:
      ExperimentError: the rule names an axis that the mesh does not have, or splits an axis that is not divisible; or
        nothing is split over an axis of the mesh, or a pattern matches no parameter.
    """
    preset = preset_of(experiment.sharding, mesh)
    shapes = {path: np.shape(leaf) for path, leaf in trees.leaves_with_paths(state.params)}
    specs = {path: checked_spec(path, shape, preset.rule(path, shape, mesh), mesh) for path, shape in shapes.items()}
    batch_axis = "data" if preset.splits_batches and "data" in mesh.shape else None
    _require_use(experiment.sharding, mesh, specs, batch_axis)
    where = trees.map_with_paths(lambda path, leaf: NamedSharding(mesh, _spec(path, leaf, specs, shapes)), state)
    return Layout(mesh, where, batch_axis, experiment.accumulate)


def _require_use(sharding: Any, mesh: Mesh, specs: dict[str, P], batch_axis: str | None) -> None:
    """Raise ExperimentError for a pattern or a mesh axis without effect: a mistake, surely."""
    if sharding == "replicate":
        return
    for pattern in sharding if isinstance(sharding, Mapping) else ():
        if not any(trees.matches(path, pattern) for path in specs):
            raise ExperimentError(f"sharding: no parameter matches {pattern!r}; they are {', '.join(specs)}.")
    used = {name for spec in specs.values() for group in split_axes(spec) for name in group} | {batch_axis}
    for axis, size in mesh.shape.items():
        if axis not in used and size > 1:
            raise ExperimentError(
                f"nothing is split over {axis}={size} of the mesh {axes_of(mesh)} by sharding {sharding!r}, so its "
                "devices would all do the same."
            )


def _spec(path: str, leaf: Any, specs: dict[str, P], shapes: dict[str, tuple[int, ...]]) -> P:
    """A leaf of the state is split like the parameter whose path ends its own, if it has its shape: as Adam's moments.

    Everything else (a count, a key, Adafactor's factors) is replicated.
    """
    parts = path.split("/")
    ends = ("/".join(parts[i:]) for i in range(1, len(parts) + 1))
    found = next((end for end in ends if end in specs), None)
    return specs[found] if found is not None and np.shape(leaf) == shapes[found] else P()
