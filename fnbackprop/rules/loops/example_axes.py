"""Where the axes that count the examples of a batched loop go, equation by equation.

Of a value that depends on the carries of the examples, `Axes` are the positions of these axes, if each of its rows
depends on the carry of its own example alone; `MIXED` stands for one that combines the examples, or that is not known
not to. A value that depends on no carry has None. An equation that is not described here mixes.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from ...jaxprs.lists import split
from ...jaxprs.primitives import Trait, has, having
from ...jaxprs.types import Equation, close_jaxpr, is_var
from ...jaxprs.views import Call, Cond, Scan, While

Axes = tuple[int, ...]
MIXED: Axes = ()


def follow(closed: Any, axes: Sequence[Axes | None]) -> list[Axes | None]:
    """The axes of a jaxpr's outputs, from those of its operands."""
    known = {var: found for var, found in zip(closed.jaxpr.invars, axes, strict=True) if found is not None}

    def read(atoms):
        return [known.get(atom) if is_var(atom) else None for atom in atoms]

    for equation in closed.jaxpr.eqns:
        operands = read(equation.invars)
        if any(found is not None for found in operands):
            outputs = zip(equation.outvars, _through(equation, operands), strict=True)
            known.update((var, found) for var, found in outputs if found is not None)
    return read(closed.jaxpr.outvars)


def axes_after(equation: Equation, position: int, axes: Axes) -> Axes:
    """The axes of an equation's results, from those of one operand."""
    before = equation.invars[position].aval
    follows = _FOLLOWS.get(equation.primitive.name, _same if has(equation, Trait.ELEMENTWISE) else _unknown)
    after = tuple(follows(equation, position, axis) for axis in axes)
    for var in equation.outvars:
        shape = getattr(var.aval, "shape", ())
        pairs = zip(axes, after, strict=True)
        if any(b is None or b >= len(shape) or shape[b] != before.shape[a] for a, b in pairs):
            return MIXED
    return after


def _through(equation: Equation, operands: list[Axes | None]) -> Sequence[Axes | None]:
    name, count = equation.primitive.name, len(equation.outvars)
    if name in _HOLDING:
        return _HOLDING[name](equation, operands)
    found = _join(axes_after(equation, i, axes) for i, axes in enumerate(operands) if axes is not None)
    return [found] * count


def _join(found: Any) -> Axes | None:
    """The axes of a value to which each of these applies."""
    different = set(found) - {None}
    return None if not different else different.pop() if len(different) == 1 else MIXED


# ---------------------------------------------------------------- equations that hold jaxprs


def _call(equation, operands):
    return follow(Call.of(equation).body, operands)


def _cond(equation, operands):
    index, operands = Cond.of(equation).split(operands)
    outputs = [follow(branch, operands) for branch in Cond.of(equation).branches]
    return [_join((index, *found)) for found in zip(*outputs, strict=True)]


def _while(equation, operands):
    loop = While.of(equation)
    condition_consts, consts, carry = loop.split(operands)
    carry = _of_any_step(lambda carry: follow(loop.body, [*consts, *carry]), carry)
    (steps,) = follow(loop.condition, [*condition_consts, *carry])
    return [MIXED] * len(carry) if steps == MIXED else carry


def _scan(equation, operands):
    loop = Scan.of(equation)
    consts, carry, xs = loop.split(operands)
    rows = [axes and tuple(a - 1 for a in axes if a > 0) for axes in xs]
    rows = [row if row is None or len(row) == len(axes) else MIXED for row, axes in zip(rows, xs, strict=True)]
    carry = _of_any_step(lambda carry: split(follow(loop.body, [*consts, *carry, *rows]), len(carry))[0], carry)
    _, ys = split(follow(loop.body, [*consts, *carry, *rows]), len(carry))
    return [*carry, *(axes and tuple(a + 1 for a in axes) for axes in ys)]


def _of_any_step(step: Callable, carry: list[Axes | None]) -> list[Axes | None]:
    """The axes of a loop's carry after any number of steps."""
    while True:
        grown = [_join(both) for both in zip(carry, step(carry), strict=True)]
        if grown == carry:
            return carry
        carry = grown


def _linear_solve(equation, operands):
    """What the user's own solver does."""
    lengths, solve = equation.params["const_lengths"], equation.params["jaxprs"].solve
    _, _, consts, _, b = split(operands, lengths.matvec, lengths.vecmat, lengths.solve, lengths.transpose_solve)
    return follow(close_jaxpr(solve), [*consts, *b])


_HOLDING: dict[str, Callable] = {
    **dict.fromkeys(having(Trait.CALL, Trait.CUSTOM_RULE), _call),
    "cond": _cond,
    "while": _while,
    "scan": _scan,
    "custom_linear_solve": _linear_solve,
}


# ---------------------------------------------------------------- one axis of one operand; None: it does not remain


def _unknown(equation, position, axis):
    return None


def _same(equation, position, axis):
    """Operands of one shape, as the result; a scalar has no axes."""
    return axis if equation.invars[position].aval.ndim == equation.outvars[0].aval.ndim else None


