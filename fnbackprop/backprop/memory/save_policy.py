"""Which values are saved for a backward, and which it recomputes.

`choose_saved`, the default for loops, takes the set of fewest bytes, a minimum cut, under the rule that products (but
for attention's scores), random bits, loops and reductions to something far smaller are not recomputed.
`choose_within` gives that rule up, equation by equation, to keep a budget.
"""

import math
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...jaxprs.avals import is_extended, is_hijax
from ...jaxprs.compat import policy_saves
from ...jaxprs.graph import ancestors, inner_jaxprs, producers
from ...jaxprs.primitives import Trait, has
from ...jaxprs.sizes import size_of
from ...jaxprs.types import is_var
from ..registry import is_foreign
from .time_sums import contracted

SMALLER = 8  # times: the result of such a reduction costs few bytes to save
PASS = 100  # operations that a processor does in the time in which it reads an element
# A batched product of so few terms whose result is larger than its operands, as attention's scores are of queries and
# keys, is recomputed in less time than its result takes to be written and read.
FEW_TERMS = 128
Chooser = Callable[["Boundary"], list[Any]]


def check_limits(budget: Any, checkpoints: int) -> None:
    """Raise ValueError for what a user cannot mean as `budget=` or `checkpoints=`."""
    if checkpoints < 1:
        raise ValueError(f"checkpoints must be at least 1, but got {checkpoints}")
    is_number = isinstance(budget, int | float | np.number)
    if budget is not None and not (is_number and (0 <= budget <= 1 or budget > 1 and float(budget).is_integer())):
        raise ValueError(f"budget must be bytes, or a fraction up to 1, but got {budget!r}")


@dataclass(frozen=True, eq=False)
class Boundary:
    """The forward part of a joint jaxpr as a graph, for the choice of what is saved."""

    equations: tuple[Any, ...]  # of the forward, in order
    needed: tuple[Any, ...]  # forward values that the backward reads and that are not available to it
    available: frozenset[Any]  # what the backward has without saving: constants, scanned inputs, and what follows
    stored: frozenset[Any] = frozenset()  # results that are stored in any case, and so cost nothing to save


def save_all(boundary: Boundary) -> list[Any]:
    """Save just what the backward reads."""
    return list(boundary.needed)


def save_nothing(boundary: Boundary) -> list[Any]:
    """Recompute everything. Every forward input must be available."""
    return []


def choose_by_policy(policy: Callable) -> Chooser:
    """Save what a `jax.checkpoint` policy lets be saved, as far as the backward's recomputation meets it."""

    def choose(boundary: Boundary) -> list[Any]:
        producer_of = producers(boundary.equations)
        saved, seen, stack = {}, set(), list(boundary.needed)
        while stack:
            var = stack.pop()
            if var in seen or var not in producer_of or var in boundary.available:
                continue
            seen.add(var)
            if policy_saves(policy, producer_of[var]):
                saved[var] = None
            else:
                stack += [atom for atom in producer_of[var].invars if is_var(atom)]
        return list(saved)

    return choose


def choose_saved(boundary: Boundary, recomputable: Container[int] = ()) -> list[Any]:
    """The set of fewest bytes from which all that the backward reads can be recomputed cheaply: a minimum cut.

    `recomputable`: ids of expensive equations that may be recomputed all the same.
    """
    if not boundary.needed:
        return []
    graph = _Graph()
    producer_of = producers(boundary.equations)
    for var in ancestors(boundary.equations, boundary.needed, stop=boundary.available):
        producer = producer_of.get(var)
        graph.add(("in", var), ("out", var), 0 if var in boundary.stored else nbytes(var.aval))
        if producer is None or not (is_cheap(producer) or id(producer) in recomputable):
            graph.add("source", ("in", var), None)
        else:
            for atom in producer.invars:
                if is_var(atom) and atom not in boundary.available:
                    graph.add(("out", atom), ("in", var), None)
    for var in boundary.needed:
        graph.add(("out", var), "sink", None)
    reached = graph.source_side()
    return [v for tag, v in (n for n in reached if isinstance(n, tuple)) if tag == "in" and ("out", v) not in reached]


class BudgetError(ValueError):
    """A function cannot be run backward within the bytes that `budget=` allows; the message has the least that can.

    Raised before anything runs, with the line of the loop or of the jitted function.

    Attributes:
        least: the bytes, of each step of a loop, that must be saved at least.
        everything: those that saving all that the backward reads would take.
        where: the user's line.
    Example:
        >>> import fnbackprop as fb, jax, jax.numpy as jnp
        >>> def loss(w):
        ...     return jnp.sum(jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), jnp.ones(8), w)[0])
        >>> try:
        ...     fb.grad(loss, budget=8)(jnp.ones((100, 8, 8)))
        ... except fb.BudgetError as error:
        ...     print(str(error).split(": ")[1].split(" (")[0])
        a loop of 100 steps must save at least 2,688 bytes for its backward
    """

    def __init__(self, message: str, least: int, everything: int):
        super().__init__(message)
        self.least, self.everything = least, everything
        self.where = ""

    def at(self, where: str) -> "BudgetError":
        """This error, with the user's line in its message; of nested loops, that of the innermost."""
        if not self.where:
            self.where = where
            self.args = (f"{where}: {self.args[0]}; fb.residuals shows what each line saves",)
        return self


