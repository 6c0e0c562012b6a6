"""Where the branches of a cond put the values that they save: in slots that all branches share.

Every branch of a cond must return arrays of the same types. So there are as many slots of each type as the branch that
saves most of it needs; a branch fills the slots that it does not need with zeros.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax import lax

from ...jaxprs.avals import zeros_like_aval
from ...jaxprs.types import Aval

Slot = tuple[Aval, tuple[int, ...]]  # the aval of a saved value, and its leading axes as a stack


class SharedSlots(NamedTuple):
    """slots: of all branches together. places: for each branch, the slot of each of its values."""

    slots: tuple[Slot, ...]
    places: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, branches: Sequence[Sequence[Slot]]) -> "SharedSlots":
        """branches: what each branch saves."""
        slots: list[Slot] = []
        for wanted in branches:
            for slot in dict.fromkeys(wanted):
                slots += [slot] * (wanted.count(slot) - slots.count(slot))
        return cls(tuple(slots), tuple(_first_free(slots, wanted) for wanted in branches))

    def fill(self, branch: int, values: Sequence[Any]) -> list[Any]:
        """What the branch returns: its values in their slots, zeros in the others."""
        given = dict(zip(self.places[branch], values, strict=True))
        filled = [given[i] if i in given else zeros_like_aval(*slot) for i, slot in enumerate(self.slots)]
        return [lax.convert_element_type(x, x.dtype) for x in filled]  # not of weak types: all branches return the same

    def own(self, branch: int, filled: Sequence[Any]) -> list[Any]:
        """The branch's values among those in the slots."""
        return [filled[i] for i in self.places[branch]]


def _first_free(slots: Sequence[Slot], wanted: Sequence[Slot]) -> tuple[int, ...]:
    """For each wanted slot the first that is equal and not yet taken."""
    taken: list[int] = []
    for slot in wanted:
        taken.append(next(i for i, other in enumerate(slots) if other == slot and i not in taken))
    return tuple(taken)
