"""`trace`: a function run forward and backward once, with every value and cotangent looked at."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..backprop.arguments import check_scalar
from ..comparing.leaves import leaf_paths
from ..comparing.program import Program, TracedProgram, make_program, place_of
from ..comparing.recorded import traced
from ..jaxprs.avals import as_jax_array, is_inexact
from ..jaxprs.evaluate import named_as_backward
from ..trees import leaves_with_paths
from .blame import find_blame
from .findings import find_findings
from .recorder import Recorder, Walk
from .recording_engine import RecordingEngine
from .records import Evidence, Place, Record
from .result import Trace


def trace(
    fun: Callable,
    *args: Any,
    argnums: int | Sequence[int] = 0,
    has_aux: bool | None = None,
    keep: str | int | Sequence[str | int] = (),
    **options: Any,
) -> Trace:
    """Run `fun` forward and backward once, and keep of each equation what flowed through it in both directions.

    The engine that trains walks the program on numbers, equation by equation: calls are entered, loops are run one
    iteration after another, of a condition the branch that is taken, of a `shard_map` the body on all devices. So the
    rules are those of `fb.grad`, and so are the sums; but nothing is compiled as a whole, which takes longer.

    Args:
      fun: a function of real scalar value, or of `(value, aux)`.
      *args: its arguments, as for `fb.grad`.
      argnums: which arguments are differentiated.
      has_aux: whether `fun` returns a pair; by default, seen from what it returns.
      keep: of what the values and cotangents themselves are kept, beside their statistics: names given by `fb.name`
        (of these, all are kept anyway), parts of a line ("model.py:40"), numbers of equations.
      options: the engine's, as for `fb.grad`: `safe_select`, for one.

    Returns:
      a Trace: print it, or ask it `.blame()`, `.table()`, `.cotangent(name)`.
    Raises:
      TypeError: the value is no real scalar, or there is nothing to differentiate.
      MissingRule: equations have no rule.

    Example:
      >>> import fnbackprop as fb, jax.numpy as jnp
      >>> def distance(x):
      ...     return jnp.sqrt(jnp.sum(x**2))
      >>> fb.trace(distance, jnp.zeros(2)).blame().kind.value
      'infinite derivative'
    """
    program = make_program(fun, args, argnums, has_aux)
    others, place, tied = _names_of_others(program, args), _place_of_function(fun), _tied_leaves(program)
    program, closed, notes = traced(program)
    (output,) = closed.closed.jaxpr.outvars
    check_scalar(jnp.zeros(output.aval.shape, output.aval.dtype))
    wanted = (keep,) if isinstance(keep, str | int) else tuple(keep)

    def is_kept(record: Record) -> bool:
        return record.name is not None or any(_names(word, record) for word in wanted)

    walk = run_walk(program, closed, is_kept, others, place, options)

    def again(evidence: Sequence[Evidence]) -> None:
        run_walk(program, closed, lambda record: False, others, place, options, evidence)

    blame = find_blame(walk, again)
    notes = [note.replace("compared as it runs", "traced as it runs") for note in notes]
    return Trace(program.name, walk, blame, find_findings(walk), tuple(notes), tied)


def _place_of_function(fun: Callable) -> Place:
    file, _, line = place_of(fun).rpartition(":")
    return Place(file, int(line), 0, getattr(fun, "__name__", "")) if file else Place()


def _names_of_others(program: Program, args: Sequence[Any]) -> list[str]:
    """The paths of the arrays that are not differentiated, with the position of their argument."""
    paths = {
        id(leaf): f"args[{i}]/{path}".rstrip("/") for i, arg in enumerate(args) for path, leaf in leaves_with_paths(arg)
    }
    return [paths.get(id(x), "an argument") for x in program.others]


def _tied_leaves(program: Program) -> dict[str, tuple[str, ...]]:
    """Of each differentiated leaf that is the same array as others, their paths."""
    groups: dict[int, list[str]] = {}
    for x, name in zip(jax.tree.leaves(program.inputs), leaf_paths(program, program.inputs), strict=True):
        groups.setdefault(id(x), []).append(name)
    return {name: tuple(n for n in group if n != name) for group in groups.values() for name in group if group[1:]}


def _names(word: str | int, record: Record) -> bool:
    return word == record.number if isinstance(word, int) else word in str(record.place)


def run_walk(
    program: Program,
    closed: TracedProgram,
    keep: Callable[[Record], bool],
    others: Sequence[str],
    function: Place,
    options: dict[str, Any],
    evidence: Sequence[Evidence] = (),
) -> Walk:
    """One walk forward and backward."""
    recorder = Recorder(keep, evidence, function)
    engine = RecordingEngine.telling(recorder, options)
    jaxpr = closed.closed.jaxpr
    plan = engine.new_plan(closed.closed, closed.active, tuple(is_inexact(v.aval) for v in jaxpr.outvars))
    operands, names = [as_jax_array(x) for x in closed.operands], leaf_paths(program, program.inputs)
    for x, name in zip(operands, [*names, *others], strict=True):
        recorder.input(x, name)
    (value,), residuals = engine.forward(plan, operands)
    with named_as_backward():
        found = engine.backward(plan, residuals, [jnp.ones_like(value)])
    gradients = {
        name: jnp.zeros_like(x) if ct is None else ct for name, x, ct in zip(names, operands, found, strict=False)
    }
    walk = Walk(
        recorder, value, recorder.number_of(value), gradients, list(map(recorder.number_of, found[: len(names)]))
    )
    recorder.close()
    return walk
