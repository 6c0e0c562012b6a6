"""Assertions on gradients for any test suite: `fb.testing.assert_gradients_match(f, *args)`.

For who writes a `jax.custom_vjp`, a block or a kernel with its own backward, in this project or another:

    import fnbackprop as fb

    def test_my_layer_norm_gradient():
        x, scale = jax.random.normal(jax.random.key(0), (4, 8)), jnp.ones(8)
        fb.testing.assert_gradients_match(my_layer_norm, x, scale)

The hand-written backward is held, where it stands and on the operands that it meets there, against JAX's gradient of
the function that it belongs to, and against differences of that function. Tolerances follow from the dtypes and from
the rounding that the program itself shows; none is absolute, and none is to be chosen. Nothing needs to be scalar.
"""

from collections.abc import Callable, Sequence
from typing import Any

from fnbackprop.comparing.comparison import Comparison, GradientMismatch
from fnbackprop.comparing.pipeline import compare
from fnbackprop.comparing.weighted import differentiable, weighted

__all__ = ["GradientMismatch", "assert_gradients_match"]


def assert_gradients_match(
    fun: Callable, *args: Any, argnums: int | Sequence[int] | None = None, has_aux: bool = False, **settings: Any
) -> Comparison:
    """Assert that the gradient of `fun` at `args` is right: by hand, by JAX, and by differences of `fun`.

    Args:
      fun: a function of arrays, or pytrees of arrays, with any outputs. Outputs that are no real scalar are multiplied
        by fixed Gaussian numbers and added up (`comparing/weighted.py`).
      *args: its arguments; away from kinks, where a gradient is a convention and the verdict KINK.
      argnums: which arguments are differentiated; by default, all that have a floating leaf.
      has_aux: whether `fun` returns a pair of which the second is not differentiated.
      **settings: those of `fb.compare`, like `directions`, `float64` and `seed`.

    Returns:
      the Comparison, which has passed.

    Raises:
      GradientMismatch: an AssertionError whose message is the comparison's text: which leaf and which equation is off,
        where it stands, and the likely cause. A verdict that proves nothing, like NOISE-LIMITED, raises it as well.
      TypeError: nothing can be differentiated.

    Example:
      >>> import fnbackprop as fb, jax, jax.numpy as jnp
      >>> print(fb.testing.assert_gradients_match(jax.nn.gelu, jnp.array([0.5, -1.0]), progress=False).verdict)
      PASS
    """
    chosen = differentiable(args) if argnums is None else argnums
    return compare(weighted(fun, has_aux=has_aux), *args, argnums=chosen, has_aux=False, **settings).require()
