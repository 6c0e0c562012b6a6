"""Mutable references (`jax.new_ref`): a function that uses them is rewritten, before it is planned, into a pure one.

Each reference becomes a cell that holds its present value. A read returns (a part of) the value, a write puts a new
value into the cell; loops, branches and calls that are handed a reference take its value in and give the new one out.
What remains has neither references nor effects, and the chain rule is that of gathers and scatters.

A reference from outside the function is read once at its start and written once at its end: no gradient flows into
it or out of it, as into any constant. One that is only handed through to users' custom rules stays what it is: their
backward may write to it.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from ..jaxprs.avals import aval_of
from ..jaxprs.compat import checkpointed, is_hijax_checkpoint, switch_branch
from ..jaxprs.evaluate import bind, interpret, source_line, trace_avals
from ..jaxprs.graph import inner_jaxprs
from ..jaxprs.primitives import Trait, has, having
from ..jaxprs.types import ClosedJaxpr, Jaxpr, open_jaxpr
from ..jaxprs.views import Call, Cond, Scan, While
from .reference_reader import custom_vjp_of_contents
from .reference_views import Cell, change_view, read_view, strongly_typed, unsupported_reference, views_of


def without_references(closed: Any) -> Any:
    """The same function without references of its own; the same object if it has none.

    Inner jaxprs that make references of their own are left as they are: they are rewritten when they are planned.
    """
    jaxpr = closed.jaxpr
    if not _has_references(jaxpr):
        return closed
    if not _uses_references(jaxpr):
        return _without_calls_of_references(closed)
    for var in (*jaxpr.invars, *jaxpr.outvars):
        if _is_reference(var.aval):
            raise unsupported_reference("as an operand or a result", _first_line(jaxpr))

    def pure(*operands):
        outside = {id(ref): (ref, Cell(jax.ref.get(ref, ...))) for ref in closed.consts if _is_value_reference(ref)}
        consts = [outside[id(c)][1] if id(c) in outside else c for c in closed.consts]
        outputs = _run(jaxpr, consts, operands)
        for ref, cell in outside.values():
            if cell.value is not cell.start:
                jax.ref.set(ref, ..., cell.value)
        return outputs

    return trace_avals(pure, [v.aval for v in jaxpr.invars])


def refuse(primitive: Any, values: Sequence[Any]) -> None:
    """Raise if a primitive that is evaluated by itself makes or uses a reference."""
    if primitive.name in having(Trait.MAKES_REFERENCE) or any(map(_is_value_reference, values)):
        raise unsupported_reference(f"in {primitive.name}", "the line that the traceback shows")


def _has_references(jaxpr: Any) -> bool:
    if any(has(equation, Trait.MAKES_REFERENCE) for equation in jaxpr.eqns):
        return True
    return any(_is_reference(v.aval) for v in (*jaxpr.constvars, *jaxpr.invars))


def _uses_references(jaxpr: Any) -> bool:
    """Whether a jaxpr makes, reads or writes a reference itself, and does not merely hand it to users' custom rules."""
    for equation in jaxpr.eqns:
        if has(equation, Trait.MAKES_REFERENCE) or equation.primitive.name in _ACCESSES:
            return True
        if not has(equation, Trait.CUSTOM_RULE) and any(
            _uses_references(open_jaxpr(j)) for j in inner_jaxprs(equation)
        ):
            return True
    return False


def _without_calls_of_references(closed: Any) -> Any:
    """The same function with each call that is handed a reference evaluated in place: none can be a residual of one."""

    def is_call_of_reference(equation):
        return has(equation, Trait.CALL) and any(_is_reference(atom.aval) for atom in equation.invars)

    def apply(equation, values):
        if not is_call_of_reference(equation):
            return bind(equation, values)
        body = Call.of(equation).body
        return interpret(body.jaxpr, body.consts, values, apply)

    if not any(map(is_call_of_reference, closed.jaxpr.eqns)):
        return closed
    avals = [v.aval for v in closed.jaxpr.invars]
    return trace_avals(lambda *operands: interpret(closed.jaxpr, closed.consts, operands, apply), avals)


def _is_reference(aval: Any) -> bool:
    return isinstance(aval, jax.ref.AbstractRef)


def _is_value_reference(x: Any) -> bool:
    return _is_reference(aval_of(x))


def _first_line(jaxpr: Any) -> str:
    return source_line(jaxpr.eqns[0]) if jaxpr.eqns else "an unknown place"


# ---------------------------------------------------------------- evaluation with cells in the place of references


