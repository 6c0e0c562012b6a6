"""The function to be compared as a program: which of its inputs are differentiated, and what its equations are."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.jaxprs.avals import is_inexact, output_avals
from fnbackprop.jaxprs.evaluate import source_line, trace_flat
from fnbackprop.jaxprs.graph import inner_jaxprs
from fnbackprop.jaxprs.types import Literal, is_var

Arrays = list[Any]


class Program(NamedTuple):
    """A scalar function of two arguments: what is differentiated, and the other arrays.

    Attributes:
      function: `function(inputs, others) -> scalar`.
      inputs: a tuple of the differentiated arguments.
      others: the arrays among the other arguments. What is no array (a string, a function, a Python number) is kept
        as it is, so that Python may branch on it.
      argnums: the positions of the inputs among the user's arguments.
      name: of the user's function.
    """

    function: Callable[[tuple, Arrays], jax.Array]
    inputs: tuple
    others: Arrays
    argnums: tuple[int, ...]
    name: str


def make_program(fun: Callable, args: Sequence[Any], argnums: int | Sequence[int], has_aux: bool | None) -> Program:
    """Split the arguments of `fun`; raises TypeError if `argnums` does not name some of them."""
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if not positions or not all(-len(args) <= i < len(args) for i in positions):
        raise TypeError(f"argnums={argnums!r} must name some of the {len(args)} arguments, from 0 to {len(args) - 1}.")
    positions = tuple(i % len(args) for i in positions)
    rest = [arg for i, arg in enumerate(args) if i not in positions]
    leaves, tree = jax.tree.flatten(rest)
    arrays = [is_array(leaf) for leaf in leaves]

    def function(inputs: tuple, others: Arrays) -> jax.Array:
        given = iter(others)
        kept = iter(jax.tree.unflatten(tree, [next(given) if a else x for a, x in zip(arrays, leaves, strict=True)]))
        differentiated = dict(zip(positions, inputs, strict=True))
        out = fun(*(differentiated[i] if i in differentiated else next(kept) for i in range(len(args))))
        return out[0] if has_aux or (has_aux is None and isinstance(out, tuple)) else out

    others = [leaf for leaf in leaves if is_array(leaf)]
    name = getattr(fun, "__name__", type(fun).__name__)
    return Program(function, tuple(args[i] for i in positions), others, positions, name)


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array (or a numpy scalar), and no Python number."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


class RoundingFacts(NamedTuple):
    """What the tolerance depends on.

    Attributes:
      dtype: the coarsest floating dtype of any value in the program.
      roundoff: of that dtype, or of what `lax.reduce_precision` leaves of it.
      terms: the number of terms in the longest sum, of the forward pass or of the backward pass.
      stop_gradients: the user's lines at which a gradient is stopped.
    """

    dtype: np.dtype
    roundoff: float
    terms: int
    stop_gradients: tuple[str, ...]


class TracedProgram(NamedTuple):
    """A program as JAX traced it.

    Attributes:
      closed: its jaxpr.
      operands: the flat inputs, then the flat others.
      active: which operands are differentiated: the floating inputs.
      users_mode: whether it was traced in 64-bit mode.
    """

    closed: Any
    operands: list[Any]
    active: tuple[bool, ...]
    users_mode: bool


def trace_program(program: Program) -> TracedProgram:
    """Trace the program."""
    operands, tree = jax.tree.flatten((program.inputs, program.others))
    closed = trace_flat(lambda *flat: program.function(*jax.tree.unflatten(tree, flat)), operands).closed
    count = len(jax.tree.leaves(program.inputs))
    active = tuple(i < count and is_inexact(v.aval) for i, v in enumerate(closed.jaxpr.invars))
    return TracedProgram(closed, operands, active, jax.config.jax_enable_x64)


def unused_inputs(traced: TracedProgram) -> set[int]:
    """The positions of the operands that no equation reads and that are no output."""
    jaxpr = traced.closed.jaxpr
    read = {v for e in jaxpr.eqns for v in e.invars if is_var(v)} | {v for v in jaxpr.outvars if is_var(v)}
    return {i for i, v in enumerate(jaxpr.invars) if v not in read}


def facts_of(traced: TracedProgram) -> RoundingFacts:
    """Read the equations that depend on the program's inputs, those in bodies of loops and calls included."""
    jaxpr = traced.closed.jaxpr
    return _facts([v for v, on in zip(jaxpr.invars, traced.active, strict=True) if on], jaxpr)


