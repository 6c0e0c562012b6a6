"""`trace`: a function run forward and backward once, with every value and cotangent looked at."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from ..backprop.options import Options, takes_options
from ..comparing.leaves import leaf_paths
from ..comparing.program import Program, TracedProgram, check_differentiable, make_program, place_of
from ..comparing.recorded import traced
from ..jaxprs.avals import as_jax_array, is_inexact
from ..jaxprs.evaluate import named_as_backward
from ..jaxprs.graph import all_equations
from ..jaxprs.lists import merge
from ..jaxprs.types import Tracer
from ..trees import leaves_with_paths
from .blame import Blame, blame_by_statistics, find_blame
from .bodies import closed_bodies
from .compiled import compile_gradient, fill
from .findings import find_findings
from .observing_engine import NotCompiled, with_blocks
from .recorder import Recorder, Walk
from .recording_engine import RecordingEngine
from .records import Evidence, Place, Record
from .result import Trace
from .statistics import all_finite

MOST_COMPILED = 300  # equations of a program that is compiled with its statistics


@takes_options
def trace(
    fun: Callable,
    *args: Any,
    argnums: int | Sequence[int] = 0,
    has_aux: bool | None = None,
    keep: str | int | Sequence[str | int] = (),
    detailed: bool = False,
    **options: Unpack[Options],
) -> Trace:
    """Run `fun` forward and backward once, and keep of each equation what flowed through it in both directions.

    What runs is the compiled program of `fb.grad`, with statistics of all that it computes as further results: of the
    values and cotangents of each equation, also in calls, branches and in each step of a loop. A sum over time that
    leaves its loop is seen there alone.

    If a number is NaN, or the value or gradient not finite, or the value that `fun` itself gives, called as it stands,
    the engine also walks the program on numbers, equation by equation, to find where that began; so it does with
    `keep`, with `detailed`, where a gradient flows through a loop whose number of steps is data, or through a
    `shard_map`, and for programs of more than 300 equations, which would take long to compile. The rules are those of
    `fb.grad`, and so are the sums; but loops run one step after another.

    Args:
      fun: a function of real scalar value, or of `(value, aux)`.
      *args: its arguments, as for `fb.grad`.
      argnums: which arguments are differentiated.
      has_aux: whether `fun` returns a pair; by default, seen from what it returns.
      keep: of what the values and cotangents themselves are kept, beside their statistics: names given by `fb.name`
        (of these, all are kept anyway), parts of a line ("model.py:40"), numbers of equations.
      detailed: walk equation by equation in any case. Equations of integers are recorded, too.
      options: those of the engine.

    Returns:
      a Trace: print it, or ask it `.blame()`, `.table()`, `.cotangent(name)`.
    Raises:
      TypeError: the value is no real scalar, there is nothing to differentiate, or it is called inside jit or vmap.
      ValueError: `keep` names no equation.
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
    own = program
    program, closed, notes = traced(program)
    closed = with_blocks(closed, options)
    check_differentiable(closed, "trace")
    _require_numbers(closed)
    wanted = (keep,) if isinstance(keep, str | int) else tuple(keep)

    def is_kept(record: Record) -> bool:
        return record.name is not None or any(_names(word, record) for word in wanted)

    def walk_on_numbers(kept: Callable[[Record], bool], evidence: Sequence[Evidence] = ()) -> Walk:
        return run_walk(program, closed, kept, others, place, options, evidence)

    is_long = sum(1 for _ in all_equations(closed.closed)) > MOST_COMPILED
    uncompiled = keep or detailed or is_long or options.get("budget") is not None
    fast = None if uncompiled else compiled_walk(program, closed, is_kept, place, options)
    walk, blame = _walk_and_blame(fast, is_kept, walk_on_numbers)
    if fast is not None and all_finite(fast.value) and not all_finite(walk.value):
        notes.append(compiled_apart(fast.value, walk.value))
    if walk.compiled and blame is None:
        walk, blame, told = _as_called(walk, lambda: own.function(own.inputs, own.others), is_kept, walk_on_numbers)
        notes += told
    _require_known(wanted, walk.recorder.records)
    notes = [note.replace("compared as it runs", "traced as it runs") for note in notes]
    notes += closed_bodies(walk.recorder.records)
    return Trace(program.name, walk, blame, find_findings(walk), tuple(notes), tied)


