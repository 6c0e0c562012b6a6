"""`block`: a function with a backward of its own, usable from any JAX code, and audited by `fb.compare`."""

import inspect
import types
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from ..backprop.arguments import tree_differences
from ..jaxprs.avals import aval_of, is_inexact, varying_axes, zeros_like_aval

# Whether a block called now has its plain definition as the function that its backward belongs to. `fb.compare` traces
# programs so: it then holds the backward against the plain definition, and the forward's value too.
tracing_plain_definitions = jax.make_user_context(False)


def block(
    forward: Callable,
    backward: Callable,
    *,
    plain: Callable | None = None,
    value: Callable | None = None,
    name: str | None = None,
) -> "Block":
    """A function with a hand-written backward, under `fb.grad`, `jax.grad`, `jit`, `vmap`, `scan`, `jax.checkpoint`
    and `shard_map`; higher derivatives are those of its forward and backward.

    Args:
        forward: `(*args, **options) -> (output, residuals)`. Its positional parameters are pytrees of arrays, or None;
            its keyword-only ones are options: Python values, constant in a call. Both may have defaults. The residuals
            are any pytree, for the backward.
        backward: `(residuals, output cotangent) -> (cotangent, ...)`: a tuple with one for each positional parameter of
            `forward`, None for zero (of integers, booleans and keys always). Of the options it gets those that it has
            keyword-only parameters for; and as `wanted`, if it has that, which arguments need a cotangent: a tuple of
            bools. The forward may have `wanted` too.
        plain: the same function in a few lines of plain JAX, `(*args, **options) -> output`: what the block must equal.
            `fb.compare` holds the block's value and cotangents against it, on the actual operands of each call.
        value: `(*args, **options) -> output`, for calls that are not differentiated; by default the forward's output.
        name: of the block in messages; by default that of `plain`, or of `forward`.
    Returns:
        The function `(*args, **options) -> output`, with all of these as attributes.
    Raises:
        TypeError: an option cannot be hashed, as an array; or, once the backward runs, it did not return one cotangent
            for each argument.
        ValueError: a cotangent has another shape or structure than its argument.
    Example:
        >>> import jax, jax.numpy as jnp, fnbackprop as fb
        >>> def forward(x, w):
        ...     y = jnp.tanh(x @ w)                          # 1
        ...     return y, (x, w, y)
        >>> def backward(residuals, dy):
        ...     x, w, y = residuals
        ...     dz = dy * (1 - y**2)                         # through tanh of line 1
        ...     return dz @ w.T, x.T @ dz                    # through the product
        >>> layer = fb.block(forward, backward, plain=lambda x, w: jnp.tanh(x @ w), name="layer")
        >>> x, w = jnp.array([[1.0, 2.0]]), jnp.array([[0.5], [0.25]])
        >>> print(jax.grad(lambda x, w: jnp.sum(layer(x, w)))(x, w))
        [[0.20998716 0.10499358]]
        >>> fb.compare(lambda x, w: jnp.sum(layer(x, w) ** 2), x, w, argnums=(0, 1)).ok
        True
    """
    given = name or (plain or forward).__name__
    return Block(forward, backward, plain, value, given)


class Block:
    """See `block`."""

    def __init__(
        self, forward: Callable, backward: Callable, plain: Callable | None, value: Callable | None, name: str
    ):
        self.forward, self.backward, self.plain, self.value, self.name = forward, backward, plain, value, name
        self.signature = inspect.signature(forward)
        kinds = {p.kind for p in self.signature.parameters.values()}
        if inspect.Parameter.VAR_POSITIONAL in kinds or inspect.Parameter.VAR_KEYWORD in kinds:
            raise TypeError(f"fb.block {name}: forward has *args or **kwargs: name its parameters (a pytree is one)")
        options = {p.name for p in self.signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
        self.arguments = tuple(p for p in self.signature.parameters if p not in options)
        self.options = options - {"wanted"}
        self.backward_options = _keyword_only(backward) & options
        self.told = {part for part in (forward, backward) if "wanted" in _keyword_only(part)}
        self.__name__ = self.__qualname__ = name
        self.__doc__ = (plain or forward).__doc__
        self.__wrapped__ = plain or forward  # whose signature help() shows

    def __repr__(self) -> str:
        return f"<block {self.name}({', '.join(self.arguments)})>"

    def __call__(self, *args: Any, **options: Any) -> Any:
        given = self.signature.bind_partial(*args, **options)
        given.apply_defaults()
        missing = [p for p in (*self.arguments, *sorted(self.options)) if p not in given.arguments]
        if missing:
            raise TypeError(f"{self.name}() misses {', '.join(missing)}")
        chosen = {option: given.arguments[option] for option in self.options}
        for option, chosen_value in chosen.items():
            _require_static(self.name, option, chosen_value)
        constant = tuple(sorted(chosen.items()))
        function = _differentiable(self, constant, repr(constant), tracing_plain_definitions.value)
        return function(*_varying_alike([given.arguments[p] for p in self.arguments]))


def _keyword_only(function: Callable) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}


