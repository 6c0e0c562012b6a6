"""The results of one equation, summed over the steps of a loop, from the stacks of its operands (time first).

Each sum is again one equation: time joins what the equation contracts, or scatters over. Sums of narrow floats are
taken in float32.
"""

from collections.abc import Callable
from typing import Any

from jax import lax

from ...jaxprs.avals import zeros_like_aval
from ...jaxprs.primitives import Trait, has
from ...jaxprs.sizes import size_of
from ...jaxprs.types import is_var
from ..precision import wide, wide_dtype


def summed(equation: Any, stacks: list[Any]) -> Any:
    """Σ over time of the equation's output; `stacks`: its operands (of a scatter-add: the indices and updates)."""
    return _SUMS[equation.primitive.name](equation, *stacks)


def _dot_general(equation: Any, lhs: Any, rhs: Any) -> Any:
    """Σ A_t·B_t: time is one more contracted axis."""
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = equation.params["dimension_numbers"]
    numbers = (
        ((0, *(d + 1 for d in lhs_contract)), (0, *(d + 1 for d in rhs_contract))),
        (tuple(d + 1 for d in lhs_batch), tuple(d + 1 for d in rhs_batch)),
    )
    dtype = wide_dtype(equation.outvars[0].aval.dtype)
    return lax.dot_general(
        lhs,
        rhs,
        numbers,
        precision=equation.params["precision"],
        preferred_element_type=dtype,
        out_sharding=equation.params["out_sharding"],
    )


def _conv_general_dilated(equation: Any, lhs: Any, rhs: Any) -> Any:
    """A convolution is a sum over input features: time becomes the minor part of that axis, within each group."""
    params = dict(equation.params)
    spec, groups = params["dimension_numbers"], params["feature_group_count"]
    lhs = _joined(wide(lhs), spec.lhs_spec[1], groups)
    rhs = _joined(wide(rhs), spec.rhs_spec[1], 1)
    names = "window_strides padding lhs_dilation rhs_dilation dimension_numbers precision".split()
    return lax.conv_general_dilated(
        lhs,
        rhs,
        feature_group_count=groups,
        batch_group_count=params["batch_group_count"],
        preferred_element_type=wide_dtype(equation.outvars[0].aval.dtype),
        **{name: params[name] for name in names},
    )


def _joined(stack: Any, axis: int, groups: int) -> Any:
    """Time, the first axis of a stack, as the minor part of each group's share of `axis` (counted without time)."""
    shape = stack.shape[1:]
    own = shape[axis] // groups
    split = lax.reshape(stack, (stack.shape[0], *shape[:axis], groups, own, *shape[axis + 1 :]))
    order = [*range(1, split.ndim)]
    order.insert(axis + 2, 0)
    joined = (*shape[:axis], shape[axis] * stack.shape[0], *shape[axis + 1 :])
    return lax.reshape(lax.transpose(split, order), joined)


def _scatter_add(equation: Any, indices: Any, updates: Any) -> Any:
    """Into zeros: the windows of all steps are written by one scatter, time being one more axis of windows."""
    params, aval = equation.params, equation.outvars[0].aval
    numbers = params["dimension_numbers"]
    moved = {
        name: tuple(d + 1 for d in getattr(numbers, name))
        for name in ("update_window_dims", "scatter_indices_batching_dims")
    }
    zeros = zeros_like_aval(aval.update(dtype=wide_dtype(aval.dtype)))
    return lax.scatter_add(zeros, indices, wide(updates), numbers._replace(**moved), mode=params["mode"])


def _mul(equation: Any, x: Any, y: Any) -> Any:
    """Σ x_t·y_t, element by element."""
    return lax.reduce_sum(lax.mul(wide(x), wide(y)), axes=(0,))


_SUMS: dict[str, Callable] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _conv_general_dilated,
    "scatter-add": _scatter_add,
    "mul": _mul,
}


def contracted(equation: Any) -> int:
    """How many products each element of the result is the sum of."""
    name = equation.primitive.name
    if name == "dot_general":
        lhs = equation.invars[0].aval.shape
        return size_of(lhs[a] for a in equation.params["dimension_numbers"][0][0])
    if name == "conv_general_dilated":
        kernel, spec = equation.invars[1].aval.shape, equation.params["dimension_numbers"].rhs_spec
        return size_of(kernel[a] for a in spec[1:])
    return 1


def operands(equation: Any) -> list[Any]:
    """The operands of which stacks are needed."""
    return list(equation.invars[1:] if equation.primitive.name == "scatter-add" else equation.invars)


def is_sum(equation: Any, producers: dict[Any, Any]) -> bool:
    """Whether this file can sum the equation: a scatter-add must go into zeros, a product be of equal shapes."""
    if not has(equation, Trait.SUMMED_OVER_TIME) or not all(map(is_var, operands(equation))):
        return False
    name = equation.primitive.name
    if name == "mul":
        return all(v.aval.shape == equation.outvars[0].aval.shape for v in equation.invars)
    return name != "scatter-add" or _is_zero(equation.invars[0], producers)


def _is_zero(atom: Any, producers: dict[Any, Any]) -> bool:
    while is_var(atom):
        equation = producers.get(atom)
        if equation is None or equation.primitive.name not in ("broadcast_in_dim", "convert_element_type", "pvary"):
            return False
        atom = equation.invars[0]
    return not atom.val.any() if hasattr(atom.val, "any") else atom.val == 0