def facts_of_equation(equation: Any) -> RoundingFacts:
    """The facts of one equation, all that stands in it included."""
    return _facts([v for v in equation.invars if is_var(v)], _Single((equation,)))


class _Single(NamedTuple):
    eqns: tuple[Any, ...]


def _facts(inputs: list[Any], jaxpr: Any) -> RoundingFacts:
    equations = list(_equations(jaxpr, set(inputs)))
    avals = [v.aval for v in inputs] + [aval for e, _ in equations for aval in output_avals(e)]
    dtypes = {aval.dtype for aval in avals if is_inexact(aval)}
    stops = (source_line(e) for e, _ in equations if e.primitive.name == "stop_gradient")
    coarsest = max(dtypes, key=unit_roundoff, default=np.dtype(np.float32))
    terms = max((repeats * _terms(e) for e, repeats in equations), default=1)
    kept = (e.params["mantissa_bits"] for e, _ in equations if e.primitive.name == "reduce_precision")
    roundoff = max([unit_roundoff(coarsest), *(2.0 ** -(bits + 1) for bits in kept)])
    return RoundingFacts(np.dtype(coarsest), roundoff, terms, tuple(dict.fromkeys(stops)))


def unit_roundoff(dtype: Any) -> float:
    """The largest relative error of rounding to nearest: 2**-53, 2**-24 and 2**-8 for float64, float32 and bfloat16."""
    return float(jnp.finfo(dtype).eps) / 2


def _equations(jaxpr: Any, depends: set, repeats: int = 1) -> Iterator[tuple[Any, int]]:
    """Every equation that reads a variable of `depends`, directly or not, and how often the loops around it run it.

    A `while` counts once: its length is not known.
    """
    for equation in jaxpr.eqns:
        reads = [not isinstance(v, Literal) and v in depends for v in equation.invars]
        if not any(reads):
            continue
        yield equation, repeats
        depends.update(equation.outvars)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in inner_jaxprs(equation):
            inner = getattr(inner, "jaxpr", inner)
            same = len(inner.invars) == len(reads) and equation.primitive.name not in ("scan", "while")
            entering = [v for v, read in zip(inner.invars, reads, strict=True) if read] if same else inner.invars
            yield from _equations(inner, set(entering), repeats * times)


def _terms(equation: Any) -> int:
    """The terms in the longest sum that this equation or its backward takes."""
    name, params = equation.primitive.name, equation.params
    operands = [v.aval for v in equation.invars if not isinstance(v, Literal)]
    sizes = [aval.size for aval in (*operands, *output_avals(equation)) if is_inexact(aval) and aval.size]
    if inner_jaxprs(equation) or len(sizes) < 2:
        return 1
    if name == "dot_general" and len(operands) == 2:
        (contracted, _), (batch, _) = params["dimension_numbers"]
        shared = math.prod(operands[0].shape[i] for i in contracted)
        each = shared * math.prod(operands[0].shape[i] for i in batch)
        return max(shared, sizes[0] // each, sizes[1] // each)
    if name == "conv_general_dilated" and len(operands) == 2:
        features = operands[1].shape[params["dimension_numbers"].rhs_spec[0]]
        return max(sizes[1], sizes[2] // features)
    if name == "gather":
        return max(1, sizes[-1] // math.prod(params["slice_sizes"]))
    if name == "broadcast_in_dim" or name.startswith("reduce_"):  # the one is the other's backward
        return max(sizes) // min(sizes)
    return operands[0].shape[params["axis"]] if name.startswith("cum") else 1
