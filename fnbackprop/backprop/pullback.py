"""`vjp`: the value of a function and its pullback."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Unpack

import jax
import numpy as np

from ..jaxprs.avals import as_weak, aval_of, is_inexact, is_weak, zero_cotangent, zero_tangent
from ..jaxprs.compat import DidntWant, DontWant, GradRef, add_to_reference, name_of
from ..jaxprs.evaluate import environment, evaluate, read_atom, trace_leaves
from ..jaxprs.graph import live
from ..jaxprs.lists import select
from ..jaxprs.tracebacks import hides_internal_frames
from ..jaxprs.types import Aval
from .argument_residuals import Slots, split_residuals
from .arguments import as_arrays, check_callable, check_cotangents, tree_differences
from .call import Call, run_by_rules
from .engine import Engine
from .options import Options, takes_options


@jax.tree_util.register_pytree_node_class
class Pullback:
    """The backward pass of one `vjp`: output cotangents in, a tuple of input cotangents out.

    A pytree of its residuals, so it may be returned from `jit` or passed into it.

    args_res: the residuals that are arguments: a list of the arguments' trees, with `NotNeeded()` for other leaves. An
        entry may be taken out and put in again before the call.
    opaque_residuals: the other residuals.
    """

    def __init__(self, args_res: list[Any], opaque_residuals: list[Any], static: "_Static"):
        self.args_res, self.opaque_residuals, self.static = args_res, opaque_residuals, static

    def tree_flatten(self):
        return (self.args_res, self.opaque_residuals), self.static

    @classmethod
    def tree_unflatten(cls, static, children):
        args_res, opaque_residuals = children
        return cls(args_res, opaque_residuals, static)

    def __repr__(self) -> str:
        static = self.static
        arguments, outputs = (", ".join(a.str_short() for a in group) for group in (static.in_avals, static.out_avals))
        return f"<pullback of {static.name}: ({arguments}) -> ({outputs})>"

    def __getattr__(self, name: str) -> Any:
        reason = f": {_ABSENT[name]}" if name in _ABSENT else ""
        raise AttributeError(f"the pullback of fb.vjp has no attribute {name!r}{reason}")

    @property
    def in_tree(self) -> Any:
        return self.static.in_tree

    @property
    def out_tree(self) -> Any:
        return self.static.out_tree

    @property
    def residuals(self) -> Any:
        """All residuals, as the backward reads them."""
        return self.static.slots.join(self.args_res, self.opaque_residuals)

    def with_refs(self, *targets: Any) -> Callable:
        """A pullback that adds gradients to references in place, as JAX's `with_refs`.

        Args:
            targets: for each leaf of the arguments a `jax.Ref`, to which its gradient is added; a
                `jax.ad.DontWant()`, for a gradient that is not computed; or anything else for one that is returned.
        Returns:
            A function of the output cotangents; it returns `jax.ad.GradRef()` and `jax.ad.DidntWant()` in the place of
            gradients that are not values.
        """
        leaves, tree = jax.tree.flatten(targets)
        if tree != self.in_tree:
            differences = tree_differences(self.in_tree, tree, "args", "the arguments", "the targets")
            raise ValueError(
                "unexpected tree structure: with_refs takes one target for each leaf of the arguments of "
                f"{self.static.name}.\n{differences}"
            )
        return jax.tree_util.Partial(_pull_to_targets, self, leaves)

    @hides_internal_frames
    def __call__(self, cotangents: Any, *extra: Any) -> Any:
        static = self.static
        if extra:
            raise TypeError(
                f"the pullback of fb.vjp applied to {static.name} was called with {1 + len(extra)} arguments, but it "
                "takes one argument, the cotangent of the output: a pytree of the same structure. Pass those of "
                "several outputs as one tuple."
            )
        cts = check_cotangents(cotangents, static.out_tree, static.out_avals, static.name)
        found = static.backward(self.residuals, cts)
        pairs = zip(cts, static.out_avals, strict=True)
        not_as_outputs = {is_weak(y) for ct, y in pairs if ct is not None and is_weak(ct) != is_weak(y)}
        leaves = [_as_input(ct, x, is_weak(x) in not_as_outputs) for ct, x in zip(found, static.in_avals, strict=True)]
        return jax.tree.unflatten(static.in_tree, leaves)


# What JAX's pullback has beside, and why ours has not.
_ABSENT = {
    "fun": "it is a walk of the function's jaxpr by rules, and no other function",
    "jaxpr": "it is a walk by rules; jax.make_jaxpr(pullback)(cotangents) traces it",
    "out_nzs": "which outputs have a derivative is not part of it",
    "replace": "put residuals into args_res instead",
    "structured_residuals": "all residuals are in args_res and opaque_residuals",
    "want_logs": "a backward of ours writes no logs",
    "with_logs": "a backward of ours writes no logs",
}


class _Static(NamedTuple):
    """The part of a pullback that is known at trace time."""

    backward: Callable  # (residuals, flat output cotangents) -> flat input cotangents, None for zero
    in_avals: tuple[Aval, ...]
    out_avals: tuple[Aval, ...]  # of the output alone
    in_tree: Any
    out_tree: Any
    name: str
    slots: Slots


def _as_input(ct: Any, aval: Aval, as_found: bool) -> Any:
    """The cotangent of an input, zeros if it is None.

    It is weakly typed if the input is (a Python number), strongly if not, though its cotangent may come from a weakly
    typed array that it was written into. as_found: it keeps the type that it came in, as a cotangent was given in
    another type than its output, which was of this input's (weak or strong).
    """
    if ct is None:
        ct, as_found = _zeros(aval), False
    return ct if as_found or not is_inexact(aval) else as_weak(ct, is_weak(aval))


def _pull_to_targets(pullback: Pullback, targets: list[Any], cotangents: Any) -> Any:
    """The gradients by one pullback: added to references, left out, or returned."""
    unwanted = [isinstance(target, DontWant) for target in targets]
    computed = [is_inexact(a) and not u for a, u in zip(pullback.static.in_avals, unwanted, strict=True)]

    def pull(cotangents):
        return select(jax.tree.leaves(pullback(cotangents)), computed)

    gradients = iter(_evaluate_live(pull, cotangents) if any(unwanted) else pull(cotangents))
    results = []
    for target, aval, found in zip(targets, pullback.static.in_avals, computed, strict=True):
        gradient = next(gradients) if found else np.zeros(aval.shape, jax.dtypes.float0)
        if isinstance(target, jax.Ref):
            if found:
                add_to_reference(target, ..., gradient)
            gradient = GradRef()
        results.append(DidntWant() if isinstance(target, DontWant) else gradient)
    return pullback.in_tree.unflatten(results)


def _evaluate_live(fun: Callable, cotangents: Any) -> list[Any]:
    """`fun(cotangents)`, without the equations that its results do not need."""
    leaves, tree = jax.tree.flatten(cotangents)
    closed = trace_leaves(lambda *leaves: fun(tree.unflatten(leaves)), leaves)
    env = environment(closed.jaxpr, closed.consts, leaves)
    evaluate(live(closed.jaxpr.eqns, closed.jaxpr.outvars), env)
    return [read_atom(env, atom) for atom in closed.jaxpr.outvars]


def _zeros(aval: Aval) -> Any:
    """The zero cotangent of an input, float0 for integers, booleans and keys."""
    return zero_cotangent(aval) if is_inexact(aval) else zero_tangent(aval)


@takes_options
@hides_internal_frames
def vjp(fun: Callable, *primals: Any, has_aux: bool = False, **options: Unpack[Options]) -> tuple:
    """The value of `fun(*primals)` and its pullback, as `jax.vjp`, by hand-written rules.

    Args:
        fun: a function of arrays and pytrees of them, returning a pytree; with `has_aux`, a pair (output, aux).
        *primals: where to evaluate it: pytrees of arrays. Integer leaves take part and get float0 cotangents.
        has_aux: whether `fun` returns a pair, of which the second is not differentiated.
        options: those of the engine, beyond JAX's.
    Returns:
        (output, pullback) or (output, pullback, aux). `pullback(cotangent)` takes a pytree like the output and
        returns a tuple with a cotangent like each primal; it is itself a pytree.
    Raises:
        MissingRule: equations without a rule, all listed with their source lines.
        BudgetError: no backward keeps the budget.
        TypeError, ValueError: by `pullback`, of a cotangent that is not like the output.
    Example:
        >>> import fnbackprop as fb, jax.numpy as jnp
        >>> y, pullback = fb.vjp(lambda x, w: x @ w, jnp.ones((2, 3)), jnp.ones((3, 1)))
        >>> dx, dw = pullback(jnp.ones_like(y))
        >>> dx.shape, dw.shape
        ((2, 3), (3, 1))
    """
    check_callable(fun)
    engine = Engine.of_options(options)
    leaves, in_tree = jax.tree.flatten(primals)
    return vjp_of_call(Call(fun, in_tree, has_aux), leaves, functools.partial(run_by_rules, engine))


def vjp_of_call(call: Call, leaves: Sequence[Any], run: Callable) -> tuple:
    """`vjp` of a function at flat primals. Afterwards `call.traced` is the function's jaxpr, also if this raised.

    `run(call, leaves)` is `run_by_rules` with an engine, or something around it.
    """
    leaves = as_arrays(call.fun, call.in_tree, leaves)
    outputs, residuals, backward = run(call, leaves)
    fun, in_tree, has_aux = call.fun, call.in_tree, call.has_aux
    in_avals = tuple(map(aval_of, leaves))
    out_avals = tuple(map(aval_of, outputs[: call.count]))
    name = name_of(fun) or repr(fun)
    args_res, opaque, slots = split_residuals(residuals, leaves, in_tree)
    static = _Static(backward, in_avals, out_avals, in_tree, call.out_tree, name, slots)
    pullback = Pullback(args_res, opaque, static)
    value = call.value(outputs)
    return (value, pullback, call.aux(outputs)) if has_aux else (value, pullback)
