"""`fnbackprop compare MODULE:FUNCTION`: any function, at arguments that the command line describes."""

import ast
import dataclasses
import difflib
import inspect
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..writing import writing
from .comparison import Comparison
from .pipeline import compare
from .weighted import differentiable, weighted

EXAMPLE_ARGS = "example_args"
SETTINGS = ("directions", "leaf_directions", "rules", "reference", "float64", "environment", "intended")
DTYPES = {
    "bf16": "bfloat16", "f16": "float16", "f32": "float32", "f64": "float64", "c64": "complex64", "c128": "complex128",
    "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64", "u8": "uint8", "u32": "uint32", "bool": "bool",
}  # fmt: skip
ARRAY = re.compile(rf"({'|'.join(DTYPES)})\[([\d,\s]*)\](?::(\d+))?")
FORMS = (
    "an array by dtype and shape, f32[8,3] (Gaussian) or i32[8]:10 (from 0 to 9)",
    "key, a random key",
    "a Python value, like 0.5 or 'gelu'",
)


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """Which gradient_sources are asked and how, and where the result is written."""

    directions: int = 4
    """How many Gaussian directions the numeric evaluator takes."""
    leaf_directions: bool | None = None
    """Whether it takes one more for each leaf alone; by default, as far as that takes some seconds."""
    rules: bool = True
    """Ask every equation's rule in place (--no-rules: do not)."""
    reference: bool = True
    """Hold both gradients against the same program in float64 (--no-reference: do not)."""
    float64: bool = False
    """Compare on float64 copies of parameters and data."""
    direction_seed: int = 0
    """The seed of the directions."""
    environment: bool = False
    """Compare under vmap, remat, without jit, with loops unrolled, and sharded as well."""
    intended: tuple[str, ...] = ()
    """Functions of yours whose rule differs from their derivative on purpose."""
    json: Path | None = None
    """Write the comparison to this file as well."""
    html: Path | None = None
    """Write it as one page for a browser."""

    def settings(self) -> dict[str, Any]:
        """The keywords of `compare`."""
        return {name: getattr(self, name) for name in SETTINGS} | {"seed": self.direction_seed}


@dataclasses.dataclass(frozen=True)
class FunctionOptions(ReportOptions):
    """The arguments at which a function is compared."""

    args: tuple[str, ...] = ()
    """Its arguments, one after the other: see above. Or the name of a function of the module that returns them."""
    argnums: tuple[int, ...] = ()
    """Which of them are differentiated: by default, all that have a floating array."""
    seed: int = 0
    """The seed of the arrays and keys."""

    def mode(self) -> AbstractContextManager[Any]:
        """The context in which arguments are made and the function is compared."""
        return jax.enable_x64(self.float64 or bool(jax.config.jax_enable_x64))


class TargetError(Exception):
    """What is wrong with the function or the arguments that were named, for the terminal."""


def compared_function(
    module: ModuleType, name: str, options: FunctionOptions
) -> tuple[Comparison, Callable, tuple, tuple[int, ...]]:
    """The comparison of a function of a module; and the function, its arguments, and which are differentiated."""
    fun, args, chosen = function_and_arguments(module, name, options)
    return compare(fun, *args, argnums=chosen, has_aux=False, **options.settings()), fun, args, chosen


def function_and_arguments(module: ModuleType, name: str, options: Any) -> tuple[Callable, tuple, tuple[int, ...]]:
    """A function of a module, as one of scalar value; its arguments; and which of them are differentiated.

    options: with `args`, `argnums` and `seed`, as those of `FunctionOptions`. Raises TargetError."""
    fun = _member(module, name)
    args = make_arguments(module, options.args, options.seed)
    chosen = tuple(options.argnums or _checked(differentiable, args))
    _require_signature(fun, name, args, chosen)
    return weighted_loss(fun), args, chosen


def _require_signature(fun: Callable, name: str, args: Sequence[Any], argnums: Sequence[int]) -> None:
    """Raise TargetError if `fun` does not take these arguments, or if there is no argument at one of `argnums`."""
    if not all(-len(args) <= i < len(args) for i in argnums):
        raise TargetError(f"--argnums {' '.join(map(str, argnums))} names no argument: there are {len(args)}.")
    try:
        signature = inspect.signature(fun)
    except ValueError:  # some callables do not tell
        return
    try:
        signature.bind(*args)
    except TypeError as error:
        raise TargetError(f"{name}{signature} does not take {len(args)} arguments: {error}.") from None


