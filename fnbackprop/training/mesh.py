"""The devices of a run: a mesh with named axes, over one process or several."""

import math
import os
from collections.abc import Mapping

import jax
from jax.sharding import AxisType, Mesh

from fnbackprop.experiment import ExperimentError


def make_mesh(axes: str | Mapping[str, int] | Mesh) -> Mesh:
    """The mesh of "data=4,model=2", of `{"data": 4, "model": 2}`, or the mesh itself.

    One axis may have the size -1: all remaining devices. With several processes, all their devices are used.

    Raises:
      ExperimentError: the text cannot be parsed, or there are fewer devices.
    """
    if isinstance(axes, Mesh):
        return axes
    sizes = parse_axes(axes) if isinstance(axes, str) else dict(axes)
    written = ",".join(f"{name}={size}" for name, size in sizes.items())
    available = jax.device_count()
    known = math.prod(size for size in sizes.values() if size != -1)
    if list(sizes.values()).count(-1) == 1:
        if available % known:
            raise ExperimentError(f"mesh {written}: {available} devices cannot be shared evenly by {known}.")
        sizes = {name: available // known if size == -1 else size for name, size in sizes.items()}
    wanted = math.prod(sizes.values())
    if wanted > available:
        kind = jax.devices()[0].platform
        raise ExperimentError(
            f"mesh {written} needs {wanted} devices, but there are {available} ({kind}).{_more(kind)}"
        )
    if wanted < available and jax.process_count() > 1:
        raise ExperimentError(
            f"mesh {written} uses {wanted} of the {available} devices of {jax.process_count()} processes: use them all."
        )
    types = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), types, devices=jax.devices()[:wanted])


def parse_axes(text: str) -> dict[str, int]:
    """The axes of a mesh, in order.

    >>> parse_axes("data=4,model=2")
    {'data': 4, 'model': 2}
    """
    axes: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = (piece.strip() for piece in part.partition("="))
        valid = name.isidentifier() and size.lstrip("-").isdecimal() and (int(size) > 0 or int(size) == -1)
        if not valid or name in axes or (size == "-1" and -1 in axes.values()):
            raise ExperimentError(
                f"a mesh is a list of axes and their sizes such as data=4,model=2 (one size may be -1: the rest), not "
                f"{text!r}: see {part!r}."
            )
        axes[name] = int(size)
    return axes


def _more(kind: str) -> str:
    hint = " A CPU counts as several under XLA_FLAGS=--xla_force_host_platform_device_count=8."
    return hint if kind == "cpu" else ""


def join_processes(wanted: bool) -> None:
    """Join the other processes of the run, if asked to or if the environment says so; before any device is used.

    JAX finds them by itself under Slurm, Open MPI, Kubernetes and on TPU pods. Elsewhere, it needs three variables:
    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Raises:
      ExperimentError: the processes could not be found or joined.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if not (wanted or address) or jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(num_processes=_number("JAX_NUM_PROCESSES"), process_id=_number("JAX_PROCESS_ID"))
    except (ValueError, RuntimeError) as error:
        raise ExperimentError(
            f"the processes of this run could not be joined: {error} Where JAX does not find them by itself, set "
            "JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES and JAX_PROCESS_ID; and use no array of JAX before."
        ) from error


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if text is None:
        return None
    if not text.isdecimal():
        raise ExperimentError(f"the environment variable {variable} must be a number, not {text!r}.")
    return int(text)


def leads() -> bool:
    """Whether this is process 0, the one that prints and writes the metrics."""
    return jax.process_index() == 0
