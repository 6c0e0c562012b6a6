"""Which parameters the optimizer changes at all: the others are frozen, and need no gradient.

Nothing has to be declared: an update that is zero whatever the gradient (`optax.set_to_zero`, `optax.multi_transform`
with it, a mask) is a zero in the traced update, or a product with one.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fnbackprop.jaxprs.primitives import Trait, has
from fnbackprop.jaxprs.types import Literal
from fnbackprop.jaxprs.views import Call

# Zero if their first operand is zero; if any is; if all are.
OF_THE_FIRST = frozenset(
    "abs broadcast_in_dim conj convert_element_type copy cumsum div imag integer_pow neg pad real reduce_precision "
    "reduce_sum reshape rev sharding_constraint sign slice sqrt square squeeze tanh transpose".split()
)
OF_ANY = frozenset(["mul", "dot_general"])
OF_ALL = frozenset("add add_any concatenate max min sub".split())


def zero_outputs(jaxpr: Any, zero_inputs: Sequence[bool] | None = None) -> list[bool]:
    """For each output of an open jaxpr, whether it is zero whatever the inputs are; some of those may be known zeros.

    A factor of zero makes a product zero: the other is taken to be finite.
    """
    known = {v for v, zero in zip(jaxpr.invars, zero_inputs or [False] * len(jaxpr.invars), strict=True) if zero}

    def is_zero(atom: Any) -> bool:
        return not np.any(atom.val) if isinstance(atom, Literal) else atom in known

    for equation in jaxpr.eqns:
        zeros = list(map(is_zero, equation.invars))
        known.update(v for v, zero in zip(equation.outvars, _zeros_of(equation, zeros), strict=True) if zero)
    return list(map(is_zero, jaxpr.outvars))


def _zeros_of(equation: Any, zeros: list[bool]) -> list[bool]:
    name = equation.primitive.name
    if has(equation, Trait.CALL):
        return zero_outputs(Call.of(equation).body.jaxpr, zeros)
    if name == "select_n":
        return [all(zeros[1:])]
    if name == "integer_pow" and equation.params["y"] <= 0:
        return [False]
    if name == "pad":
        return [all(zeros)]
    found = (name in OF_THE_FIRST and zeros[0]) or (name in OF_ANY and any(zeros)) or (name in OF_ALL and all(zeros))
    return [found] * len(equation.outvars)


def divide(params: Any, trainable: Sequence[bool] | None) -> tuple[Any, list[Any]]:
    """(the leaves that are trained, those that are frozen); the tree itself if all are trained."""
    if trainable is None or all(trainable):
        return params, []
    flagged = list(zip(jax.tree.leaves(params), trainable, strict=True))
    return [leaf for leaf, flag in flagged if flag], [leaf for leaf, flag in flagged if not flag]


def joined(trained: Any, frozen: Sequence[Any], like: Any, trainable: Sequence[bool] | None) -> Any:
    """The tree that was divided, with the structure of `like`."""
    if trainable is None or all(trainable):
        return trained
    parts = {True: iter(trained), False: iter(frozen)}
    return jax.tree.structure(like).unflatten(next(parts[flag]) for flag in trainable)


def trained_only(tree: Any, trainable: Sequence[bool] | None) -> Any:
    """The tree without its frozen leaves: None, which is no leaf, is in their place."""
    if trainable is None or all(trainable):
        return tree
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(leaf if flag else None for leaf, flag in zip(leaves, trainable, strict=True))
