"""The residuals of a pullback in two lists: arguments of the function themselves, and all others.

A caller may take an argument out between the forward and the backward (`pullback.args_res[1] = None`), and put it, or
an equal value gathered anew, in again. So sharded parameters need not be kept whole.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from ..jaxprs.avals import as_jax_array
from ..jaxprs.compat import NotNeeded


class Slots(NamedTuple):
    """Where each residual lies: in the list of the arguments' leaves, followed by the list of the others."""

    residual_tree: Any
    positions: tuple[int, ...]
    args_tree: Any

    def join(self, args_res: Sequence[Any], opaque: Sequence[Any]) -> Any:
        """The residuals as the backward reads them."""
        arguments = jax.tree.leaves(tuple(args_res), is_leaf=_is_not_needed)
        if len(arguments) != self.args_tree.num_leaves:
            raise ValueError(
                f"args_res of the pullback has {len(arguments)} leaves, but the arguments have "
                f"{self.args_tree.num_leaves}: put back what was taken out before you call the pullback."
            )
        values = [*arguments, *opaque]
        return self.residual_tree.unflatten([as_jax_array(values[i]) for i in self.positions])


def split_residuals(residuals: Any, leaves: Sequence[Any], args_tree: Any) -> tuple[list[Any], list[Any], Slots]:
    """(`args_res`, `opaque_residuals`, their slots), for arguments with these leaves.

    `args_res` has the trees of the arguments, with `NotNeeded()` for each leaf that is no residual.
    """
    saved, residual_tree = jax.tree.flatten(residuals)
    slots = {id(x): i for i, x in reversed(list(enumerate(leaves)))}
    opaque, positions = [], []
    for x in saved:
        if id(x) not in slots:
            slots[id(x)] = len(leaves) + len(opaque)
            opaque.append(x)
        positions.append(slots[id(x)])
    used = set(positions)
    arguments = args_tree.unflatten([x if i in used else NotNeeded() for i, x in enumerate(leaves)])
    return list(arguments), opaque, Slots(residual_tree, tuple(positions), args_tree)


def _is_not_needed(x: Any) -> bool:
    return isinstance(x, NotNeeded)
