"""The batch of a loss that was not finite, kept as `runs/<name>/nonfinite/step_00000011.npz` for a replay.

Each leaf is stored under its path; a dtype that NumPy does not have (bfloat16) as bits. No pickle.
"""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop import trees
from fnbackprop.experiment import Experiment

from ..data.streams import Stream
from ..errors import NonFiniteLoss
from ..run_folder import RunFolder


def keep_nonfinite_batch(experiment: Experiment, folder: RunFolder | None, error: BaseException | None) -> None:
    """If the run ended because its loss was not finite, look at the batch again: say so if it is itself not finite,
    keep it, and name its file in the error; of a run without a folder, name the command that finds the line."""
    if not isinstance(error, NonFiniteLoss) or jax.process_index() != 0:
        return
    again = f"\nTo find the line: fnbackprop trace FILE --after {error.step}" if folder is None else ""
    try:
        batch = batch_again(experiment, error.step)
        if broken := leaves_not_finite(batch):
            told = f"The batch of step {error.step} is itself not finite ({', '.join(broken)}): look at the data."
            error.args = (f"{error.facts} {told}",)
        if folder is not None:
            error.kept = write_batch(folder.nonfinite_batch(error.step), batch)
            kept = f"The batch of step {error.step} is kept in {error.kept}."
            again = f"\n{kept} To run that step again: fb.replay(experiment)"
    except Exception as failure:  # the first error is the one that matters
        again += f"\nThe batch of step {error.step} could not be kept: {failure}" if folder is not None else ""
    error.args = (f"{error}{again}",)


def batch_again(experiment: Experiment, step: int) -> Any:
    """The batch of a step that was taken before."""
    stream = experiment.batch if isinstance(experiment.batch, Stream) else None
    return experiment.batch(step) if stream is None else stream.again(step)


def leaves_not_finite(tree: Any) -> list[str]:
    """The paths of the leaves that hold a NaN or an infinity."""
    leaves = trees.leaves_with_paths(tree)
    floating = [(path, leaf) for path, leaf in leaves if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    return [path or "the array" for path, leaf in floating if not jnp.all(jnp.isfinite(leaf))]


def write_batch(path: Path, batch: Any) -> Path:
    """Write a batch as an npz file, whole or not at all; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    with open(unfinished, "wb") as file:
        np.savez(file, **{name or "batch": _as_stored(leaf) for name, leaf in trees.leaves_with_paths(batch)})
    os.replace(unfinished, path)
    return path


def read_batch(path: Path, like: Any) -> Any:
    """The batch in a file, with the structure and the dtypes of `like`.

    Raises:
      ValueError: the leaves of the file are not those of `like`.
    """
    with np.load(path, allow_pickle=False) as stored:
        names = {name or "batch" for name, _ in trees.leaves_with_paths(like)}
        if names != set(stored.files):
            raise ValueError(f"{path} holds {sorted(stored.files)}, but batch(step) has {sorted(names)}.")
        return trees.map_with_paths(lambda name, leaf: _as_was(stored[name or "batch"], leaf), like)


def _as_stored(leaf: Any) -> np.ndarray:
    if jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    return array if array.dtype.isbuiltin else array.view(f"u{array.dtype.itemsize}")


def _as_was(array: np.ndarray, like: Any) -> Any:
    dtype = jax.dtypes.result_type(like)
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(like))
    dtype = np.asarray(like).dtype
    return array if array.dtype == dtype else array.view(dtype)
