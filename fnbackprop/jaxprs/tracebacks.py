"""Tracebacks as JAX shows them: from the user's call to the user's line, without the frames between them."""

from pathlib import Path

from jax._src import source_info_util, traceback_util

# The subpackages whose frames tell a user nothing. Models and losses are read as the user's own code is.
_HIDDEN = ("jaxprs", "backprop", "rules", "blocks", "comparing", "training", "running")

# Of a function that users call: hides those frames in an exception that leaves it, unless JAX_TRACEBACK_FILTERING=off.
hides_internal_frames = traceback_util.api_boundary

for _package in _HIDDEN:
    traceback_util.register_exclusion(str(Path(__file__).parents[1] / _package))

# An equation inside of a block stands where the user called the block.
source_info_util.register_exclusion(str(Path(__file__).parents[1] / "blocks"))
