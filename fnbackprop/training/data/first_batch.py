"""What is looked at before the first step: whether `batch` is a function of the step, and what it gives."""

import hashlib
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop import trees
from fnbackprop.experiment import ExperimentError

from .streams import Stream

Fingerprint = dict[str, Any]
"""A batch as JSON: "step", "leaves" (path -> dtype and shape) and, of a function of the step, "sha256" of its bytes."""


def fingerprint(batch: Callable[[int], Any], step: int) -> Fingerprint:
    """The fingerprint of `batch(step)`; of a stream, which would have to draw it again, the types alone."""
    return _fingerprint(batch, step, batch(step))


def _fingerprint(batch: Callable[[int], Any], step: int, found: Any) -> Fingerprint:
    require_arrays(found, step)
    leaves = {path: _type(leaf) for path, leaf in trees.leaves_with_paths(found)}
    if isinstance(batch, Stream):
        return {"step": None, "leaves": leaves}
    hashes = {path: hashlib.sha256(_bytes(leaf)).hexdigest() for path, leaf in trees.leaves_with_paths(found)}
    return {"step": step, "leaves": leaves, "sha256": hashes}


class FirstBatch(NamedTuple):
    """The fingerprint of a run's first batch, the batch, and the seconds that it takes to make one.

    They are infinite of a stream, whose next batch may take any time.
    """

    fingerprint: Fingerprint
    batch: Any
    seconds: float


def first_batch(batch: Callable[[int], Any], step: int) -> FirstBatch:
    """What is known of a run's first batch, which is made twice.

    Raises:
      ExperimentError: the two differ; or a leaf is no array.
    """
    first = batch(step)
    began = time.perf_counter()
    second = batch(step)  # of the first, a part may have been compiled
    seconds = math.inf if isinstance(batch, Stream) else time.perf_counter() - began
    once, again = (_fingerprint(batch, step, made) for made in (first, second))
    differing = differences(once, again)
    if differing:
        raise ExperimentError(
            f"batch({step}) is not a function of the step: called twice, it gave two batches that differ in "
            f"{', '.join(differing)}. Draw from np.random.default_rng((seed, step)), not from a generator that goes "
            "on; wrap an iterator in fnbackprop.training.data.from_iterator."
        )
    return FirstBatch(once, first, seconds)


def differences(one: Fingerprint, other: Fingerprint) -> dict[str, str]:
    """The leaves in which two fingerprints differ, and how."""
    found = {}
    for path in {**one["leaves"], **other["leaves"]}:
        types = [fingerprint["leaves"].get(path, "absent") for fingerprint in (one, other)]
        hashes = [fingerprint.get("sha256", {}).get(path) for fingerprint in (one, other)]
        if types[0] != types[1]:
            found[path or "the array"] = f"{types[0]} there, {types[1]} now"
        elif None not in hashes and hashes[0] != hashes[1]:
            found[path or "the array"] = f"{types[0]} with other numbers than there"
    return found


def require_arrays(batch: Any, step: int) -> None:
    """Raises ExperimentError for a list of numbers, or for a leaf that is neither an array nor a number."""
    for keys, leaf in jax.tree_util.tree_leaves_with_path(batch, is_leaf=_is_list_of_numbers):
        where = f"batch({step})" + (f": {trees.leaf_path(keys)}" if keys else "")
        if isinstance(leaf, list):
            raise ExperimentError(
                f"{where} is a list of {len(leaf)} numbers, and each would be an array of its own: make it one array, "
                "np.array(...)."
            )
        try:
            jax.dtypes.result_type(leaf)
            if not hasattr(leaf, "dtype"):
                np.asarray(leaf).astype(np.float32)
        except (TypeError, ValueError):
            what = f"an array of {leaf.dtype}" if hasattr(leaf, "dtype") else f"{leaf!r}, a {type(leaf).__name__}"
            raise ExperimentError(
                f"{where} is {what}: a batch holds arrays and numbers. Encode it as numbers, or leave it out."
            ) from None


def _is_list_of_numbers(tree: Any) -> bool:
    return isinstance(tree, list) and bool(tree) and all(isinstance(item, (int, float, list)) for item in tree)


def _type(leaf: Any) -> str:
    return f"{jax.dtypes.result_type(leaf)}[{','.join(map(str, np.shape(leaf)))}]"


def _bytes(leaf: Any) -> bytes:
    if jnp.issubdtype(jax.dtypes.result_type(leaf), jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.ascontiguousarray(leaf).tobytes()
