"""`vjp`, `grad`, `value_and_grad`, `jacrev`, `hessian`: JAX's signatures and semantics, our backward pass."""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..jaxprs.avals import aval_of, is_inexact, zeros_like_aval
from ..jaxprs.evaluate import trace_flat
from . import tape
from .constants import lift
from .engine import Engine


def _engine(options: dict[str, Any]) -> Engine:
    """The engine with the options given by keyword."""
    known = [f.name for f in dataclasses.fields(Engine) if f.name not in ("inline", "at_zero")]
    for name in options:
        if name not in known:
            raise TypeError(f"unexpected option {name!r}; the options are {', '.join(known)}")
    return Engine(**options)


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
        cts = _check_cotangents(static, cotangents)
        found = static.backward(self.residuals, cts)
        leaves = [input_zeros(aval) if ct is None else ct for ct, aval in zip(found, static.in_avals, strict=True)]
        return jax.tree.unflatten(static.in_tree, leaves)


class _Static(NamedTuple):
    """The part of a pullback that is known at trace time."""

    backward: Callable  # (residuals, flat output cotangents) -> flat input cotangents, None for zero
    in_avals: tuple[Any, ...]
    out_avals: tuple[Any, ...]  # of the output alone
    in_tree: Any
    out_tree: Any
    name: str


def input_zeros(aval: Any) -> Any:
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
    _check_callable(fun)
    engine = _engine(options)
    leaves, in_tree = jax.tree.flatten(primals)
    leaves = [_as_array(leaf) for leaf in leaves]
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
        self.aux_leaves = [_ARRAY if _is_array_like(leaf) else leaf for leaf in aux_leaves]
        self.count = len(arrays)
        return [*map(_as_array, arrays), *(leaf for leaf in aux_leaves if _is_array_like(leaf))]

    def aux(self, outputs: Sequence[Any]) -> Any:
        """The aux output, with its arrays' values."""
        arrays = iter(outputs[self.count :])
        return self.aux_tree.unflatten([next(arrays) if leaf is _ARRAY else leaf for leaf in self.aux_leaves])


def value_and_grad(
    fun: Callable,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    **options: Any,
) -> Callable:
    """A function that returns `fun`'s value and its gradient, as `jax.value_and_grad`, by hand-written rules.

    Args:
        fun: a function whose output is a scalar; with `has_aux`, a pair (scalar, aux).
        argnums: the positional argument or arguments to differentiate.
        has_aux: return ((value, aux), gradient).
        holomorphic: promise that `fun` is holomorphic; inputs and output are then complex.
        allow_int: let integer arguments pass, with a float0 gradient.
        options: keywords beyond JAX's: `safe_select`, `hoist`, `budget`, `checkpoints`, `eager` (see `Engine`).
    Raises:
        TypeError: the output is not a real scalar, or an argument cannot be differentiated, in JAX's words.
    """
    _check_callable(fun)
    argnums = _index(argnums)

    @functools.wraps(fun)
    def value_and_grad_fun(*args, **kwargs):
        partial, dynamic = _select_arguments(fun, argnums, args, kwargs)
        for leaf in jax.tree.leaves(dynamic):
            _check_input("grad", holomorphic, allow_int, leaf)
        value, pullback, *aux = vjp(partial, *dynamic, has_aux=has_aux, **options)
        _check_scalar(value)
        _check_output("grad", holomorphic, value)
        gradient = pullback(lax.full_like(value, 1))
        gradient = gradient[0] if isinstance(argnums, int) else gradient
        return ((value, *aux) if has_aux else value), gradient

    return value_and_grad_fun


def grad(
    fun: Callable,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    **options: Any,
) -> Callable:
    """A function that returns the gradient of `fun`, as `jax.grad`; arguments as in `value_and_grad`.

    Returns:
        The gradient like the arguments at `argnums`; with `has_aux`, a pair (gradient, aux).
    """
    both = value_and_grad(fun, argnums, has_aux, holomorphic, allow_int, **options)

    @functools.wraps(fun)
    def grad_fun(*args, **kwargs):
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return grad_fun


