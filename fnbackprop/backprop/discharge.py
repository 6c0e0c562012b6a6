"""Mutable references (`jax.new_ref`): a function that uses them is rewritten, before it is planned, into a pure one.

Each reference becomes a cell that holds its present value. A read returns (a part of) the value, a write puts a new
value into the cell; loops, branches and calls that are handed a reference take its value in and give the new one out.
What remains has neither references nor effects, and the chain rule is that of gathers and scatters.

A reference from outside the function is read once at its start and written once at its end: no gradient flows into
it or out of it, as into any constant.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax

from ..jaxprs.avals import aval_of
from ..jaxprs.compat import branch_platforms, scan_groups, switch_branch
from ..jaxprs.evaluate import bind, interpret, source_line, trace_avals
from ..jaxprs.types import Jaxpr, close_jaxpr


class Cell:
    """The present value of one reference."""

    def __init__(self, value: Any):
        self.start = self.value = _strong(value)

    def put(self, value: Any) -> None:
        self.value = _strong(value)


def without_references(closed: Any) -> Any:
    """The same function without references of its own; the same object if it has none.

    Inner jaxprs that make references of their own are left as they are: they are rewritten when they are planned.
    """
    jaxpr = closed.jaxpr
    if not _has_references(jaxpr):
        return closed
    for var in (*jaxpr.invars, *jaxpr.outvars):
        if _is_reference(var.aval):
            raise NotImplementedError(_UNSUPPORTED.format(what="as an operand or a result", where=_first_line(jaxpr)))

    def pure(*operands):
        outside = {id(ref): (ref, Cell(jax.ref.get(ref, ...))) for ref in closed.consts if _is_value_reference(ref)}
        consts = [outside[id(c)][1] if id(c) in outside else c for c in closed.consts]
        outputs = _run(jaxpr, consts, operands)
        for ref, cell in outside.values():
            if cell.value is not cell.start:
                jax.ref.set(ref, ..., cell.value)
        return outputs

    return trace_avals(pure, [v.aval for v in jaxpr.invars])


_UNSUPPORTED = (
    "a gradient flows through a function that has a mutable reference {what}, at {where}. References work where they "
    "are made and used within the differentiated function, in jit, scan, while_loop and cond too, but not under Python "
    "control flow on concrete values (use lax.cond or lax.while_loop) and in no other kind of call. Return the value "
    "instead, or pass it."
)


def refuse(primitive: Any, values: Sequence[Any]) -> None:
    """Raise if a primitive that is evaluated by itself makes or uses a reference."""
    if primitive.name in _MAKERS or any(map(_is_value_reference, values)):
        where = "the line that the traceback shows"
        raise NotImplementedError(_UNSUPPORTED.format(what=f"in {primitive.name}", where=where))


def _has_references(jaxpr: Any) -> bool:
    if any(equation.primitive.name in _MAKERS for equation in jaxpr.eqns):
        return True
    return any(_is_reference(v.aval) for v in (*jaxpr.constvars, *jaxpr.invars))


def _is_reference(aval: Any) -> bool:
    return isinstance(aval, jax.ref.AbstractRef)


def _is_value_reference(x: Any) -> bool:
    return _is_reference(aval_of(x))


def _first_line(jaxpr: Any) -> str:
    return source_line(jaxpr.eqns[0]) if jaxpr.eqns else "an unknown place"


def _strong(value: Any) -> Any:
    """Without a weak type, which a loop's carry and a branch's result must not have."""
    return lax.convert_element_type(value, value.dtype)


# ---------------------------------------------------------------- evaluation with cells in the place of references


def _run(jaxpr: Jaxpr, consts: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
    return interpret(jaxpr, consts, operands, _apply)


def _apply(equation: Any, values: list[Any]) -> Sequence[Any]:
    name = equation.primitive.name
    if name in _MAKERS or any(isinstance(x, Cell) for x in values):
        if name not in _REWRITTEN:
            raise NotImplementedError(_UNSUPPORTED.format(what=f"in {name}", where=source_line(equation)))
        return _REWRITTEN[name](equation, values)
    return bind(equation, values)


def _new_ref(equation, values):
    return [Cell(values[0])]


def _empty_ref(equation, values):
    aval = equation.outvars[0].aval
    return [Cell(lax.full(aval.shape, 0, aval.dtype))]


def _freeze(equation, values):
    return [values[0].value]


def _free(equation, values):
    return []


def _get(equation, values):
    cell, *indices = values
    return [_view(cell.value, _views(equation, indices))]


def _swap(equation, values):
    cell, new, *indices = values
    views = _views(equation, indices)
    old = _view(cell.value, views)
    cell.put(_updated(cell.value, views, lambda part: new))
    return [old]


def _addupdate(equation, values):
    cell, term, *indices = values
    cell.put(_updated(cell.value, _views(equation, indices), lambda part: lax.add(part, term)))
    return []


def _view(x: Any, views: Sequence[Any]) -> Any:
    for view in views:
        x = view.read(x)
    return x


def _updated(x: Any, views: Sequence[Any], change: Callable) -> Any:
    """`x` with the part that the views select changed: each view writes into the one before it."""
    if not views:
        return change(x)
    first, *rest = views
    return first.write(x, _updated(first.read(x), rest, change))


# ---------------------------------------------------------------- which part of a reference


class View(NamedTuple):
    """One selection from an array: by an index tuple, or in another shape."""

    index: tuple[Any, ...] | None
    shape: tuple[int, ...] | None
    mode: str | None = None  # for indices out of bounds

    def read(self, x: Any) -> Any:
        return lax.reshape(x, self.shape) if self.index is None else x.at[self.index].get(mode=self.mode)

    def write(self, x: Any, part: Any) -> Any:
        return lax.reshape(part, x.shape) if self.index is None else x.at[self.index].set(part, mode=self.mode)


def _views(equation: Any, indices: Sequence[Any]) -> list[View]:
    """The selections that `ref[...]`, `ref.at[...]` and `ref.reshape` of an equation make, in order."""
    views = []
    for transform in jax.tree.unflatten(equation.params["tree"], indices):
        if hasattr(transform, "indices"):
            views += _index_views(transform)
        elif type(transform).__name__ == "ReshapeTransform":
            views.append(View(None, tuple(transform.shape)))
        else:
            what = f"transformed by {type(transform).__name__}"
            raise NotImplementedError(_UNSUPPORTED.format(what=what, where=source_line(equation)))
    return views


def _index_views(indexer: Any) -> list[View]:
    """One view for each sliced axis, then one for the integer indices.

    An integer out of bounds is clamped where all are scalars, as JAX does there; in an array it reads NaN and its
    write is dropped.
    """
    views, integers, full = [], [], slice(None)
    for axis, (index, size) in enumerate(zip(indexer.indices, indexer.shape, strict=True)):
        sliced = hasattr(index, "stride")
        integers.append(full if sliced else index)
        if not sliced or (isinstance(index.start, int) and (index.start, index.size, index.stride) == (0, size, 1)):
            continue
        if isinstance(index.start, int):
            stop = index.start + (index.size - 1) * index.stride + 1
            where = slice(index.start, max(stop, index.start), index.stride)
        else:
            where = index.start + index.stride * lax.iota(index.start.dtype, index.size)
        views.append(View((full,) * axis + (where,), None))
    if any(i is not full for i in integers):
        views.append(View(tuple(integers), None, None if indexer.int_indexer_shape else "clip"))
    return views


# ---------------------------------------------------------------- equations that hold a jaxpr


def _call(equation, values):
    """A call is evaluated in place."""
    inner = close_jaxpr(equation.params.get("jaxpr", equation.params.get("call_jaxpr")))
    return _run(inner.jaxpr, inner.consts, values)


def _run_state(equation, values):
    """Every operand of the inner jaxpr is a reference; the results are their last values."""
    params = equation.params
    given, cells = iter(values), []
    for var, initialized in zip(params["jaxpr"].invars, params["is_initialized"], strict=True):
        start = next(given) if initialized else lax.full(var.aval.shape, 0, var.aval.dtype)
        cells.append(Cell(start))
    _run(params["jaxpr"], (), cells)
    return [cell.value for cell in cells]


def _scan(equation, values):
    """The references become carries."""
    params, groups = equation.params, scan_groups(equation)
    consts, rest = values[: groups.consts], values[groups.consts :]
    held = _Held(consts)

    def step(state, xs):
        outputs, contents = held.run(params["jaxpr"], state[0], [*state[1], *xs])
        return (contents, outputs[: groups.carry]), outputs[groups.carry :]

    start = (held.contents(), rest[: groups.carry])
    loop = {name: params[name] for name in ("length", "reverse", "unroll")}
    (contents, carry), ys = lax.scan(step, start, rest[groups.carry :], **loop)
    held.put(contents)
    return [*carry, *ys]


def _while(equation, values):
    """The references become carries, of which the condition reads those that it has."""
    params = equation.params
    first = params["cond_nconsts"]
    second = first + params["body_nconsts"]
    held = _Held(values[:second])

    def goes_on(state):
        outputs, _ = held.run(params["cond_jaxpr"], state[0], state[1], slice(0, first))
        return outputs[0]

    def body(state):
        outputs, contents = held.run(params["body_jaxpr"], state[0], state[1], slice(first, second))
        return contents, outputs

    contents, carry = lax.while_loop(goes_on, body, (held.contents(), values[second:]))
    held.put(contents)
    return carry


def _cond(equation, values):
    """Each branch returns the references' values beside its results."""
    index, *operands = values
    held = _Held(operands)
    branches = [lambda contents, c=closed: held.run(c, contents, []) for closed in equation.params["branches"]]
    outputs, contents = switch_branch(index, branches, branch_platforms(equation), held.contents())
    held.put(contents)
    return outputs


