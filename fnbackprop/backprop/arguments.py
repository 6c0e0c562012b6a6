"""The arguments of `grad` and its kin: selected by `argnums`, and checked, with JAX's error messages."""

import functools
import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..jaxprs.avals import as_jax_array, aval_of, cotangent_aval, is_hijax, is_inexact, is_value
from ..jaxprs.compat import equality_errors_pytreedef
from ..jaxprs.lists import merge, partition
from ..jaxprs.types import Aval

_is_of = functools.lru_cache(jnp.issubdtype)  # a dtype and a kind of dtypes


def check_callable(fun: Any) -> None:
    if not callable(fun):
        raise TypeError(f"Expected a callable value, got {fun}")


def positions_of(argnums: Any) -> int | tuple[int, ...]:
    """Positions as ints, as `jax.grad` takes them."""
    try:
        return operator.index(argnums)
    except TypeError:
        return tuple(operator.index(i) for i in argnums)


def check_positions(argnums: int | tuple[int, ...], args: tuple) -> None:
    """Raise TypeError if a call has not the arguments that `grad` is to differentiate."""
    highest = argnums if isinstance(argnums, int) else max(argnums, default=-1)
    if highest >= len(args):
        raise TypeError(
            f"differentiating with respect to {argnums=} requires at least {highest + 1} positional arguments to be "
            f"passed by the caller, but got only {len(args)} positional arguments."
        )


def select_arguments(fun: Callable, argnums: int | tuple[int, ...], args: tuple, kwargs: dict):
    """`fun` as a function of the differentiated arguments alone, and these arguments."""
    positions = (argnums,) if isinstance(argnums, int) else argnums
    absent = [i for i in positions if not -len(args) <= i < len(args)]
    if absent:
        raise ValueError(
            "Positional argument indices, e.g. for `static_argnums`, must have value greater than or equal to "
            f"-len(args) and less than len(args), but got value {absent[0]} for len(args) == {len(args)}."
        )
    positions = tuple(i % len(args) for i in positions)
    if len(set(positions)) < len(positions):
        twice = next(i for i in positions if positions.count(i) > 1)
        raise TypeError(f"{argnums=} names the positional argument {twice} more than once.")

    @functools.wraps(fun)
    def partial(*dynamic):
        full = list(args)
        for i, value in zip(positions, dynamic, strict=True):
            full[i] = value
        return fun(*full, **kwargs)

    return partial, tuple(args[i] for i in positions)


_ARRAYS, _ARRAY_LIKE = (jax.Array, jax.Ref), (jax.Array, np.ndarray, np.generic, bool, int, float, complex)


def is_array_like(leaf: Any) -> bool:
    return isinstance(leaf, _ARRAY_LIKE)


def is_traceable(leaf: Any) -> bool:
    """Whether a leaf is an array, a number or an aval, and no function, string or other object."""
    return is_array_like(leaf) or hasattr(leaf, "dtype") or hasattr(leaf, "__jax_array__")


def function_of_arrays(fun: Callable, args: Sequence[Any], kwargs: dict) -> tuple[Callable, list[Any]]:
    """`fun` as a function of the arrays among the leaves of `args`, and these: all else stays what it is, the functions
    in an Equinox model for example."""
    leaves, tree = jax.tree.flatten(tuple(args))
    traced = list(map(is_traceable, leaves))
    arrays, others = partition(leaves, traced)

    @functools.wraps(fun)
    def function(*arrays):
        return fun(*tree.unflatten(merge(traced, arrays, others)), **kwargs)

    return function, arrays


def require_floating(args: dict[str, Any], caller: str) -> None:
    """Raise TypeError if no argument has a floating array, which has the remedy if one is an object of some class.

    args: by what they are called. caller: the public function, for the remedy."""
    leaves = [(name, path, leaf) for name, arg in args.items() for path, leaf in jax.tree.leaves_with_path(arg)]
    if any(hasattr(leaf, "dtype") and is_inexact(leaf) or isinstance(leaf, float | complex) for *_, leaf in leaves):
        return
    where = next(((name + jax.tree_util.keystr(path), x) for name, path, x in leaves if not is_traceable(x)), None)
    if where is None:
        raise TypeError(f"{' and '.join(args) or 'no argument'}: no floating array, so nothing to differentiate.")
    name, found = where
    raise TypeError(
        f"{name} is of type {type(found).__module__}.{type(found).__qualname__}, in which JAX sees no arrays, so there "
        f"is nothing to differentiate. Pass its arrays, and put it together inside:\n{_remedy(type(found), caller)}"
    )


def _remedy(kind: type, caller: str) -> str:
    if any(base.__module__.startswith("flax.nnx") for base in kind.__mro__):
        take, put = "graph, params, rest = nnx.split(model, nnx.Param, ...)", "nnx.merge(graph, params, rest)"
    else:
        take, put = "params = ...  # its arrays, as a dict", f"{kind.__name__}(**params)"
    return f"    {take}\n    fb.{caller}(lambda params, *args: fun({put}, *args), params, *args)"


def as_array(leaf: Any) -> Any:
    """A primal as an array; a Python scalar stays weakly typed."""
    if isinstance(leaf, _ARRAYS):
        return leaf
    if not is_array_like(leaf):
        if is_value(leaf):
            return leaf
        raise TypeError(f"Argument {leaf!r} of type {type(leaf)} is not a valid JAX type")
    return as_jax_array(leaf)


