"""Calls that leave JAX, to a host function or a foreign kernel: there is nothing to walk.

Where no gradient flows through one it just runs, in the forward. (A debug print has no output, so none ever does: see
`nondifferentiable.py`.)
"""

from ..backprop.registry import outside

outside(
    "pure_callback", "io_callback", "ffi_call",
    reason="a host function or foreign kernel has no derivative that can be read off: give it one with jax.custom_vjp "
    "around the call, or declare that none flows with jax.lax.stop_gradient on its operands",
)  # fmt: skip