class _Held:
    """Operands with cells among them, for a body that is traced with the cells' values as its own operands."""

    def __init__(self, operands: Sequence[Any]):
        self.operands = operands
        self.cells = list(dict.fromkeys(x for x in operands if isinstance(x, Cell)))

    def contents(self) -> list[Any]:
        return [cell.value for cell in self.cells]

    def put(self, contents: Sequence[Any]) -> None:
        for cell, value in zip(self.cells, contents, strict=True):
            cell.put(value)

    def run(self, closed: Any, contents: Any, further: Any, which: slice = slice(None)) -> tuple[list[Any], list[Any]]:
        """Evaluate a body on (these of) the operands and `further` ones: its outputs and the cells' new values."""
        inner = {cell: Cell(value) for cell, value in zip(self.cells, contents, strict=True)}
        operands = [inner[x] if isinstance(x, Cell) else x for x in self.operands[which]]
        outputs = _run(closed.jaxpr, closed.consts, [*operands, *further])
        return [_strong(y) for y in outputs], [cell.value for cell in inner.values()]


_MAKERS = frozenset(("new_ref", "empty_ref", "run_state"))
_REWRITTEN = {
    "new_ref": _new_ref,
    "empty_ref": _empty_ref,
    "freeze": _freeze,
    "free_ref": _free,
    "get": _get,
    "swap": _swap,
    "addupdate": _addupdate,
    "jit": _call,
    "closed_call": _call,
    "call": _call,
    "eval_jaxpr": _call,
    "run_state": _run_state,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