def as_arrays(fun: Callable, in_tree: Any, leaves: Sequence[Any]) -> list[Any]:
    """A function's primals as arrays. Raises ValueError if one mutable reference stands at two places: each would be a
    value of its own."""
    leaves = [as_array(leaf) for leaf in leaves]
    places: dict[int, int] = {}
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, jax.Ref) and places.setdefault(id(leaf), i) != i:
            one, other = (_name(fun, in_tree, k) for k in (places[id(leaf)], i))
            name = getattr(fun, "__name__", repr(fun))
            raise ValueError(
                f"only one reference to a mutable array may be passed as an argument to a function, but {name} got the "
                f"same mutable array reference of type {jax.typeof(leaf)} at {one} and {other}."
            )
    return leaves


def _name(fun: Callable, in_tree: Any, number: int) -> str:
    """What a user calls a leaf of the positional arguments: "x", "params['w']"."""
    paths = jax.tree.leaves_with_path(in_tree.unflatten(range(in_tree.num_leaves)))
    first, *rest = paths[number][0]
    try:
        names = list(inspect.signature(fun).parameters)
    except (TypeError, ValueError):  # of what is built in
        names = []
    name = names[first.idx] if first.idx < len(names) else f"args[{first.idx}]"
    return name + jax.tree_util.keystr(tuple(rest))


def check_input(name: str, holomorphic: bool, allow_int: bool, leaf: Any) -> None:
    leaf = as_array(leaf)
    if is_hijax(aval := aval_of(leaf)):
        if not (is_inexact(aval) or allow_int):
            raise TypeError(f"{name} requires inputs with tangents, but the hijax type {aval} has none.")
        return
    dtype = leaf.dtype
    if holomorphic and not _is_of(dtype, np.complexfloating):
        raise TypeError(
            f"{name} with holomorphic=True requires inputs with complex dtype, but got {np.dtype(dtype).name}."
        )
    if not _is_of(dtype, np.inexact) and not allow_int:
        raise TypeError(
            f"{name} requires real- or complex-valued inputs (input dtype that is a sub-dtype of np.inexact), but got "
            f"{dtype.name}. If you want to use Boolean- or integer-valued inputs, use vjp or set allow_int to True."
        )


def check_scalar(value: Any) -> None:
    if not is_array_like(value):
        raise TypeError(f"Gradient only defined for scalar-output functions. Output was {value}.")
    if jnp.shape(value) != ():
        raise TypeError(
            f"Gradient only defined for scalar-output functions. Output had shape: {jnp.shape(value)}."
            " To get the gradient, reduce the output to a scalar with output.sum(), or use jax.jacobian to"
            " differentiate a function with a non-scalar output."
        )


def check_output(name: str, holomorphic: bool, value: Any) -> None:
    dtype = aval_of(value).dtype
    if _is_of(dtype, jax.dtypes.extended):
        raise TypeError(f"{name} with output element type {dtype.name}")
    is_complex = _is_of(dtype, np.complexfloating)
    if holomorphic and not is_complex:
        raise TypeError(f"{name} with holomorphic=True requires outputs with complex dtype, but got {dtype.name}.")
    if holomorphic or _is_of(dtype, np.floating):
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


def check_cotangents(cotangents: Any, out_tree: Any, out_avals: Sequence[Aval], name: str) -> list[Any]:
    """The flat cotangents (None for integer outputs) of the function `name`, after a check of tree, shape and dtype."""
    leaves, tree = jax.tree.flatten(cotangents)
    if tree != out_tree:
        raise ValueError(
            "unexpected tree structure.\n\nThe argument to a VJP function returned by `fb.vjp` must match the pytree "
            f"structure of the differentiated function {name}.\n\n"
            f"{tree_differences(out_tree, tree, 'out', 'the original output', 'the cotangent')}"
        )
    return [_check_cotangent(ct, aval, i, out_tree) for i, (ct, aval) in enumerate(zip(leaves, out_avals, strict=True))]


def tree_differences(expected: Any, given: Any, root: str, what_expected: str, what_given: str) -> str:
    """Where two tree structures differ, a line for each place."""
    found = [
        f"  * {root}{jax.tree_util.keystr(path)} was a {one} in {what_expected}, but a {other} in {what_given}: {why}."
        for path, one, other, why in equality_errors_pytreedef(expected, given)
    ]
    return "\n".join(found) or f"  * {what_expected} had the structure {expected}, but {what_given} has {given}"


def _check_cotangent(ct: Any, aval: Aval, position: int, out_tree: Any) -> Any:
    if getattr(ct, "dtype", None) != jax.dtypes.float0:
        ct = as_array(ct)
    if is_hijax(aval) or is_hijax(aval_of(ct)):
        if aval_of(ct) != cotangent_aval(aval):
            raise ValueError(
                f"unexpected JAX type for argument to VJP function: got {aval_of(ct)}, but expected "
                f"{cotangent_aval(aval)}{_place(position, out_tree)}"
            )
        return ct
    if not is_inexact(aval) and ct.shape == aval.shape:
        return None  # JAX takes those of any dtype
    if ct.shape != aval.shape or ct.dtype != aval.dtype:
        short = jnp.dtype(aval.dtype).name if is_inexact(aval) else "float0"
        shape = ",".join(map(str, aval.shape))
        raise ValueError(
            "unexpected JAX type (e.g. shape/dtype) for argument to VJP function: "
            f"got {aval_of(ct).str_short()}, but expected {short}[{shape}] "
            "because the corresponding output of the differentiated function had JAX type "
            f"{aval.str_short()}{_place(position, out_tree)}"
        )
    return ct


def _place(position: int, out_tree: Any) -> str:
    """Which leaf of an output is meant, where it has several parts."""
    paths = [path for path, _ in jax.tree.leaves_with_path(out_tree.unflatten(range(out_tree.num_leaves)))]
    return f" (out{jax.tree_util.keystr(paths[position])})" if paths[position] else ""