def choose_within(budget: float, steps: int) -> Chooser:
    """Save at most `budget` bytes over all steps, recomputing as little as possible.

    Args:
        budget: bytes; or, up to 1, a fraction of the bytes that saving all that the backward reads would take.
        steps: the loop's length; 1 for a jitted function.
    Raises:
        BudgetError: more must be saved, even if all that may be recomputed is.
    """

    def choose(boundary: Boundary) -> list[Any]:
        def stacked(saved: Iterable[Any]) -> int:
            return total_bytes(v for v in saved if v not in boundary.stored)

        everything = stacked(save_all(boundary))
        allowed = budget * everything if budget <= 1 else budget / max(steps, 1)
        if everything <= allowed or steps == 0:
            return save_all(boundary)
        recomputable: set[int] = set()
        saved = choose_saved(boundary)
        for equation in _by_cost_per_byte(boundary):
            if stacked(saved) <= allowed:
                break
            recomputable.add(id(equation))
            saved = choose_saved(boundary, recomputable)
        least = stacked(saved)
        if least > allowed:
            raise budget_error(budget, steps, least * steps, least, everything)
        return saved

    return choose


def budget_error(budget: float, steps: int, total: int, least: int, everything: int) -> BudgetError:
    what = "a jitted function, or a loop of one step," if steps == 1 else f"a loop of {steps} steps"
    return BudgetError(
        f"{what} must save at least {total:,} bytes for its backward "
        f"({total / (everything * steps):.3f} of what it reads), but the budget is {budget:,}",
        least,
        everything,
    )


def _by_cost_per_byte(boundary: Boundary) -> list[Any]:
    """The expensive equations that may be recomputed, the least work per byte saved first."""
    candidates = [
        e for e in boundary.equations if not is_cheap(e) and not e.effects and not has(e, Trait.NEVER_RECOMPUTED)
    ]
    return sorted(candidates, key=lambda e: _operations(e) / max(total_bytes(e.outvars), 1))


def _operations(equation: Any) -> int:
    """A rough count: a pass over the operands and results, and a product's multiplications and additions."""
    size = sum(size_of(v.aval.shape) for v in equation.outvars)
    work = PASS * max(size, sum(size_of(atom.aval.shape) for atom in equation.invars))
    return work + 2 * size * contracted(equation) if equation.primitive.name == "dot_general" else work


def is_cheap(equation: Any) -> bool:
    """Whether an equation is cheap to recompute: elementwise, of shapes, small reductions, scores; no effects."""
    if _is_outer(equation) or has(equation, Trait.OBSERVER):
        return True
    if has(equation, Trait.EXPENSIVE) or is_foreign(equation.primitive) or equation.effects or _shrinks(equation):
        return False
    return all(is_cheap(inner) for closed in inner_jaxprs(equation) for inner in closed.eqns)


def _is_outer(equation: Any) -> bool:
    """Whether an equation is a batched product of few terms that is larger than its operands."""
    if equation.primitive.name != "dot_general" or not equation.params["dimension_numbers"][1][0]:
        return False
    size = size_of(equation.outvars[0].aval.shape)
    return contracted(equation) <= FEW_TERMS and size >= sum(size_of(atom.aval.shape) for atom in equation.invars)


def _shrinks(equation: Any) -> bool:
    """Whether an equation reduces to something far smaller."""
    if not has(equation, Trait.REDUCTION):
        return False
    return SMALLER * size_of(equation.outvars[0].aval.shape) <= size_of(equation.invars[0].aval.shape)


def nbytes(aval: Any) -> int:
    """Bytes of one value, estimated where its shape is not known (`jax.export`)."""
    if is_hijax(aval):
        return sum(map(nbytes, aval.lo_ty()))
    if is_extended(aval.dtype):
        element = aval.dtype._rules.physical_element_aval(aval.dtype)
        return size_of(aval.shape) * math.prod(element.shape) * element.dtype.itemsize
    return size_of(aval.shape) * aval.dtype.itemsize


def total_bytes(variables: Iterable[Any]) -> int:
    return sum(nbytes(v.aval) for v in variables)


# ---------------------------------------------------------------- the graph


class _Graph:
    """A flow network with a capacity in bytes per edge (None: unlimited), cut by scipy's maximum flow."""

    def __init__(self):
        self.numbers: dict[Any, int] = {"source": 0, "sink": 1}
        self.edges: dict[tuple[int, int], int | None] = {}

    def add(self, start: Any, end: Any, capacity: int | None) -> None:
        start, end = (self.numbers.setdefault(node, len(self.numbers)) for node in (start, end))
        self.edges[start, end] = capacity

    def source_side(self) -> dict[Any, None]:
        """The nodes that the source still reaches when the flow is maximal."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import breadth_first_order, maximum_flow

        total = sum(c for c in self.edges.values() if c is not None)
        unit = max(1, total // 2**29)  # scipy's capacities are 32-bit
        unlimited = total // unit + len(self.edges) + 1
        # A value of no bytes still costs something, so that nothing is saved needlessly.
        costs = [unlimited if c is None else max(1, c // unit) for c in self.edges.values()]
        rows, columns = np.array(list(self.edges), dtype=np.int32).T
        shape = (len(self.numbers),) * 2
        capacity = csr_array((np.array(costs, dtype=np.int32), (rows, columns)), shape=shape)
        flow = maximum_flow(capacity, 0, 1).flow
        rest = csr_array(capacity - flow)
        rest.data = np.maximum(rest.data, 0)
        rest.eliminate_zeros()
        order = breadth_first_order(rest, 0, return_predecessors=False)
        names = list(self.numbers)
        return {names[i]: None for i in order}
