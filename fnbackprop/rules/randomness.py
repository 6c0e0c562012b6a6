"""Random numbers as functions of the parameters of their distribution. `dx` is the cotangent of `x`.

Keys and bits have no derivative (`nondifferentiable.py`); `random_gamma`'s is in `incomplete.py`. The other
distributions of `jax.random` are made of these and of ordinary arithmetic.
"""

from jax import lax

from ..backprop.registry import vjp_rule


@vjp_rule("rng_uniform", "a, b -> y")
def rng_uniform_vjp(dy, a, b, y):
    """y = a + (b - a)·u with u drawn from [0, 1): ∂y/∂a = 1 - u, ∂y/∂b = u = (y - a)/(b - a)."""
    width = lax.sub(b, a)
    return lax.mul(dy, lax.div(lax.sub(b, y), width)), lax.mul(dy, lax.div(lax.sub(y, a), width))