def _but(*names: str) -> Callable:
    """The same axis, but for those that a parameter of one of these names gives."""

    def follows(equation, position, axis):
        params = equation.params
        named = next((params[name] for name in names if params.get(name) is not None), -1)
        rank = equation.invars[position].aval.ndim
        return None if axis in {n % rank for n in (named if isinstance(named, tuple) else (named,))} else axis

    return follows


def _without(name: str) -> Callable:
    """The axes that a parameter names disappear; the others move up."""

    def follows(equation, position, axis):
        gone = equation.params[name]
        return None if axis in gone else axis - sum(g < axis for g in gone)

    return follows


def _leading(*core: int) -> Callable:
    """The first axes, but for the last ones of each operand, so many; the last number is that of all further ones."""

    def follows(equation, position, axis):
        rank = equation.invars[position].aval.ndim - core[min(position, len(core) - 1)]
        return axis if axis < rank else None

    return follows


def _broadcast(equation, position, axis):
    return equation.params["broadcast_dimensions"][axis] if position == 0 else None


def _reshape(equation, position, axis):
    """An axis of the result of the same size, behind as many elements."""
    if equation.params["dimensions"] is not None:
        return None
    old, new = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return next((b for b, n in enumerate(new) if n == old[axis] and prod(new[:b]) == prod(old[:axis])), None)


def _transpose(equation, position, axis):
    return equation.params["permutation"].index(axis)


def _pad(equation, position, axis):
    return axis if position == 0 and not any(equation.params["padding_config"][axis]) else None


def _slice(equation, position, axis):
    """A slice or an update of one: all along the axis, which `axes_after` checks of the slice."""
    whole = equation.invars[0].aval.shape
    return (
        axis
        if position < 2 and equation.invars[position].aval.shape[axis : axis + 1] == whole[axis : axis + 1]
        else None
    )


def _dot(equation, position, axis):
    """The axes of the product: those of the batch, then the others of the left operand, then of the right one."""
    contracted, batch = equation.params["dimension_numbers"]
    if axis in batch[position]:
        return tuple(batch[position]).index(axis)
    if axis in contracted[position]:
        return None
    taken = {*contracted[position], *batch[position]}
    number = len(batch[0]) + sum(a not in taken for a in range(axis))
    left = equation.invars[0].aval.ndim - len(contracted[0]) - len(batch[0])
    return number + (left if position == 1 else 0)


def _gather(equation, position, axis):
    numbers, y = equation.params["dimension_numbers"], equation.outvars[0].aval
    batch = [a for a in range(y.ndim) if a not in numbers.offset_dims]
    if position == 1:
        return batch[axis] if axis < len(batch) else None
    if axis in numbers.operand_batching_dims:
        return batch[numbers.start_indices_batching_dims[numbers.operand_batching_dims.index(axis)]]
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    if axis in gone or axis in numbers.start_index_map:
        return None
    return numbers.offset_dims[sum(a not in gone for a in range(axis))]


def _scatter(equation, position, axis):
    numbers = equation.params["dimension_numbers"]
    into, x = equation.invars[0].aval, equation.invars[position].aval
    pairs = dict(zip(numbers.scatter_indices_batching_dims, numbers.operand_batching_dims, strict=True))
    untouched = {*range(into.ndim)} - {*numbers.scatter_dims_to_operand_dims, *numbers.inserted_window_dims}
    if position == 0:
        return axis if axis in untouched else None
    if position == 1:
        return pairs.get(axis)
    if axis not in numbers.update_window_dims:
        return pairs.get(sum(a not in numbers.update_window_dims for a in range(axis)))
    gone = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    window = [a for a in range(into.ndim) if a not in gone]
    found = window[numbers.update_window_dims.index(axis)]
    return found if found in untouched and into.shape[found] == x.shape[axis] else None


def _conv(equation, position, axis):
    numbers, params = equation.params["dimension_numbers"], equation.params
    whole = position == 0 and axis == numbers.lhs_spec[0] and params["batch_group_count"] == 1
    return numbers.out_spec[0] if whole else None


def _names(names: str, follows: Callable) -> dict[str, Callable]:
    return dict.fromkeys(names.split(), follows)


_FOLLOWS: dict[str, Callable] = {
    **_names("threefry2x32 optimization_barrier bitcast_convert_type", _same),
    **_names("pvary reshard sharding_constraint layout_constraint device_put", _same),
    **_names("random_bits random_split random_fold_in random_unwrap random_seed", _leading(0)),
    "random_wrap": _leading(1),
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _without("dimensions"),
    "transpose": _transpose,
    **_names("reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor", _without("axes")),
    **_names("argmax argmin", _without("axes")),
    **_names("cumsum cumprod cummax cummin cumlogsumexp split", _but("axis")),
    **_names("rev concatenate sort", _but("dimensions", "dimension")),
    **_names("top_k", _but("axis")),
    "pad": _pad,
    **_names("slice dynamic_slice dynamic_update_slice", _slice),
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "gather": _gather,
    **_names("scatter scatter-add scatter-sub scatter-mul scatter-min scatter-max", _scatter),
    **_names("cholesky qr lu svd eigh eig schur geqrf triangular_solve", _leading(2)),
    "lu_pivots_to_permutation": _leading(1),
    "householder_product": _leading(2, 1),
    "tridiagonal_solve": _leading(1, 1, 1, 2),
}
