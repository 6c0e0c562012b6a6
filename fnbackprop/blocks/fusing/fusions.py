"""`fusions`: which blocks `fuse=True` would run in the place of a function's plain code."""

from collections.abc import Callable
from typing import Any

import jax

from ...jaxprs.evaluate import trace_flat
from .rewriting import Fusion, rewritten


def fusions(fun: Callable, *args: Any) -> list[Fusion]:
    """What looks like attention, or like a last layer with cross-entropy, and whether `fuse=True` runs the block there.

    The block computes the same to rounding, with one exception: a query that sees no key. If -inf hides them all, the
    plain code gives NaN and the block the mean of all values. If a causal mask and a bias whose low numbers the program
    does not show hide them together, the plain code weighs keys by both, and the block those that the mask leaves.

    Args:
        fun: as it would be given to `fb.grad`.
        args: its arguments; nothing is computed with them.
    Returns:
        A list of `Fusion`: `.block`, `.where` (the user's line), `.saves` (bytes: of the scores or logits that are then
        never whole in memory), `.taken` and, of a near miss, the `.reason`. As a string, each is a line.
    Raises:
        TypeError: the function needs values (`if x > 0`), and cannot be traced.
    Example:
        >>> import jax, jax.numpy as jnp, fnbackprop as fb
        >>> def attend(q, k, v):
        ...     return jax.nn.softmax(q @ k.T / 8.0) @ v
        >>> x = jnp.ones((256, 64))
        >>> [(fusion.block, fusion.saves, fusion.taken) for fusion in fb.fusions(attend, x, x, x)]
        [('attention', 524288, True)]
    """
    leaves, tree = jax.tree.flatten(args)
    closed = trace_flat(lambda *flat: fun(*tree.unflatten(flat)), leaves).closed
    return rewritten(closed)[1]