def _run(jaxpr: Jaxpr, consts: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
    return interpret(jaxpr, consts, operands, _apply)


def _apply(equation: Any, values: list[Any]) -> Sequence[Any]:
    name = equation.primitive.name
    if has(equation, Trait.MAKES_REFERENCE) or any(isinstance(x, Cell) for x in values):
        if name not in _REWRITTEN:
            raise unsupported_reference(f"in {name}", source_line(equation))
        return _REWRITTEN[name](equation, values)
    return bind(equation, values)


def _new_ref(equation, values):
    return [Cell(values[0])]


def _empty_ref(equation, values):
    aval = equation.outvars[0].aval
    return [Cell(lax.full(aval.shape, 0, aval.dtype))]


def _get(equation, values):
    cell, *indices = values
    return [read_view(cell.value, views_of(equation, indices))]


def _swap(equation, values):
    cell, new, *indices = values
    views = views_of(equation, indices)
    old = read_view(cell.value, views)
    cell.put(change_view(cell.value, views, lambda part: new))
    return [old]


def _addupdate(equation, values):
    cell, term, *indices = values
    cell.put(change_view(cell.value, views_of(equation, indices), lambda part: lax.add(part, term)))
    return []


# ---------------------------------------------------------------- equations that hold a jaxpr


def _call(equation, values):
    """A call is evaluated in place."""
    body = Call.of(equation).body
    return _run(body.jaxpr, body.consts, values)


def _remat(equation, values):
    """The cells' values are operands and results of a checkpoint of the same policy."""
    if equation.primitive.name != "remat2" and not is_hijax_checkpoint(equation):
        raise unsupported_reference("in a hijax primitive", source_line(equation))
    cells, body = _Cells(values), Call.of(equation).body
    outputs, contents = checkpointed(equation, lambda contents: cells.run(body, values, contents))(cells.contents())
    cells.put(contents)
    return outputs


def _run_state(equation, values):
    """Every operand of the inner jaxpr is a reference; the results are their last values."""
    params = equation.params
    given, cells = iter(values), []
    for var, initialized in zip(params["jaxpr"].invars, params["is_initialized"], strict=True):
        cells.append(Cell(next(given) if initialized else lax.full(var.aval.shape, 0, var.aval.dtype)))
    _run(params["jaxpr"], (), cells)
    return [cell.value for cell in cells]


def _scan(equation, values):
    """The cells' values are carried beside the scan's own carry; one that is scanned over is written row by row."""
    loop = Scan.of(equation)
    consts, carry, xs = loop.split(values)
    cells, scanned = _Cells(consts), [x for x in xs if isinstance(x, Cell)]

    def step(state, x):
        contents, carry = state
        x = [Cell(row) if isinstance(whole, Cell) else row for row, whole in zip(x, xs, strict=True)]
        outputs, contents = cells.run(loop.body, [*consts, *carry, *x], contents)
        carry, ys = loop.split_results(outputs)
        return (contents, carry), (ys, [row.value for row in x if isinstance(row, Cell)])

    rows = [x.value if isinstance(x, Cell) else x for x in xs]
    (contents, carry), (ys, written) = loop.run(step, (cells.contents(), carry), rows)
    cells.put(contents)
    for cell, value in zip(scanned, written, strict=True):
        cell.put(value)
    return [*carry, *ys]


def _while(equation, values):
    """The cells' values are carried beside the loop's own carry; the condition can read them too."""
    loop = While.of(equation)
    condition_consts, body_consts, carry = loop.split(values)
    cells = _Cells([*condition_consts, *body_consts])

    def goes_on(state):
        contents, carry = state
        return cells.run(loop.condition, [*condition_consts, *carry], contents)[0][0]

    def body(state):
        contents, carry = state
        outputs, contents = cells.run(loop.body, [*body_consts, *carry], contents)
        return contents, outputs

    contents, carry = lax.while_loop(goes_on, body, (cells.contents(), carry))
    cells.put(contents)
    return carry


def _cond(equation, values):
    """Each branch returns the cells' values beside its results."""
    branches = Cond.of(equation)
    index, operands = branches.split(values)
    cells = _Cells(operands)
    functions = [lambda contents, body=body: cells.run(body, operands, contents) for body in branches.branches]
    outputs, contents = switch_branch(index, functions, branches.platforms, cells.contents())
    cells.put(contents)
    return outputs


class _Cells:
    """The cells among an equation's operands, whose values become operands and results of its bodies."""

    def __init__(self, operands: Sequence[Any]):
        self.cells = list(dict.fromkeys(x for x in operands if isinstance(x, Cell)))

    def contents(self) -> list[Any]:
        return [cell.value for cell in self.cells]

    def put(self, contents: Sequence[Any]) -> None:
        for cell, value in zip(self.cells, contents, strict=True):
            cell.put(value)

    def run(self, body: ClosedJaxpr, operands: Sequence[Any], contents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Evaluate a body on the operands, the cells having these contents: its outputs and the cells' new contents."""
        inner = {cell: Cell(value) for cell, value in zip(self.cells, contents, strict=True)}
        outputs = _run(body.jaxpr, body.consts, [inner.get(x, x) if isinstance(x, Cell) else x for x in operands])
        return [strongly_typed(y) for y in outputs], [cell.value for cell in inner.values()]


_ACCESSES = ("get", "swap", "addupdate", "freeze", "free_ref")
_REWRITTEN = {
    "new_ref": _new_ref,
    "empty_ref": _empty_ref,
    "freeze": lambda equation, values: [values[0].value],
    "free_ref": lambda equation, values: [],
    "get": _get,
    "swap": _swap,
    "addupdate": _addupdate,
    **dict.fromkeys(having(Trait.CALL), _call),
    "remat2": _remat,
    "call_hi_primitive": _remat,
    "custom_vjp_call": lambda equation, values: custom_vjp_of_contents(equation, values, _run),
    "run_state": _run_state,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
