"""The model at the end of a run, as `runs/<name>/model.safetensors`, for whoever has not this package."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ..array_files import named_arrays, write_arrays
from ..errors import RunError
from ..run_folder import RunFolder
from ..step.state import TrainState
from .run_log import RunLog


def write_model(folder: RunFolder, state: TrainState, log: RunLog) -> None:
    """Write what `evaluate` is given. A dtype that the format does not have, or a full disk, is told."""
    arrays = named_arrays(state.averaged) | named_arrays({"model_state": state.averaged_model_state})
    own = {name: _on_host(leaf) for name, leaf in arrays.items() if not _is_key(leaf)}
    if jax.process_index() == 0:
        try:
            write_arrays(folder.model, own, {"name": folder.name, "step": str(int(state.step))})
        except RunError as error:
            log.say(str(error))


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _on_host(leaf: jax.Array) -> np.ndarray:
    """The whole array, of which several processes may have parts."""
    return np.asarray(leaf if leaf.is_fully_addressable else multihost_utils.process_allgather(leaf, tiled=True))