def jacrev(
    fun: Callable,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    **options: Any,
) -> Callable:
    """A function that returns the Jacobian of `fun`, one pullback per output element, as `jax.jacrev`.

    Returns:
        A pytree like `fun`'s output, of pytrees like the arguments, with leaves of shape (*output, *input).
    """
    _check_callable(fun)
    argnums = _index(argnums)

    @functools.wraps(fun)
    def jacrev_fun(*args, **kwargs):
        partial, dynamic = _select_arguments(fun, argnums, args, kwargs)
        for leaf in jax.tree.leaves(dynamic):
            _check_input("jacrev", holomorphic, allow_int, leaf)
        value, pullback, *aux = vjp(partial, *dynamic, has_aux=has_aux, **options)
        for leaf in jax.tree.leaves(value):
            _check_output("jacrev", holomorphic, leaf)
        example = dynamic[0] if isinstance(argnums, int) else dynamic
        jacobian = _jacobian(pullback, value, example, isinstance(argnums, int))
        return (jacobian, *aux) if has_aux else jacobian

    return jacrev_fun


def hessian(
    fun: Callable,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    **options: Any,
) -> Callable:
    """A function that returns the Hessian of `fun`, as `jax.hessian`: our reverse mode over our reverse mode.

    Returns:
        The Jacobian of the Jacobian: leaves of shape (*output, *input, *input).
    """
    return jacrev(jacrev(fun, argnums, has_aux, holomorphic, **options), argnums, has_aux, holomorphic, **options)


def _jacobian(pullback: Pullback, value: Any, example: Any, single: bool) -> Any:
    """Pull back the standard basis of the output space and arrange the rows as out-tree of in-tree."""
    outputs, out_tree = jax.tree.flatten(value)
    inputs, in_tree = jax.tree.flatten(example)
    sizes = [math.prod(jnp.shape(y)) for y in outputs]
    total, starts = sum(sizes), np.cumsum([0, *sizes])
    basis = [
        jnp.eye(total, size, -int(start), dtype=y.dtype).reshape(total, *y.shape)
        for y, size, start in zip(outputs, sizes, starts, strict=False)
    ]

    def rows(cotangents):
        out = pullback(cotangents)
        leaves = jax.tree.leaves(out[0] if single else out)
        return [leaf for leaf in leaves if leaf.dtype != jax.dtypes.float0]

    found = iter(jax.vmap(rows)(out_tree.unflatten(basis)))
    columns = [
        next(found) if is_inexact(aval_of(x)) else np.zeros((total, *jnp.shape(x)), jax.dtypes.float0) for x in inputs
    ]
    blocks = []
    for y, size, start in zip(outputs, sizes, starts, strict=False):
        leaves = [c[int(start) : int(start) + size].reshape(*y.shape, *c.shape[1:]) for c in columns]
        blocks.append(in_tree.unflatten(leaves))
    return out_tree.unflatten(blocks)


# ---------------------------------------------------------------- arguments and their errors


def _check_callable(fun: Any) -> None:
    if not callable(fun):
        raise TypeError(f"Expected a callable value, got {fun}")


def _index(argnums: Any) -> int | tuple[int, ...]:
    """Positions as ints, as `jax.grad` takes them."""
    try:
        return operator.index(argnums)
    except TypeError:
        return tuple(operator.index(i) for i in argnums)


def _select_arguments(fun: Callable, argnums: int | tuple[int, ...], args: tuple, kwargs: dict):
    """`fun` as a function of the differentiated arguments alone, and these arguments."""
    positions = (argnums,) if isinstance(argnums, int) else argnums
    highest = max(positions, default=-1)
    if highest >= len(args):
        raise TypeError(
            f"differentiating with respect to {argnums=} requires at least {highest + 1} positional arguments to be "
            f"passed by the caller, but got only {len(args)} positional arguments."
        )
    if any(i < -len(args) for i in positions):
        raise ValueError(
            "Positional argument indices, e.g. for `static_argnums`, must have value greater than or equal to "
            f"-len(args) and less than len(args), but got value {min(positions)} for len(args) == {len(args)}."
        )
    positions = tuple(i % len(args) for i in positions)

    @functools.wraps(fun)
    def partial(*dynamic):
        full = list(args)
        for i, value in zip(positions, dynamic, strict=True):
            full[i] = value
        return fun(*full, **kwargs)

    return partial, tuple(args[i] for i in positions)