def _walk_and_blame(
    compiled: Walk | None, keep: Callable[[Record], bool], walk_on_numbers: Callable[..., Walk]
) -> tuple[Walk, Blame | None]:
    """The walk to be shown, and the origin of what is not finite: of the compiled walk, if all is sound there."""
    if compiled is not None and is_sound(compiled):
        return compiled, None
    walk = walk_on_numbers(keep)

    def again(evidence: Sequence[Evidence]) -> None:
        walk_on_numbers(lambda record: False, evidence)

    blame = find_blame(walk, again)
    if blame is None and compiled is not None and not is_finite(compiled):
        return compiled, blame_by_statistics(compiled)
    return walk, blame


def compiled_apart(compiled: Any, walked: Any) -> str:
    """Why a value may be finite in the compiled program alone."""
    return (
        f"compiled as one program the value is {compiled}, operation by operation it is {walked}: 0 times NaN is NaN, "
        "but a compiler may take a product with a mask for a selection"
    )


def _as_called(
    compiled: Walk, call: Callable[[], Any], keep: Callable[[Record], bool], walk_on_numbers: Callable[..., Walk]
) -> tuple[Walk, Blame | None, list[str]]:
    """What is finite as one compiled program, and may not be when the user calls the function: the walk to be shown,
    the origin, and notes."""
    value = call()
    if all_finite(value):
        return compiled, None, []
    told = f"compiled as one program all is finite, but the function itself, called as it stands, gives {value}"
    walk, blame = _walk_and_blame(None, keep, walk_on_numbers)
    if blame is None:
        return (
            compiled,
            None,
            [f"{told}; operation by operation it is finite, too: does it depend on more than its arguments?"],
        )
    return walk, blame, [f"{told}: this is a walk operation by operation"]


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


def _require_numbers(closed: TracedProgram) -> None:
    if any(isinstance(x, Tracer) for x in (*closed.operands, *closed.closed.consts)):
        raise TypeError(
            "fb.trace runs a function on numbers, and has none inside jit, grad or vmap: call it outside, of a "
            "function that may be jitted. fb.watch, which sees the sizes of named values, can be jitted."
        )


def _require_known(words: Sequence[str | int], records: Sequence[Record]) -> None:
    for word in words:
        if not any(word == record.name or _names(word, record) for record in records):
            names = ", ".join(sorted({repr(record.name) for record in records if record.name})) or "none"
            files = ", ".join(dict.fromkeys(Path(record.place.file).name for record in records if record.place.file))
            raise ValueError(
                f"keep={word!r} names no equation: the names are {names}, the numbers are below {len(records)}, the "
                f"lines are of {files or 'no file'}."
            )


def run_walk(
    program: Program,
    closed: TracedProgram,
    keep: Callable[[Record], bool],
    others: Sequence[str],
    function: Place,
    options: Mapping[str, Any],
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


def compiled_walk(
    program: Program,
    closed: TracedProgram,
    keep: Callable[[Record], bool],
    function: Place,
    options: Mapping[str, Any],
) -> Walk | None:
    """One walk forward and backward, compiled; None if what is seen in it cannot leave its loops."""
    recorder = Recorder(keep, (), function)
    try:
        found = compile_gradient(closed, recorder, options)
    except NotCompiled:
        return None
    (value, *cotangents), arrays = found.program(found.constants, list(map(as_jax_array, closed.operands)))
    fill(recorder, found, arrays)
    names = leaf_paths(program, program.inputs)
    pairs = zip(names, closed.operands, merge(found.active, cotangents), strict=False)
    gradients = {name: jnp.zeros_like(x) if ct is None else ct for name, x, ct in pairs}
    return Walk(recorder, value, None, gradients, [None] * len(names), compiled=True)


def is_finite(walk: Walk) -> bool:
    """Whether value and gradient are."""
    return all(map(all_finite, (walk.value, *walk.gradients.values())))


def is_sound(walk: Walk) -> bool:
    """Whether they are finite, and no number on the way is NaN."""
    groups = (group for r in walk.recorder.records for group in (r.values, r.cotangents, r.passed_on))
    seen = (s for group in groups for one in group for s in one.of)
    return is_finite(walk) and not any(s is not None and s.nan for s in seen)