def _checked(function: Callable, *args: Any) -> Any:
    """The function's value; what it finds wrong is told without a traceback."""
    try:
        return function(*args)
    except TypeError as error:
        raise TargetError(str(error)) from None


def weighted_loss(fun: Callable) -> Callable:
    """`weighted(fun)`, where a pair of a scalar and more is a loss with its metrics, as in an experiment."""

    def loss(*args: Any) -> Any:
        out = fun(*args)
        pair = isinstance(out, tuple) and len(out) == 2 and jnp.shape(out[0]) == () and not jnp.iscomplexobj(out[0])
        return out[0] if pair else out

    loss.__name__ = getattr(fun, "__name__", type(fun).__name__)
    return weighted(loss)


def report(comparison: Comparison, options: ReportOptions) -> int:
    """Print a comparison, write it where it is wanted, and return the exit status: 0 only on PASS."""
    import rich

    rich.get_console().print(comparison)
    if options.json is not None:
        with writing(options.json):
            options.json.write_text(comparison.to_json() + "\n", encoding="utf-8")
    if options.html is not None:
        with writing(options.html):
            comparison.html(options.html)
    return 0 if comparison.ok else 1


# ---------------------------------------------------------------- arguments from words


def make_arguments(module: ModuleType, words: Sequence[str], seed: int) -> tuple[Any, ...]:
    """The arguments by their descriptions; without any, or by a name alone, from a function of the module."""
    if not words and not hasattr(module, EXAMPLE_ARGS):
        raise TargetError(
            f"at which arguments? Give --args, each {'; '.join(FORMS)}; or define {EXAMPLE_ARGS}() in "
            f"{module.__name__}, a function that returns them as a tuple."
        )
    if len(words) <= 1 and (not words or words[0].isidentifier() and hasattr(module, words[0])):
        return _from_module(module, words[0] if words else EXAMPLE_ARGS)
    return tuple(make_argument(word, seed, position) for position, word in enumerate(words))


def _from_module(module: ModuleType, name: str) -> tuple[Any, ...]:
    found = _member(module, name)()
    if not isinstance(found, tuple):
        raise TargetError(f"{module.__name__}.{name}() must return a tuple of arguments, but returned {type(found)}.")
    return found


def make_argument(word: str, seed: int, position: int) -> Any:
    """One argument: an array of random numbers, a key, or a Python value."""
    array = ARRAY.fullmatch(word)
    if array:
        dtype, shape, bound = DTYPES[array[1]], tuple(int(n) for n in array[2].split(",") if n.strip()), array[3]
        if np.dtype(jnp.dtype(dtype)) != jax.dtypes.canonicalize_dtype(dtype):
            raise TargetError(f"{word} needs 64-bit mode: add --float64.")
        return _random_array(np.random.default_rng([seed, position]), jnp.dtype(dtype), shape, bound)
    if word == "key":
        return jax.random.key(seed + position)
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        raise TargetError(f"argument {position}, {word!r}, is none of these: {'; '.join(FORMS)}.") from None


def _random_array(random: np.random.Generator, dtype: Any, shape: tuple[int, ...], bound: str | None) -> jax.Array:
    if jnp.issubdtype(dtype, jnp.inexact):
        if bound:
            raise TargetError("only integers take a bound, as in i32[8]:10.")
        imaginary = 1j * random.normal(size=shape) if jnp.issubdtype(dtype, jnp.complexfloating) else 0
        return jnp.asarray(random.normal(size=shape) + imaginary, dtype)
    return jnp.asarray(random.integers(0, int(bound or 2), shape), dtype)


def _member(module: ModuleType, name: str) -> Callable:
    """A function of a module, `name` or `Class.name`."""
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise TargetError(f"{module.__name__} has no function {name!r}.{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise TargetError(f"{module.__name__}.{name} is no function, but {type(found).__name__}.")
    return found
