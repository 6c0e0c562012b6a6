"""Products of the loss's Hessian with a vector, by our own gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnbackprop import trees
from fnbackprop.backprop.transforms import grad

from .vectors import add, dot, norm, scale

Gradient = Callable[..., Any]
"""`gradient(params, *operands) -> gradient`, of a real loss; a complex leaf as the direction uphill."""

FORWARD_OVER_REVERSE = "forward over reverse"
REVERSE_OVER_REVERSE = "reverse over reverse"
DIFFERENCES = "differences of gradients"


def forward_over_reverse(gradient: Gradient, params: Any, vector: Any, *operands: Any) -> Any:
    """H v as the tangent of the gradient along v."""
    return jax.jvp(lambda p: gradient(p, *operands), (params,), (vector,))[1]


def reverse_over_reverse(gradient: Gradient, params: Any, vector: Any, *operands: Any) -> Any:
    """H' v as the gradient of <gradient, v>: equal to H v if the gradient is that of one function."""
    return trees.conjugate(grad(lambda p: dot(gradient(p, *operands), vector))(params))


def differences(gradient: Gradient, params: Any, vector: Any, *operands: Any) -> Any:
    """H v as the central difference of the gradient: for gradients that have no forward mode.

    The step is the cube root of the unit roundoff, relative to the parameters: truncation and rounding are then alike.
    """
    size = jnp.sqrt(dot(params, params) / max(sum(leaf.size for leaf in jax.tree.leaves(params)), 1))
    roundoff = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(params))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    length = norm(vector)
    step = roundoff ** (1 / 3) * (size + 1e-2) * count**0.5 / jnp.where(length == 0, 1, length)
    above, below = (gradient(add(params, vector, s), *operands) for s in (step, -step))
    return scale(add(above, below, -1.0), 0.5 / step)


PRODUCTS = {
    FORWARD_OVER_REVERSE: forward_over_reverse,
    REVERSE_OVER_REVERSE: reverse_over_reverse,
    DIFFERENCES: differences,
}


def choose_product(gradient: Gradient, params: Any, *operands: Any) -> tuple[str, str]:
    """(the name of the product to take, why not forward over reverse): differences where forward mode is refused."""
    try:
        jax.eval_shape(lambda p, *o: forward_over_reverse(gradient, p, p, *o), params, *operands)
    except (TypeError, NotImplementedError, ValueError) as error:
        return DIFFERENCES, str(error).splitlines()[0]
    return FORWARD_OVER_REVERSE, ""


def rayleigh_quotient(product: Callable[..., Any], vector: Any, *operands: Any) -> jax.Array:
    """v'Hv / v'v: the curvature along v."""
    return dot(vector, product(vector, *operands)) / dot(vector, vector)
