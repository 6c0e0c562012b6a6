"""The learning rate that an optimizer really uses, read from its traced update.

Nothing has to be declared: whatever the schedule and however it is hidden, the last thing that optax does with an
update is to multiply it by scalars, and minus their product is the rate: `-lr * direction`.
"""

from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fnbackprop.jaxprs.evaluate import environment, evaluate, read_array
from fnbackprop.jaxprs.graph import descendants, live, producers
from fnbackprop.jaxprs.types import Literal

PASSED_THROUGH = ("convert_element_type", "copy")


def learning_rate(closed: Any, arguments: Sequence[Any], updates: int) -> jax.Array | None:
    """The largest rate of all arrays that are updated, a float32 scalar; None if no update ends in such a product.

    Args:
      closed: the traced update, whose first results are the updates, and whose first arguments the gradient.
      arguments: its flat arguments.
      updates: how many of its results are updates; as many of its first arguments are the gradient.
    """
    jaxpr = closed.jaxpr
    made = producers(jaxpr.eqns)
    of_gradient = descendants(jaxpr.eqns, jaxpr.invars[:updates])
    chains = [_scalar_factors(made, atom, of_gradient) for atom in jaxpr.outvars[:updates]]
    factors = {tuple(map(id, chain)): chain for chain in chains if chain}
    if not factors:
        return None
    read = [atom for chain in factors.values() for atom in chain if not isinstance(atom, Literal)]
    env = environment(jaxpr, closed.consts, arguments)
    evaluate(live(jaxpr.eqns, read), env)
    rates = []
    for chain in factors.values():
        values = [jnp.real(read_array(env, atom)).astype(jnp.float32) for atom in chain]
        rates.append(-jnp.prod(jnp.stack(values)))
    return jnp.max(jnp.stack(rates))


def _scalar_factors(made: dict[Any, Any], atom: Any, of_gradient: Collection[Any]) -> list[Any]:
    """The scalars by which an array was last multiplied; of two scalars, the one that no gradient has gone into."""
    factors: list[Any] = []
    while not isinstance(atom, Literal) and (equation := made.get(atom)) is not None:
        operands = equation.invars
        if equation.primitive.name in PASSED_THROUGH:
            atom = operands[0]
            continue
        scalars = [i for i, operand in enumerate(operands) if operand.aval.shape == ()]
        if len(scalars) == 2:
            scalars = [i for i in scalars if isinstance(operands[i], Literal) or operands[i] not in of_gradient]
        if equation.primitive.name != "mul" or len(scalars) != 1:
            break
        factors.append(operands[scalars[0]])
        atom = operands[1 - scalars[0]]
    return factors
