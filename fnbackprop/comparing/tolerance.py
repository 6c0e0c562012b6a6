"""What rounding explains: the facts of a program that it depends on, and the error that is allowed because of it."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fnbackprop.jaxprs.avals import is_inexact, output_avals
from fnbackprop.jaxprs.evaluate import source_line
from fnbackprop.jaxprs.graph import inner_jaxprs
from fnbackprop.jaxprs.types import Literal, is_var

from .program import TracedProgram


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
    avals = [v.aval for v in inputs] + [aval for e, *_ in equations for aval in output_avals(e)]
    dtypes = {aval.dtype for aval in avals if is_inexact(aval)}
    stops = (line for e, _, line in equations if e.primitive.name == "stop_gradient")
    coarsest = max(dtypes, key=unit_roundoff, default=np.dtype(np.float32))
    terms = max((repeats * _terms(e) for e, repeats, _ in equations), default=1)
    kept = (e.params["mantissa_bits"] for e, *_ in equations if e.primitive.name == "reduce_precision")
    roundoff = max([unit_roundoff(coarsest), *(2.0 ** -(bits + 1) for bits in kept)])
    return RoundingFacts(np.dtype(coarsest), roundoff, terms, tuple(dict.fromkeys(stops)))


def unit_roundoff(dtype: Any) -> float:
    """The largest relative error of rounding to nearest: 2**-53, 2**-24 and 2**-8 for float64, float32 and bfloat16."""
    return float(jnp.finfo(dtype).eps) / 2


def _equations(jaxpr: Any, depends: set, repeats: int = 1, around: str = "") -> Iterator[tuple[Any, int, str]]:
    """Every equation that reads a variable of `depends`, directly or not, how often the loops around it run it, and
    where the user wrote it, or else the call that it stands in.

    A `while` counts once: its length is not known.
    """
    for equation in jaxpr.eqns:
        reads = [not isinstance(v, Literal) and v in depends for v in equation.invars]
        if not any(reads):
            continue
        line = source_line(equation) or around
        yield equation, repeats, line
        depends.update(equation.outvars)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in inner_jaxprs(equation):
            inner = getattr(inner, "jaxpr", inner)
            same = len(inner.invars) == len(reads) and equation.primitive.name not in ("scan", "while")
            entering = [v for v, read in zip(inner.invars, reads, strict=True) if read] if same else inner.invars
            yield from _equations(inner, set(entering), repeats * times, line)


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


# ---------------------------------------------------------------- what is allowed because of them

ROUNDING = 4.0  # c: roundings of a sum of n terms add up to about c u sqrt(n)
NOISE = 4.0  # two shaken samples see the size of the noise to within this factor
NOISE_TOO = 2.0  # where the float64 reference tells of the noise as well; it may be small by luck
SAME_PRECISION = 3.0  # K: how much worse than the automatic gradient the manual one may be, against float64
NOISE_LIMIT = 0.1  # an allowed relative error above this proves nothing


class Noise(NamedTuple):
    """What rounding does to a gradient, relative to its norm.

    Attributes:
      shaken: how far the automatic gradient moves when the last bit of every input changes.
      rounded: the automatic gradient's distance from the float64 reference; 0 where there is none.
    """

    shaken: float = 0.0
    rounded: float = 0.0

    @property
    def size(self) -> float:
        return max(self.shaken, self.rounded)


def allowed_error(floor: float, noise: Noise) -> float:
    """The largest of the rounding floor and the noise times K; nothing absolute: a tiny gradient is held to it too."""
    return max(floor, (NOISE_TOO if noise.rounded else NOISE) * noise.shaken, SAME_PRECISION * noise.rounded)


def rounding_floor(facts: RoundingFacts) -> float:
    """c (u_acc sqrt(n) + u): sums of n terms are taken in float32 at least, results kept in the coarsest precision."""
    return ROUNDING * (min(facts.roundoff, unit_roundoff("float32")) * math.sqrt(facts.terms) + facts.roundoff)


def tolerance_in_words(facts: RoundingFacts) -> str:
    bits = round(-math.log2(facts.roundoff))
    floor = rounding_floor(facts)
    return (
        f"allowed: 4 (u sqrt(n) + u) = {floor:.1e} with u = 2^-{bits} ({facts.dtype}) and n = {facts.terms} terms in "
        f"the longest sum; or 2 to 4 times the automatic gradient's own noise, where a leaf has more"
    )
