"""A traced program with blocks in the place of what they match, also inside of jits, loops, branches, checkpoints."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from ...backprop.call import Call as TracedCall
from ...backprop.rewriting import register_rewrite
from ...jaxprs.compat import branch_platforms, checkpointed, jit_shardings, switch_branch
from ...jaxprs.evaluate import as_function, bind, environment, evaluate, interpret, read_atom, trace_avals, trace_flat
from ...jaxprs.graph import holds, live
from ...jaxprs.sizes import is_symbolic
from ...jaxprs.types import close_jaxpr, is_var
from ...jaxprs.views import Call, Cond, Scan
from .attention_call import match_attention
from .attention_scores import Miss
from .cross_entropy import match as match_cross_entropy
from .graph import Graph
from .positions import position_of


class Fusion(NamedTuple):
    """What looks like a block in a program.

    Attributes:
      block: its name.
      where: the user's "file:line:column (function)".
      saves: bytes of the scores or logits, forward and backward, in all steps of the loops around: no longer held.
      taken: whether the block runs there with `fuse=True`.
      reason: why not; empty if it does.
    """

    block: str
    where: str
    saves: int
    taken: bool
    reason: str = ""

    def __str__(self) -> str:
        what = f"saves {self.saves / 2**20:.3g} MiB" if self.taken else f"not taken: {self.reason}"
        return f"{self.block} at {self.where}: {what}"


def fused(closed: Any) -> tuple[Any, list[Fusion]]:
    """The same program with blocks in it; itself, if there are none. And what was found in it."""
    function, found = rewritten(closed)
    if not any(fusion.taken for fusion in found):
        return closed, found
    return trace_avals(function, [v.aval for v in closed.jaxpr.invars]), found


def with_blocks(fun: Callable) -> Callable:
    """The function of the same arrays with blocks in it, whoever differentiates it."""

    @functools.wraps(fun, updated=())
    def run(*args):
        leaves, tree = jax.tree.flatten(args)
        call = TracedCall(fun, tree, has_aux=False)
        closed, _ = fused(trace_flat(call, leaves).closed)
        return call.value(as_function(closed)(*leaves))

    return run


def rewritten(closed: Any, known: Mapping[int, Any] | None = None, times: int = 1) -> tuple[Callable, list[Fusion]]:
    """The program as a function of its flat operands, and what was found in it.

    known: what is known of operands by their structure, by position. times: how often it is run."""
    closed = close_jaxpr(closed)
    if not holds(closed, {"dot_general"}) or _has_open_shapes(closed.jaxpr):
        return as_function(closed), []
    closed = _without_calls(closed)
    invars = closed.jaxpr.invars
    graph = Graph(closed, {invars[i]: position for i, position in (known or {}).items()})
    calls, gone, found = _matches(graph, times)
    inner = {}
    for equation in closed.jaxpr.eqns:
        if id(equation) not in gone and (replaced := _inside(graph, equation, times)) is not None:
            inner[id(equation)], more = replaced
            found += more

    kept = [e for e in live(closed.jaxpr.eqns, closed.jaxpr.outvars) if id(e) not in gone]
    first = {v for call in calls.values() for v in call.first}  # what a block reads, before what it replaces
    kept.sort(key=lambda e: not first.intersection(e.outvars))

    def function(*operands):
        env, done = environment(closed.jaxpr, closed.consts, operands), {}

        def apply(equation: Any, values: list[Any]) -> Sequence[Any]:
            if id(equation) in calls:
                return calls[id(equation)](equation, lambda atom: read_atom(env, atom), done)
            run = inner.get(id(equation))
            return bind(equation, values) if run is None else run(*values)

        evaluate(kept, env, apply, lambda env, atom: env.get(atom) if is_var(atom) else read_atom(env, atom))
        return [read_atom(env, atom) for atom in closed.jaxpr.outvars]

    return function, found


CROSS_ENTROPY = "linear_cross_entropy", match_cross_entropy
PATTERNS = {
    "dot_general": (CROSS_ENTROPY, ("attention", match_attention)),
    "gather": (CROSS_ENTROPY,),
    "reduce_sum": (CROSS_ENTROPY,),
}


def _matches(graph: Graph, times: int) -> tuple[dict[int, Any], set[int], list[Fusion]]:
    """The calls by the equations that they stand for, the equations that go, and what is said of them."""
    calls, gone, found = {}, set(), []
    for equation in graph.jaxpr.eqns:
        if graph.needed.isdisjoint(equation.outvars):
            continue
        block, call = _match(graph, equation)
        if isinstance(call, Miss):
            found.append(Fusion(block, graph.line(equation), 0, False, str(call)))
            continue
        if call is None or not gone.isdisjoint(map(id, call.equations)):
            continue
        calls |= {id(e): call for e in call.replaced}
        gone |= {id(e) for e in call.equations} - {id(e) for e in call.replaced}
        aval = call.product.outvars[0].aval
        found.append(Fusion(block, graph.line(equation), 2 * times * aval.size * aval.dtype.itemsize, True))
    return calls, gone, found


def _match(graph: Graph, equation: Any) -> tuple[str, Any]:
    """The block that ends in an equation, and its call: None if there is none, a Miss if it cannot be run."""
    for block, match in PATTERNS.get(equation.primitive.name, ()):
        try:
            call = match(graph, equation)
        except Miss as miss:
            return block, miss
        if call is not None:
            return block, call
    return "", None


def _has_open_shapes(jaxpr: Any) -> bool:
    """Whether `jax.export` leaves a dimension open: a block is cut into tiles of known sizes."""
    return any(is_symbolic(getattr(v.aval, "shape", ())) for e in jaxpr.eqns for v in e.outvars)


# ---------------------------------------------------------------- what holds jaxprs


def _without_calls(closed: Any) -> Any:
    """The program with its jits walked where they are called, but those that prescribe a sharding."""

    def apply(equation: Any, values: list[Any]) -> Sequence[Any]:
        if equation.primitive.name != "jit" or any(map(any, jit_shardings(equation))):
            return bind(equation, values)
        body = Call.of(equation).body
        return interpret(body.jaxpr, body.consts, values, apply)

    if not any(e.primitive.name == "jit" for e in closed.jaxpr.eqns):
        return closed
    function = lambda *operands: interpret(closed.jaxpr, closed.consts, operands, apply)  # noqa: E731
    return trace_avals(function, [v.aval for v in closed.jaxpr.invars])


def _inside(graph: Graph, equation: Any, times: int) -> tuple[Callable, list[Fusion]] | None:
    """An equation that holds jaxprs, as a function of its operands with blocks in these; None if nothing is found."""
    known = {i: p for i, x in enumerate(equation.invars) if (p := position_of(graph, x)) is not None}
    match equation.primitive.name:
        case "scan":
            return _in_scan(equation, known, times)
        case "cond":
            return _in_cond(equation, known, times)
        case "remat2" | "checkpoint" | "remat":
            function, found = rewritten(Call.of(equation).body, known, times)
            return (checkpointed(equation, function), found) if found else None
    return None


def _in_scan(equation: Any, known: dict[int, Any], times: int) -> tuple[Callable, list[Fusion]] | None:
    scan = Scan.of(equation)
    of_consts = {i: position for i, position in known.items() if i < scan.num_consts}
    body, found = rewritten(scan.body, of_consts, times * scan.length)
    if not found:
        return None

    def run(*operands):
        consts, carry, xs = scan.split(operands)

        def step(carry, x):
            return scan.split_results(body(*consts, *carry, *x))

        carry, ys = scan.run(step, carry, xs)
        return [*carry, *ys]

    return run, found


def _in_cond(equation: Any, known: dict[int, Any], times: int) -> tuple[Callable, list[Fusion]] | None:
    known = {i - 1: position for i, position in known.items() if i}
    pairs = [rewritten(branch, known, times) for branch in Cond.of(equation).branches]
    found = [fusion for _, own in pairs for fusion in own]
    if not found:
        return None
    branches, platforms = [function for function, _ in pairs], branch_platforms(equation)
    return (lambda index, *operands: switch_branch(index, branches, platforms, *operands)), found


register_rewrite(fused)
