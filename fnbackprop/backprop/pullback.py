"""`vjp`: the value of a function and its pullback."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..jaxprs.avals import aval_of, is_inexact, zeros_like_aval
from ..jaxprs.evaluate import trace_flat
from ..jaxprs.types import Aval
from . import tape
from .arguments import as_array, check_callable, check_cotangents, is_array_like
from .constants import lift
from .engine import Engine


@jax.tree_util.register_pytree_node_class
class Pullback:
    """The backward pass of one `vjp`: output cotangents in, a tuple of input cotangents out.

    A pytree of its residuals, so it may be returned from `jit` or passed into it.
    """

    def __init__(self, residuals: Any, static: "_Static"):
        self.residuals, self.static = residuals, static

    def tree_flatten(self):
        return (self.residuals,), self.static

    @classmethod
    def tree_unflatten(cls, static, children):
        return cls(children[0], static)

    def __call__(self, cotangents: Any, *extra: Any) -> Any:
        static = self.static
        if extra:
            raise TypeError(
                f"the pullback of {static.name} takes one argument, the cotangent of its output (a pytree of the same "
                f"structure), but got {1 + len(extra)}. Pass several outputs' cotangents as one tuple."
            )
        cts = check_cotangents(cotangents, static.out_tree, static.out_avals, static.name)
        found = static.backward(self.residuals, cts)
        leaves = [input_zeros(aval) if ct is None else ct for ct, aval in zip(found, static.in_avals, strict=True)]
        return jax.tree.unflatten(static.in_tree, leaves)


class _Static(NamedTuple):
    """The part of a pullback that is known at trace time."""

    backward: Callable  # (residuals, flat output cotangents) -> flat input cotangents, None for zero
    in_avals: tuple[Aval, ...]
    out_avals: tuple[Aval, ...]  # of the output alone
    in_tree: Any
    out_tree: Any
    name: str


def input_zeros(aval: Aval) -> Any:
    """The zero cotangent of an input: of its own dtype, or float0 for integers, booleans and keys."""
    if is_inexact(aval):
        return zeros_like_aval(aval)
    return np.zeros(aval.shape, jax.dtypes.float0)


def vjp(fun: Callable, *primals: Any, has_aux: bool = False, **options: Any) -> tuple:
    """The value of `fun(*primals)` and its pullback, as `jax.vjp`, by hand-written rules.

    Args:
        fun: a function of arrays and pytrees of them, returning a pytree; with `has_aux`, a pair (output, aux).
        primals: where to evaluate it. Integer leaves take part and get float0 cotangents.
        options: keywords beyond JAX's: `safe_select`, `hoist`, `budget`, `checkpoints`, `eager` (see `Engine`).
    Returns:
        (output, pullback) or (output, pullback, aux). `pullback(cotangent)` takes a pytree like the output and
        returns a tuple with a cotangent like each primal; it is itself a pytree.
    Raises:
        MissingRule: equations without a rule, all listed with their source lines.
    """
    check_callable(fun)
    engine = Engine.of_options(options)
    leaves, in_tree = jax.tree.flatten(primals)
    leaves = [as_array(leaf) for leaf in leaves]
    call = _Call(fun, in_tree, has_aux)
    outputs, residuals, backward = _run(engine, call, leaves)
    in_avals = tuple(map(aval_of, leaves))
    out_avals = tuple(map(aval_of, outputs[: call.count]))
    name = getattr(fun, "__name__", repr(fun))
    pullback = Pullback(residuals, _Static(backward, in_avals, out_avals, in_tree, call.out_tree, name))
    value = call.out_tree.unflatten(outputs[: call.count])
    return (value, pullback, call.aux(outputs)) if has_aux else (value, pullback)


def _run(engine: Engine, call: "_Call", leaves: list[Any]) -> tuple[list[Any], Any, Callable]:
    """The function's flat outputs, the residuals, and `backward(residuals, cotangents)`."""
    if not engine.eager:
        try:
            return _run_traced(engine, call, leaves)
        except tape.NEEDS_VALUES:
            pass
    return tape.run(engine, call, leaves)


def _run_traced(engine: Engine, call: "_Call", leaves: list[Any]) -> tuple[list[Any], Any, Callable]:
    """Trace the function, plan it and walk it forward."""
    closed = lift(trace_flat(call, leaves).closed)
    active = tuple(is_inexact(v.aval) for v in closed.jaxpr.invars)
    wanted = tuple(i < call.count and is_inexact(v.aval) for i, v in enumerate(closed.jaxpr.outvars))
    plan = engine.new_plan(closed, active, wanted)
    outputs, residuals = engine.forward(plan, leaves)
    aux_cts = [None] * (len(outputs) - call.count)

    def backward(residuals, cts):
        return engine.backward(plan, residuals, [*cts, *aux_cts])

    return outputs, residuals, backward


_ARRAY = object()  # stands for an array among the leaves of an aux output


class _Call:
    """The user's function on flat leaves, returning flat arrays: those of the output, then those of aux.

    What else it returned (trees, aux leaves that are no arrays) is kept here.
    """

    def __init__(self, fun: Callable, in_tree: Any, has_aux: bool):
        self.fun, self.in_tree, self.has_aux = fun, in_tree, has_aux
        self.__name__ = getattr(fun, "__name__", "fun")
        self.__wrapped__ = fun

    def __call__(self, *leaves: Any) -> list[Any]:
        out, aux = self.fun(*self.in_tree.unflatten(leaves)), ()
        if self.has_aux:
            if not isinstance(out, tuple | list) or len(out) != 2:
                raise TypeError(
                    "with has_aux=True the differentiated function must return a pair (output, aux), "
                    f"but {self.__name__} returned {type(out).__name__}."
                )
            out, aux = out
        arrays, self.out_tree = jax.tree.flatten(out)
        aux_leaves, self.aux_tree = jax.tree.flatten(aux)
        self.aux_leaves = [_ARRAY if is_array_like(leaf) else leaf for leaf in aux_leaves]
        self.count = len(arrays)
        return [*map(as_array, arrays), *(leaf for leaf in aux_leaves if is_array_like(leaf))]

    def aux(self, outputs: Sequence[Any]) -> Any:
        """The aux output, with its arrays' values."""
        arrays = iter(outputs[self.count :])
        return self.aux_tree.unflatten([next(arrays) if leaf is _ARRAY else leaf for leaf in self.aux_leaves])
