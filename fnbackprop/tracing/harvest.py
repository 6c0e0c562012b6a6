"""A program with observers as one that returns what they see: statistics beside its own results.

What is seen at one place is a block: of arrays, their statistics, or one array itself. Out of a scan it comes stacked,
with an axis for the steps in front; of a condition, the branches that are not taken give zeros.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..jaxprs.compat import switch_branch
from ..jaxprs.evaluate import bind, interpret, literals_as_arrays
from ..jaxprs.graph import holds, inner_jaxprs
from ..jaxprs.primitives import Trait, has
from ..jaxprs.types import ClosedJaxpr, Equation, Jaxpr
from ..jaxprs.views import Call, Cond, Scan
from .observing_engine import Mark, NotCompiled, observe_p
from .reductions import as_real, grouped, reduced
from .saturation import traced_share

BATCHED = 1 << 16  # elements: smaller arrays of one body are the rows of one matrix
MOST_IN_BATCH = 1 << 22  # elements of such a matrix
SAME_NUMBERS = ("reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "rev", "name", "copy")


class Row(NamedTuple):
    """One array. marks: of those that see it, and how often they see each of its elements: in a broadcast, several
    times."""

    size: int
    marks: tuple[tuple[int, int], ...]


class Block(NamedTuple):
    """What some observers see.

    Attributes:
      rows: of statistics, for each array its size, and the numbers of the marks that see it. value: of a value itself,
        its mark.
      loops: for each axis of steps in front, whether they run from the last to the first.
    """

    rows: tuple[Row, ...] = ()
    value: int | None = None
    loops: tuple[bool, ...] = ()


Found = list[tuple[Block, Any]]


def harvest(
    jaxpr: Jaxpr, consts: Sequence[Any], operands: Sequence[Any], marks: Sequence[Mark]
) -> tuple[list[Any], Found]:
    """The outputs of a jaxpr, and what its observers see. Raises NotCompiled."""
    body = _Body(marks)
    outputs = interpret(jaxpr, consts, operands, body.apply)
    return outputs, body.found()


def _of_body(closed: ClosedJaxpr, operands: Sequence[Any], marks: Sequence[Mark]) -> tuple[list[Any], Found]:
    return harvest(closed.jaxpr, closed.consts, operands, marks)


class _Body:
    """What is seen in one body."""

    def __init__(self, marks: Sequence[Mark]):
        self.marks = marks
        self.inner: Found = []
        self.seen: dict[int, tuple[Any, list[tuple[int, int]]]] = {}  # by the id of the array: what was seen of it
        self.source: dict[int, tuple[Any, Any]] = {}  # of an array that holds the same numbers as another

    def apply(self, equation: Equation, values: list[Any]) -> Sequence[Any]:
        if equation.primitive is observe_p:
            self.see(equation.params["mark"], values)
            return []
        if _holds_observers(equation):
            outputs, found = _inside(equation, values, self.marks)
            self.inner += found
            return outputs
        outputs = bind(equation, values)
        if equation.primitive.name in SAME_NUMBERS:
            self.source[id(outputs[0])] = outputs[0], self.same_numbers(literals_as_arrays(equation, values)[0])
        return outputs

    def same_numbers(self, x: Any) -> Any:
        return self.source[id(x)][1] if id(x) in self.source else x

    def see(self, mark: int, values: list[Any]) -> None:
        kind = self.marks[mark].kind
        if kind == "lost":
            other, total = values
            lost = jnp.all((other != 0) & (other == total)) & (other.size > 0)
            self.inner.append((Block(value=mark), (jnp.int32(1), lost)))
        elif kind == "saturated":
            share = traced_share(self.marks[mark].record.primitive, values[0])
            self.inner.append((Block(value=mark), (jnp.int32(1), share)))
        elif kind == "key" or kind.startswith("kept"):
            self.inner.append((Block(value=mark), (jnp.int32(1), _as_numbers(values[0]))))
        else:
            (x,) = values
            if not jax.typeof(x).sharding.mesh.empty:
                raise NotCompiled("an array on a mesh with explicit axes")
            source = self.same_numbers(x)
            times = x.size // source.size if source.size else 1
            self.seen.setdefault(id(source), (source, []))[1].append((mark, times))

    def found(self) -> Found:
        arrays = [as_real(x) for x, _ in self.seen.values()]
        rows = [Row(x.size, tuple(marks)) for x, marks in self.seen.values()]
        found = []
        for (size, _), positions in grouped(arrays).items():
            most = max(1, MOST_IN_BATCH // max(size, 1)) if size <= BATCHED else 1
            for start in range(0, len(positions), most):
                part = positions[start : start + most]
                block = Block(tuple(rows[i] for i in part))
                flat = [jnp.reshape(arrays[i], -1) if len(part) > 1 else arrays[i] for i in part]
                found.append((block, reduced(jnp.stack(flat))))
        return _joined([*found, *self.inner])


def _as_numbers(x: Any) -> Any:
    is_key = jax.dtypes.issubdtype(jax.typeof(x).dtype, jax.dtypes.prng_key)
    return jax.random.key_data(x) if is_key else x


def _joined(found: Found) -> Found:
    """The statistics of one body, or of one loop in it, as one array."""
    groups: dict[Any, Found] = {}
    for i, (block, array) in enumerate(found):
        key = i if block.value is not None else (block.loops, array.shape[:-2], array.dtype.name)
        groups.setdefault(key, []).append((block, array))
    return [_one(group) if len(group) > 1 else group[0] for group in groups.values()]


def _one(group: Found) -> tuple[Block, Any]:
    blocks, arrays = zip(*group, strict=True)
    rows = tuple(row for block in blocks for row in block.rows)
    return blocks[0]._replace(rows=rows), lax.concatenate(arrays, arrays[0].ndim - 2)


# ---------------------------------------------------------------- bodies


def _holds_observers(equation: Equation) -> bool:
    return any(holds(jaxpr, (observe_p.name,)) for jaxpr in inner_jaxprs(equation))


def _inside(equation: Equation, values: list[Any], marks: Sequence[Mark]) -> tuple[Sequence[Any], Found]:
    name = equation.primitive.name
    if name == "scan":
        return _scan(Scan.of(equation), values, marks)
    if name == "cond":
        return _cond(Cond.of(equation), values, marks)
    if has(equation, Trait.CALL):
        return _of_body(Call.of(equation).body, values, marks)
    raise NotCompiled(name)


def _scan(loop: Scan, values: list[Any], marks: Sequence[Mark]) -> tuple[list[Any], Found]:
    consts, carry, xs = loop.split(values)
    blocks: list[Block] = []

    def step(carry, row):
        outputs, found = _of_body(loop.body, [*consts, *carry, *row], marks)
        blocks[:] = [block for block, _ in found]
        carry, ys = loop.split_results(outputs)
        return carry, (ys, [array for _, array in found])

    carry, (ys, arrays) = loop.run(step, carry, xs)
    stacked = [block._replace(loops=(loop.reverse, *block.loops)) for block in blocks]
    return [*carry, *ys], list(zip(stacked, arrays, strict=True))


def _cond(branches: Cond, values: list[Any], marks: Sequence[Mark]) -> tuple[Sequence[Any], Found]:
    index, operands = branches.split(values)
    shapes: list[list[tuple[Block, Any]]] = [[] for _ in branches.branches]

    def look(i: int) -> Callable:
        def run(*operands):
            outputs, found = _of_body(branches.branches[i], operands, marks)
            shapes[i] = [(block, jax.tree.map(jax.typeof, array)) for block, array in found]
            return outputs, [array for _, array in found]

        return run

    for i in range(len(branches.branches)):
        jax.eval_shape(look(i), *operands)

    def taken(i: int) -> Callable:
        def run(*operands):
            outputs, own = look(i)(*operands)
            blank = [jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), [a for _, a in group]) for group in shapes]
            return outputs, [own if j == i else blank[j] for j in range(len(shapes))]

        return run

    functions = [taken(i) for i in range(len(branches.branches))]
    outputs, arrays = switch_branch(index, functions, branches.platforms, *operands)
    blocks = [block for group in shapes for block, _ in group]
    return outputs, list(zip(blocks, [a for group in arrays for a in group], strict=True))