def _require_static(name: str, option: str, chosen: Any) -> None:
    if not isinstance(chosen, Hashable) or isinstance(chosen, jax.Array):
        raise TypeError(
            f"{name}(): {option} is an option, a constant of the call, but it is a {type(chosen).__name__}: give an "
            "int, float, bool, str, None or tuple of these. What is computed or differentiated goes into a positional "
            "parameter of the block's forward."
        )


def _varying_alike(args: list[Any]) -> list[Any]:
    """The arguments inside `shard_map`, each varying over the axes that any of them varies over: the sum over devices
    of a replicated argument's cotangents is then that of this conversion."""
    leaves, tree = jax.tree.flatten(args)
    axes = [varying_axes(aval_of(leaf)) for leaf in leaves]
    union = frozenset().union(*axes)
    if all(own == union for own in axes):
        return args
    pairs = zip(leaves, axes, strict=True)
    return tree.unflatten([lax.pcast(leaf, tuple(union - own), to="varying") for leaf, own in pairs])


# ---------------------------------------------------------------- as JAX's custom_vjp


class _Argument(NamedTuple):
    """What is known of an argument before anything runs."""

    tree: Any
    avals: tuple[jax.ShapeDtypeStruct, ...]
    wanted: bool


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Arguments:
    """Those of a call, as a part of the residuals."""

    each: tuple[_Argument, ...]


@lru_cache(maxsize=1024)
def _differentiable(block: Block, options: tuple[tuple[str, Any], ...], spelled: str, as_plain: bool) -> Callable:
    """The block with these options, as a function that JAX and our engine differentiate by its backward.

    spelled: the options as text, which tells 1 from 1.0 and True, and 0.0 from -0.0. as_plain: its own value is that of
    the plain definition."""
    chosen, symbolic = dict(options), bool(block.told)

    def primal(*args):
        if as_plain and block.plain is not None:
            return block.plain(*args, **chosen)
        if block.value is not None:
            return block.value(*args, **chosen)
        return _run_forward(block, args, chosen, [True] * len(args))[0]

    def forward(*args):
        wanted = [_any_perturbed(arg) for arg in args] if symbolic else [True] * len(args)
        args = jax.tree.map(lambda leaf: leaf.value, args) if symbolic else args
        output, residuals = _run_forward(block, args, chosen, wanted)
        return output, (residuals, _Arguments(tuple(map(_describe, args, wanted))))

    def backward(saved, cotangent):
        residuals, arguments = saved
        cotangent = jax.tree.map(_as_array, cotangent, is_leaf=_is_symbolic_zero) if symbolic else cotangent
        given = {option: chosen[option] for option in block.backward_options if option in chosen}
        if block.backward in block.told:
            given["wanted"] = tuple(argument.wanted for argument in arguments.each)
        return _checked(block, block.backward(residuals, cotangent, **given), arguments.each)

    function = jax.custom_vjp(_named_like(primal, block.forward, block.name))
    function.defvjp(forward, _named_like(backward, block.backward, block.backward.__name__), symbolic_zeros=symbolic)
    return function


