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

from .step.state import initial_state

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
    return _along_the_longest_axis(P(*[None] * len(shape)), shape, mesh)


def tensor(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """`models.transformer` split over "model": heads and MLP features, and the vocabulary."""
    found = next((axes for pattern, axes in TENSOR.items() if trees.matches(path, pattern)), ())
    return P(*[None] * (len(shape) - len(found)), *found)


def fsdp_tensor(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """As tensor, and what that leaves whole also split over "data"."""
    return _along_the_longest_axis(tensor(path, shape, mesh), shape, mesh)


def _along_the_longest_axis(spec: P, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The spec with "data" at the longest of the axes that are still whole and that divide, if there is one."""
    whole = [i for i, entry in enumerate(spec) if entry is None and shape[i] and shape[i] % mesh.shape["data"] == 0]
    longest = max(whole, key=shape.__getitem__, default=None)
    return P(*("data" if i == longest else entry for i, entry in enumerate(spec)))


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
    "fsdp+tensor": Preset(fsdp_tensor, needs=("data", "model")),
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
      accumulate: into how many microbatches they are split first.
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


def make_layout(experiment: Experiment, mesh: Mesh) -> Layout:
    """The layout of a run on this mesh.

    Raises:
      ExperimentError: the rule names an axis that the mesh has not, or splits an axis that is not divisible; or nothing
        is split over an axis of the mesh, or a pattern is that of no parameter.
    """
    preset = preset_of(experiment.sharding, mesh)
    state = jax.eval_shape(lambda: initial_state(experiment))
    shapes = {path: np.shape(leaf) for path, leaf in trees.leaves_with_paths(state.params)}
    specs = {path: checked_spec(path, shape, preset.rule(path, shape, mesh), mesh) for path, shape in shapes.items()}
    batch_axis = "data" if preset.splits_batches and "data" in mesh.shape else None
    _require_use(experiment.sharding, mesh, specs, batch_axis)
    where = trees.map_with_paths(lambda path, leaf: NamedSharding(mesh, _spec(path, leaf, specs, shapes)), state)
    return Layout(mesh, where, batch_axis, experiment.accumulate)


def _require_use(sharding: Any, mesh: Mesh, specs: dict[str, P], batch_axis: str | None) -> None:
    """Raise ExperimentError for what was surely meant to do something and does not."""
    if sharding == "replicate":
        return
    for pattern in sharding if isinstance(sharding, Mapping) else ():
        if not any(trees.matches(path, pattern) for path in specs):
            raise ExperimentError(f"sharding: no parameter matches {pattern!r}; they are {', '.join(specs)}.")
    used = {name for spec in specs.values() for group in _names(spec) for name in group} | {batch_axis}
    for axis, size in mesh.shape.items():
        if axis not in used and size > 1:
            raise ExperimentError(
                f"nothing is split over {axis}={size} of the mesh {axes_of(mesh)} by sharding {sharding!r}, so its "
                "devices would all do the same."
            )


def _names(spec: P) -> list[tuple[str, ...]]:
    """The mesh axes over which each axis of an array is split."""
    return [entry if isinstance(entry, tuple) else (entry,) * (entry is not None) for entry in spec]


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
    for name in (name for group in _names(spec) for name in group):
        if name not in mesh.shape:
            raise ExperimentError(f"{where} names an axis {name!r}, but the mesh has {axes_of(mesh)}.")
    for axis, group in enumerate(_names(spec)):
        count = math.prod(mesh.shape[name] for name in group)
        if shape[axis] % count:
            raise ExperimentError(f"{where}: axis {axis} of {shape[axis]} cannot be split evenly over {count} devices.")
    return spec
