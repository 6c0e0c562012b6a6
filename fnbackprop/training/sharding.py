"""Where parameters and batches lie on a mesh: a pure rule from a leaf's path and shape to its `PartitionSpec`.

Sources: S. Rajbhandari et al., ZeRO, 2020 (fsdp); M. Shoeybi et al., Megatron-LM, 2019 (tensor).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fnbackprop import trees
from fnbackprop.experiment import Experiment, ExperimentError

from .state import initial_state

Rule = Callable[[str, tuple[int, ...], Mesh], P]

# The first matrix of attention and of the MLP is split by columns, the second by rows, so that one sum over the devices
# ends each. An axis is counted from the last, since scanned layers have one more in front.
TENSOR = {
    "qkv/w": (None, "model"), "qkv/b": ("model",), "projection/w": ("model", None),
    "up/w": (None, "model"), "up/b": ("model",), "down/w": ("model", None),
    "token/w": ("model", None), "head/w": (None, "model"),
}  # fmt: skip


def replicate(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """Every device has all of it."""
    return P()


def fsdp(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """Split over "data" along the longest axis that divides; what has none (a small bias) is on every device."""
    size = mesh.shape["data"]
    longest = max((axis for axis in range(len(shape)) if shape[axis] % size == 0), key=shape.__getitem__, default=None)
    return P() if longest is None or not shape[longest] else P(*[None] * longest, "data")


def tensor(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """`models.transformer` split over "model": heads and MLP features, and the vocabulary."""
    found = next((axes for pattern, axes in TENSOR.items() if trees.matches(path, pattern)), ())
    return P(*[None] * (len(shape) - len(found)), *found)


@dataclass(frozen=True)
class Preset:
    """A rule for the parameters, the mesh axes that it needs, and whether batches are split over "data"."""

    rule: Rule
    needs: tuple[str, ...] = ()
    splits_batches: bool = True


PRESETS = {
    "replicate": Preset(replicate, splits_batches=False),
    "data": Preset(replicate),
    "fsdp": Preset(fsdp, needs=("data",)),
    "tensor": Preset(tensor, needs=("model",)),
}


def by_patterns(patterns: Mapping[str, P]) -> Rule:
    """The spec of the first pattern that a path `trees.matches`; without one, replicated."""

    def rule(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
        return next((spec for pattern, spec in patterns.items() if trees.matches(path, pattern)), P())

    return rule


def preset_of(setting: str | Mapping[str, P] | Rule, mesh: Mesh) -> Preset:
    """What `Experiment.sharding` says: a preset's name, patterns, or a rule.

    Raises:
      ExperimentError: there is no such preset, or the mesh lacks an axis that it needs.
    """
    if isinstance(setting, Mapping):
        return Preset(by_patterns(setting))
    if callable(setting):
        return Preset(setting)
    if setting not in PRESETS:
        raise ExperimentError(
            f"sharding must be one of {', '.join(PRESETS)}, a dict from path patterns to PartitionSpec, or a function "
            f"(path, shape, mesh) -> PartitionSpec, not {setting!r}."
        )
    for axis in PRESETS[setting].needs:
        if axis not in mesh.shape:
            raise ExperimentError(f"sharding {setting!r} needs a mesh axis {axis!r}, but the mesh has {axes_of(mesh)}.")
    return PRESETS[setting]


def axes_of(mesh: Mesh) -> str:
    return ",".join(f"{name}={size}" for name, size in mesh.shape.items())


# ---------------------------------------------------------------- a run's layout


@dataclass(frozen=True)
class Layout:
    """Where the state and the batches of a run lie.

    Attributes:
      mesh: the devices.
      state: a TrainState with a NamedSharding for every leaf.
      batch_axis: the mesh axis over which the examples of a batch are split; None for none.
    """

    mesh: Mesh
    state: Any
    batch_axis: str | None

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
        if shape and shape[0] % count:
            raise ExperimentError(
                f"the batch's {path or 'array'} has {shape[0]} examples, which the mesh {axes_of(self.mesh)} cannot "
                f"split evenly over {self.batch_axis}={count}."
            )
        sharding = NamedSharding(self.mesh, P(self.batch_axis)) if count > 1 else self.replicated
        if jax.process_count() == 1:
            return jax.device_put(leaf, sharding)
        array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf, jax.dtypes.result_type(leaf))
        return jax.make_array_from_callback(shape, sharding, lambda index: array[index])


def make_layout(experiment: Experiment, mesh: Mesh) -> Layout:
    """The layout of a run on this mesh.

    Raises:
      ExperimentError: the rule names an axis that the mesh has not, or splits an axis that is not divisible.
    """
    preset = preset_of(experiment.sharding, mesh)
    state = jax.eval_shape(lambda: initial_state(experiment))
    specs = {
        path: checked_spec(path, np.shape(leaf), preset.rule(path, np.shape(leaf), mesh), mesh)
        for path, leaf in trees.leaves_with_paths(state.params)
    }
    shapes = {path: np.shape(leaf) for path, leaf in trees.leaves_with_paths(state.params)}
    layout = trees.map_with_paths(lambda path, leaf: NamedSharding(mesh, _spec(path, leaf, specs, shapes)), state)
    return Layout(mesh, layout, "data" if preset.splits_batches and "data" in mesh.shape else None)


def _spec(path: str, leaf: Any, specs: dict[str, P], shapes: dict[str, tuple[int, ...]]) -> P:
    """A leaf of the state lies as the parameter with whose path its own ends, if it has its shape: Adam's moments do.

    Everything else (a count, a key, Adafactor's factors) is on every device.
    """
    parts = path.split("/")
    ends = ("/".join(parts[i:]) for i in range(1, len(parts) + 1))
    found = next((end for end in ends if end in specs), None)
    return specs[found] if found is not None and np.shape(leaf) == shapes[found] else P()


def checked_spec(path: str, shape: tuple[int, ...], spec: P, mesh: Mesh) -> P:
    """The spec of a parameter; raises ExperimentError, with the parameter's path, if it does not fit shape and mesh."""
    where = f"sharding of {path or 'the parameter'} {list(shape)}: {spec}"
    if not isinstance(spec, P):
        raise ExperimentError(f"{where} must be a jax.sharding.PartitionSpec.")
    if len(spec) > len(shape):
        raise ExperimentError(f"{where} is for {len(spec)} axes, but it has {len(shape)}.")
    names = [entry if isinstance(entry, tuple) else (entry,) * (entry is not None) for entry in spec]
    for name in (name for group in names for name in group):
        if name not in mesh.shape:
            raise ExperimentError(f"{where} names an axis {name!r}, but the mesh has {axes_of(mesh)}.")
    for axis, group in enumerate(names):
        count = math.prod(mesh.shape[name] for name in group)
        if shape[axis] % count:
            raise ExperimentError(f"{where}: axis {axis} of {shape[axis]} cannot be split evenly over {count} devices.")
    return spec