def _run_forward(block: Block, args: Any, chosen: dict[str, Any], wanted: list[bool]) -> tuple[Any, Any]:
    told = {"wanted": tuple(wanted)} if block.forward in block.told else {}
    found = block.forward(*args, **chosen, **told)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise TypeError(
            f"the forward of block {block.name} must return a pair (output, residuals), but returned a "
            f"{type(found).__name__}{f' of {len(found)}' if isinstance(found, tuple | list) else ''}."
        )
    return found[0], found[1]


def _named_like(function: Callable, users: Callable, name: str) -> Callable:
    """Give a function the name and source line that reports show."""
    if isinstance(users, types.FunctionType):
        function.__signature__ = inspect.signature(function)  # else that of `__wrapped__`
        function.__wrapped__ = types.FunctionType(users.__code__, {}, name, None, users.__closure__)
    function.__name__ = name
    return function


def _describe(arg: Any, wanted: bool) -> _Argument:
    leaves, tree = jax.tree.flatten(arg)
    avals = tuple(jax.ShapeDtypeStruct(aval_of(leaf).shape, aval_of(leaf).dtype) for leaf in leaves)
    return _Argument(tree, avals, wanted)


def _any_perturbed(arg: Any) -> bool:
    return any(leaf.perturbed for leaf in jax.tree.leaves(arg, is_leaf=lambda x: hasattr(x, "perturbed")))


def _is_symbolic_zero(x: Any) -> bool:
    return isinstance(x, jax.custom_derivatives.SymbolicZero)


def _as_array(ct: Any) -> Any:
    if not _is_symbolic_zero(ct):
        return ct
    return np.zeros(ct.shape, ct.dtype) if ct.dtype == jax.dtypes.float0 else zeros_like_aval(ct.aval)


# ---------------------------------------------------------------- what the backward returned


def _checked(block: Block, found: Any, arguments: tuple[_Argument, ...]) -> tuple[Any, ...]:
    """The cotangents of the arguments in their structure and dtype."""
    names = ", ".join(block.arguments)
    if not isinstance(found, tuple | list) or len(found) != len(arguments):
        what = f"{len(found)} cotangents" if isinstance(found, tuple | list) else f"a {type(found).__name__}"
        raise TypeError(
            f"the backward of block {block.name} returned {what} for the {len(arguments)} arguments of its forward "
            f"({names}): return a tuple with one cotangent for each, None for zero."
        )
    parts = zip(block.arguments, found, arguments, strict=True)
    return tuple(_checked_argument(block.name, name, ct, argument) for name, ct, argument in parts)


def _checked_argument(block: str, name: str, ct: Any, argument: _Argument) -> Any:
    if ct is None:
        return None
    leaves, tree = jax.tree.flatten(ct, is_leaf=lambda x: x is None)
    if tree != argument.tree:
        where = f"the backward of block {block} returned a cotangent of another structure than its argument {name}"
        raise ValueError(f"{where}:\n{tree_differences(argument.tree, tree, name, 'the argument', 'the cotangent')}")
    paths = [path for path, _ in jax.tree.leaves_with_path(argument.tree.unflatten(range(len(leaves))))]
    parts = zip(paths, leaves, argument.avals, strict=True)
    return tree.unflatten([_checked_leaf(block, name + jax.tree_util.keystr(p), ct, aval) for p, ct, aval in parts])


def _checked_leaf(block: str, place: str, ct: Any, aval: jax.ShapeDtypeStruct) -> Any:
    if ct is None or getattr(ct, "dtype", None) == jax.dtypes.float0:
        return None
    if not is_inexact(aval):
        raise TypeError(
            f"the backward of block {block} returned a cotangent for its argument {place}, which is {aval.dtype} and "
            "has none: return None there."
        )
    found = aval_of(ct)
    if found.shape != aval.shape:
        raise ValueError(
            f"the backward of block {block} returned a cotangent of shape {found.shape} for its argument {place}, "
            f"which has shape {aval.shape}."
        )
    if jax.numpy.iscomplexobj(ct) and not jax.numpy.issubdtype(aval.dtype, jax.numpy.complexfloating):
        ct = lax.real(ct)
    return lax.convert_element_type(ct, aval.dtype)
