"""How much arithmetic a step takes, and how much of what the device could do that is.

Model FLOPs are those of the matrix products and convolutions of the forward pass, and twice as many for the backward
pass, whatever the program recomputes; a multiplication and an addition are two. They are counted from the function
itself, because a compiler's account takes the body of a loop once however often it runs.

Source: A. Chowdhery et al., PaLM: Scaling Language Modeling with Pathways, 2022, appendix B (utilisation).
"""

import math
from collections.abc import Callable
from typing import Any

import jax

from fnbackprop.jaxprs.graph import inner_jaxprs

# Dense peaks in FLOP/s for bfloat16 products, by what `device_kind` contains. Source: the vendors' data sheets.
PEAKS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "V100": 125e12,  # float16
    "TPU v6 lite": 918e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v4": 275e12,
    "TPU v3": 123e12,
}


def peak_of(device_kind: str) -> float | None:
    """The dense bfloat16 peak of a device in FLOP/s; None where it is not known, as for CPUs."""
    return next((peak for name, peak in PEAKS.items() if name in device_kind), None)


def step_flops(loss: Callable, *args: Any) -> int:
    """The model FLOPs of one step: forward and backward of `loss(*args)`."""
    return 3 * forward_flops(loss, *args)


def forward_flops(fun: Callable, *args: Any) -> int:
    """The FLOPs of the products and convolutions in `fun(*args)`; of a `while_loop` without a known count, of one turn;
    of a `cond`, of its largest branch."""
    return _of_jaxpr(jax.make_jaxpr(fun)(*args).jaxpr)


def _of_jaxpr(jaxpr: Any) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * math.prod(equation.outvars[0].aval.shape) * _size(equation.invars[0], contracted)
    if name == "conv_general_dilated":
        kernel, spec = equation.invars[1].aval.shape, params["dimension_numbers"].rhs_spec
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // kernel[spec[0]]
    inner = [_of_jaxpr(getattr(closed, "jaxpr", closed)) for closed in inner_jaxprs(equation)]
    if name == "scan":
        return params["length"] * sum(inner)
    return max(inner, default=0) if name == "cond" else sum(inner)


def _size(operand: Any, axes: Any) -> int:
    return math.prod(operand.aval.shape[axis] for axis in axes)