def _is_array_like(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float | complex)


def _as_array(leaf: Any) -> Any:
    """A primal as an array; a Python scalar stays weakly typed."""
    if isinstance(leaf, jax.Array):
        return leaf
    if not _is_array_like(leaf):
        raise TypeError(f"Value {leaf!r} of type {type(leaf)} is not a valid JAX type")
    return jnp.asarray(leaf)


def _check_input(name: str, holomorphic: bool, allow_int: bool, leaf: Any) -> None:
    dtype = _as_array(leaf).dtype
    if holomorphic and not jnp.issubdtype(dtype, np.complexfloating):
        raise TypeError(
            f"{name} with holomorphic=True requires inputs with complex dtype, but got {np.dtype(dtype).name}."
        )
    if not jnp.issubdtype(dtype, np.inexact) and not allow_int:
        raise TypeError(
            f"{name} requires real- or complex-valued inputs (input dtype that is a sub-dtype of np.inexact), but got "
            f"{dtype.name}. If you want to use Boolean- or integer-valued inputs, use vjp or set allow_int to True."
        )


def _check_scalar(value: Any) -> None:
    if not _is_array_like(value):
        raise TypeError(f"Gradient only defined for scalar-output functions. Output was {value}.")
    if jnp.shape(value) != ():
        raise TypeError(
            f"Gradient only defined for scalar-output functions. Output had shape: {jnp.shape(value)}."
            " To get the gradient, reduce the output to a scalar with output.sum(), or use jax.jacobian to"
            " differentiate a function with a non-scalar output."
        )


def _check_output(name: str, holomorphic: bool, value: Any) -> None:
    dtype = value.dtype
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        raise TypeError(f"{name} with output element type {dtype.name}")
    is_complex = jnp.issubdtype(dtype, np.complexfloating)
    if holomorphic and not is_complex:
        raise TypeError(f"{name} with holomorphic=True requires outputs with complex dtype, but got {dtype.name}.")
    if holomorphic or jnp.issubdtype(dtype, np.floating):
        return
    advice = (
        "For holomorphic differentiation, pass holomorphic=True. For differentiation of non-holomorphic functions "
        "involving complex outputs, use jax.vjp directly."
        if is_complex
        else "For differentiation of functions with integer outputs, use jax.vjp directly."
    )
    raise TypeError(
        f"{name} requires real-valued outputs (output dtype that is a sub-dtype of np.floating), "
        f"but got {dtype.name}. {advice}"
    )


def _check_cotangents(static: _Static, cotangents: Any) -> list[Any]:
    """The flat cotangents (None for integer outputs), after checking structure, shape and dtype."""
    leaves, tree = jax.tree.flatten(cotangents)
    if tree != static.out_tree:
        raise ValueError(
            "unexpected tree structure.\n\nThe argument to a VJP function returned by `fb.vjp` must match the pytree "
            f"structure of the differentiated function {static.name}.\n\n"
            f"  * its output had the structure {static.out_tree}\n  * but the cotangent has {tree}"
        )
    return [_check_cotangent(ct, aval) for ct, aval in zip(leaves, static.out_avals, strict=True)]


def _check_cotangent(ct: Any, aval: Any) -> Any:
    expected = aval.dtype if is_inexact(aval) else jax.dtypes.float0
    if getattr(ct, "dtype", None) != jax.dtypes.float0:
        ct = _as_array(ct)
    if ct.shape != aval.shape or ct.dtype != expected:
        short = "float0" if expected == jax.dtypes.float0 else jnp.dtype(expected).name
        shape = ",".join(map(str, aval.shape))
        raise ValueError(
            "unexpected JAX type (e.g. shape/dtype) for argument to VJP function: "
            f"got {aval_of(ct).str_short()}, but expected {short}[{shape}] "
            "because the corresponding output of the differentiated function had JAX type "
            f"{aval.str_short()}"
        )
    return None if expected == jax.dtypes.float0 else ct
