"""How parameters are split over a mesh: pure rules from the path and shape of a leaf to its `PartitionSpec`.

Sources: S. Rajbhandari et al., ZeRO, 2020 (fsdp); M. Shoeybi et al., Megatron-LM, 2019 (tensor).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from fnbackprop import trees
from fnbackprop.experiment import ExperimentError
from fnbackprop.experiment_checks import check_sharding

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
    check_sharding(setting)
    for axis in PRESETS[setting].needs:
        if axis not in mesh.shape:
            raise ExperimentError(f"sharding {setting!r} needs a mesh axis {axis!r}, but the mesh has {axes_of(mesh)}.")
    return PRESETS[setting]


def axes_of(mesh: Mesh) -> str:
    return ",".join(f"{name}={size}" for name, size in mesh.shape.items())


def split_axes(spec: P) -> list[tuple[str, ...]]:
    """The mesh axes over which each axis of an array is split."""
    return [entry if isinstance(entry, tuple) else (entry,) * (entry is not None) for entry in spec]


def checked_spec(path: str, shape: tuple[int, ...], spec: P, mesh: Mesh) -> P:
    """The spec of a parameter; raises ExperimentError, with the parameter's path, if it does not fit shape and mesh."""
    where = f"sharding of {path or 'the parameter'} {list(shape)}: {spec}"
    if not isinstance(spec, P):
        raise ExperimentError(f"{where} must be a jax.sharding.PartitionSpec.")
    if len(spec) > len(shape):
        raise ExperimentError(f"{where} is for {len(spec)} axes, but it has {len(shape)}.")
    for name in (name for group in split_axes(spec) for name in group):
        if name not in mesh.shape:
            raise ExperimentError(f"{where} names an axis {name!r}, but the mesh has {axes_of(mesh)}.")
    for axis, group in enumerate(split_axes(spec)):
        count = math.prod(mesh.shape[name] for name in group)
        if shape[axis] % count:
            raise ExperimentError(f"{where}: axis {axis} of {shape[axis]} cannot be split evenly over {count} devices.")
    return spec
