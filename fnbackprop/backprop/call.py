"""A call of the user's function, and the three ways to run it forward: traced, by its jaxpr, on its numbers."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from ..jaxprs.avals import as_jax_array, as_weak, is_inexact, is_value, is_weak
from ..jaxprs.compat import name_of
from ..jaxprs.escaped import running_on_values
from ..jaxprs.evaluate import named_as_backward, named_as_forward, trace_leaves
from ..jaxprs.types import ClosedJaxpr
from ..jaxprs.wide_mode import is_wide, wide_mode
from . import tape
from .arguments import as_array
from .constants import lift
from .engine import Engine
from .rewriting import rewrite


class Call:
    """The user's function on flat leaves, returning flat arrays: those of the output, then those of aux.

    What else it returned (trees, leaves that are no jax arrays) is kept here.
    """

    def __init__(self, fun: Callable, in_tree: Any, has_aux: bool):
        self.fun, self.in_tree, self.has_aux = fun, in_tree, has_aux
        self.traced: ClosedJaxpr | None = None  # until it is known; never, where it ran on the tape
        self.fusions: list[Any] = []  # what was said of it by those who rewrote it
        self.__name__ = name_of(fun) or "fun"
        self.__wrapped__ = fun

    def __call__(self, *leaves: Any) -> list[Any]:
        out, aux = self.fun(*self.in_tree.unflatten(leaves)), ()
        if self.has_aux:
            if not isinstance(out, tuple | list) or len(out) != 2:
                raise TypeError(
                    "with has_aux=True the differentiated function must return a two-element tuple (output, aux), "
                    f"but {self.__name__} returned {'an array' if isinstance(out, jax.Array) else type(out).__name__}."
                )
            out, aux = out
        out_leaves, self.out_tree = jax.tree.flatten(out)
        aux_leaves, self.aux_tree = jax.tree.flatten(aux)
        self.count = len(out_leaves)
        self.out_leaves, self.aux_leaves = map(_without_arrays, (out_leaves, aux_leaves))
        return [*map(as_array, out_leaves), *filter(is_value, aux_leaves)]

    def value(self, outputs: Sequence[Any]) -> Any:
        """The output. What is no jax array, such as a Python number, is returned as it is."""
        leaves = zip(self.out_leaves, outputs[: self.count], strict=True)
        return self.out_tree.unflatten([y if leaf is None else leaf for leaf, y in leaves])

    def aux(self, outputs: Sequence[Any]) -> Any:
        arrays = iter(outputs[self.count :])
        return self.aux_tree.unflatten([next(arrays) if leaf is None else leaf for leaf in self.aux_leaves])


def _without_arrays(leaves: Sequence[Any]) -> list[Any]:
    return [None if is_value(leaf) else leaf for leaf in leaves]


def run_by_rules(
    engine: Engine, call: Call, leaves: list[Any], on_values: Callable = tape.run
) -> tuple[list[Any], Any, Callable]:
    """The function's flat outputs, the residuals, and `backward(residuals, cotangents)`.

    `on_values(engine, call, leaves)` does it where the function cannot be traced.
    """
    if not engine.eager:
        try:
            with running_on_values(False):
                return _run_traced(engine, call, leaves)
        except tape.NEEDS_VALUES:
            pass
    return on_values(engine, call, leaves)


def _run_traced(engine: Engine, call: Call, leaves: list[Any]) -> tuple[list[Any], Any, Callable]:
    """Trace the function, plan it and walk it forward."""
    return run_jaxpr(engine, call, trace_leaves(call, leaves), leaves)


def run_jaxpr(engine: Engine, call: Call, closed: ClosedJaxpr, leaves: list[Any]) -> tuple[list[Any], Any, Callable]:
    """Plan the jaxpr of a function and walk it forward."""
    if engine.fuse:
        closed, call.fusions = rewrite(closed)
    closed = call.traced = lift(closed)
    active = tuple(is_inexact(v.aval) for v in closed.jaxpr.invars)
    wanted = tuple(i < call.count and is_inexact(v.aval) for i, v in enumerate(closed.jaxpr.outvars))
    wide = is_wide(closed)
    with wide_mode(wide), named_as_forward():
        plan = engine.new_plan(closed, active, wanted)
        outputs, residuals = engine.forward(plan, leaves)
    pairs = zip(outputs, closed.jaxpr.outvars, strict=True)
    outputs = [as_weak(as_jax_array(y)) if is_weak(v.aval) else as_jax_array(y) for y, v in pairs]
    aux_cts = [None] * (len(outputs) - call.count)

    def backward(residuals, cts):
        with wide_mode(wide), named_as_backward():
            return engine.backward(plan, residuals, [*cts, *aux_cts])

    return outputs, residuals, backward
