"""Named arrays in files: safetensors, and NumPy's npz. Neither can run code when it is read."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fnbackprop import trees
from fnbackprop.extras import MissingExtra, needed_for

from .errors import RunError

WHOLE = "params"  # the name of a tree that is one array, whose path is empty
SUFFIXES = (".safetensors", ".npz")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by their names. Dots, as PyTorch names have them, become "/" if no name has one.

    Raises:
      RunError: the file is not there, cannot be read, or is of another kind.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                arrays = dict(stored)
        else:
            with needed_for("a safetensors file"):
                from safetensors.numpy import load_file

            arrays = load_file(path)
    except MissingExtra:
        raise
    except Exception as error:  # safetensors and zipfile have errors of their own
        raise RunError(f"{path} cannot be read: {str(error) or type(error).__name__}.") from None
    dotted = not any("/" in name for name in arrays)
    return {name.replace(".", "/") if dotted else name: array for name, array in arrays.items()}


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, str] | None = None) -> Path:
    """Write arrays, whole or not at all; `about` is kept in a safetensors file. Returns the path.

    Raises:
      RunError: the file cannot be written, or its name ends in something else.
    """
    if path.suffix not in SUFFIXES:
        raise RunError(f"{path} must end in {' or '.join(SUFFIXES)}.")
    unfinished = path.with_name(path.name + ".tmp")
    own = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in arrays.items()}
    try:
        if path.suffix == ".npz":
            with open(unfinished, "wb") as file:
                np.savez(file, **own)
        else:
            with needed_for("a safetensors file"):
                from safetensors.numpy import save_file

            save_file(own, unfinished, metadata=dict(about or {}))
        os.replace(unfinished, path)
    except MissingExtra:
        raise
    except Exception as error:
        unfinished.unlink(missing_ok=True)
        raise RunError(f"{path} cannot be written: {str(error) or type(error).__name__}.") from None
    return path


def named_arrays(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths."""
    return {path or WHOLE: leaf for path, leaf in trees.leaves_with_paths(tree)}
