"""The arrays of a state, on disk: by orbax-checkpoint, without pickle, so that reading them cannot run code."""

import functools
import logging
import re
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fnbackprop import trees
from fnbackprop.extras import needed_for

from ..errors import CheckpointError
from .checkpoint import STATE_FOLDER, Checkpoint


def stored_leaves(tree: Any) -> list[jax.Array]:
    """The arrays of a state as they are stored: keys as their data, and without those that have no element."""
    return [leaf for leaf in map(_as_data, jax.tree.leaves(tree)) if leaf.size]


def is_key(leaf: jax.Array) -> bool:
    """Whether an array is one of random keys."""
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_data(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def describe_leaves(tree: Any) -> dict[str, str]:
    """Path -> dtype and shape, like "float32[3,4]", of every leaf."""
    return {path: f"{x.dtype}[{','.join(map(str, x.shape))}]" for path, x in trees.leaves_with_paths(tree)}


def read_state(checkpoint: Checkpoint, like: Any) -> Any:
    """The state of a checkpoint with the structure, dtypes and shardings of `like`; its values are not used."""
    target = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding) for leaf in stored_leaves(like)]
    try:
        with orbax().StandardCheckpointer() as checkpointer:
            stored = iter(checkpointer.restore((checkpoint.folder / STATE_FOLDER).absolute(), target))
    except Exception as error:  # whatever orbax and the file system may raise
        raise CheckpointError(f"{checkpoint.folder} is whole, but cannot be read: {error}") from error

    def rebuilt(leaf: jax.Array) -> jax.Array:
        if not leaf.size:
            return leaf
        data = next(stored)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf)) if is_key(leaf) else data

    return jax.tree.map(rebuilt, like)


def read_leaves(checkpoint: Checkpoint, part: str) -> dict[str, np.ndarray]:
    """The arrays below one attribute of the state, "params" for instance, by their paths there; nothing else is read.

    Random keys are left out. Raises CheckpointError if they cannot be read.
    """
    leaves = checkpoint.info()["leaves"]
    stored = [path for path, kind in leaves.items() if "0" not in re.split(r"[\[,\]]", kind)]
    wanted = [path == part or path.startswith(f"{part}/") for path in stored]
    wanted = [one and not leaves[path].startswith("key<") for one, path in zip(wanted, stored, strict=True)]
    as_numpy, library = orbax().RestoreArgs(restore_type=np.ndarray), orbax()
    try:
        with library.PyTreeCheckpointer() as checkpointer:
            folder = (checkpoint.folder / STATE_FOLDER).absolute()
            kinds = checkpointer.metadata(folder).item_metadata.tree
            chosen = [kind if one else library.PLACEHOLDER for kind, one in zip(kinds, wanted, strict=True)]
            asked = library.args.PyTreeRestore(item=chosen, restore_args=[as_numpy] * len(chosen))
            arrays = checkpointer.restore(folder, args=asked)
    except Exception as error:  # whatever orbax and the file system may raise
        raise CheckpointError(f"{checkpoint.folder} is whole, but cannot be read: {error}") from error
    found = zip(stored, arrays, wanted, strict=True)
    return {path.removeprefix(part).removeprefix("/"): np.asarray(array) for path, array, one in found if one}


@functools.cache
def orbax() -> Any:
    """orbax.checkpoint, imported when first needed (it takes a second), without its log: its errors are reported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with needed_for("a checkpoint"):
            import orbax.checkpoint

    logging.getLogger("absl").addFilter(lambda record: "orbax" not in Path(record.pathname).parts)
    return orbax.checkpoint
