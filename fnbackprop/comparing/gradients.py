"""`compare`: the manual gradient beside the automatic one and beside differences of the function."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from fnbackprop import trees

from .leaves import ROUNDING, compare_leaf, relative_error
from .numeric import compare_numeric
from .program import Facts, Program, facts_of, is_array, make_program, unit_roundoff
from .verdict import Comparison, LeafComparison
from .witnesses import gradient_function, is_inexact, shaken

NOISE_SAMPLES = 2


def compare(
    fun: Callable,
    *args: Any,
    argnums: int | Sequence[int] = 0,
    has_aux: bool | None = None,
    directions: int = 4,
    float64: bool = False,
    seed: int = 0,
) -> Comparison:
    """Compare the manual gradient of `fun` at `args` with the automatic one and with differences of `fun`.

    Each leaf's error, the norm of manual - automatic over that of automatic, is held against what rounding explains:
    the larger of 4 (u sqrt(n) + u), where u is the unit roundoff of the coarsest dtype in the program and n the number
    of terms in its longest sum, and of 4 times the leaf's noise, which is how far the automatic gradient moves when
    the last bit of every input changes. There is no absolute tolerance. All is compiled, with matrix products in their
    highest precision, so that the mathematics is compared and not the shortcuts of a device.

    Args:
      fun: a function of real scalar value, or of `(value, aux)`.
      *args: its arguments, as for `jax.grad`. Arrays are traced; anything else is passed as it is.
      argnums: which arguments are differentiated.
      has_aux: whether `fun` returns a pair; by default, seen from what it returns.
      directions: how many Gaussian directions the numeric witness takes; 0 leaves it out.
      float64: compare the same function on float64 copies of the arguments: rounding hides nothing then, and the
        numeric witness sees errors of 1e-8. A function that fixes its dtypes itself gains nothing by it.
      seed: of the directions.

    Returns:
      a Comparison: print it, ask it `.ok`, or `.require()` it in a test.
    """
    if float64:
        with jax.enable_x64(True):
            args = jax.tree.map(_in_float64, args)
            return compare(fun, *args, argnums=argnums, has_aux=has_aux, directions=directions, seed=seed)
    program = make_program(fun, args, argnums, has_aux)
    with jax.default_matmul_precision("highest"):
        facts = facts_of(program)
        value, manual = gradient_function(program, "manual")(program.inputs, program.others)
        automatic_function = gradient_function(program, "automatic")
        reference = automatic_function(program.inputs, program.others)
        noise = measured_noise(program, facts, automatic_function, reference)
        problems = structure_problems(manual, reference[1])
        numeric = None
        if directions and not problems:
            numeric = compare_numeric(program, facts, manual, reference[1], directions, seed)
    return Comparison(
        name=program.name,
        value=compare_leaf("(value)", value, reference[0], rounding_floor(facts), noise[0]),
        leaves=() if problems else _compare_leaves(program, facts, manual, reference[1], noise[1:]),
        numeric=numeric,
        problems=problems,
        tolerance=_in_words(facts),
        seed=seed,
    )


def _in_float64(leaf: Any) -> Any:
    if not is_array(leaf) or not is_inexact(leaf):
        return leaf
    return leaf.astype("complex128" if jax.numpy.iscomplexobj(leaf) else "float64")


def rounding_floor(facts: Facts) -> float:
    """c (u_acc sqrt(n) + u): sums of n terms are taken in float32 at least, results kept in the coarsest dtype."""
    store = unit_roundoff(facts.dtype)
    return ROUNDING * (min(store, unit_roundoff("float32")) * math.sqrt(facts.terms) + store)


def measured_noise(program: Program, facts: Facts, function: Callable, reference: Any) -> list[float]:
    """How far the value and each leaf of the gradient move, relatively, when every input's last bit changes."""
    noise = [0.0] * len(jax.tree.leaves(reference))
    for sample in range(NOISE_SAMPLES):
        arguments = shaken((program.inputs, program.others), sample, unit_roundoff(facts.dtype))
        moved = zip(jax.tree.leaves(function(*arguments)), jax.tree.leaves(reference), strict=True)
        noise = [max(old, _error_or_zero(*pair)) for old, pair in zip(noise, moved, strict=True)]
    return noise


def structure_problems(manual: Any, automatic: Any) -> tuple[str, ...]:
    """Empty, or what is wrong with the manual gradient's tree."""
    found, expected = jax.tree.structure(manual), jax.tree.structure(automatic)
    return () if found == expected else (f"the manual gradient has the structure {found}, the automatic {expected}",)


def _error_or_zero(found: Any, reference: Any) -> float:
    """The relative error, and 0 where there is none: an integer's gradient, or values that are not finite."""
    if reference.dtype == jax.dtypes.float0:
        return 0.0
    error = relative_error(found, reference)
    return 0.0 if math.isnan(error) else error


def _compare_leaves(
    program: Program, facts: Facts, manual: Any, automatic: Any, noise: list[float]
) -> tuple[LeafComparison, ...]:
    paths = [path for i, tree in zip(program.argnums, automatic, strict=True) for path in _paths(program, i, tree)]
    leaves = zip(paths, jax.tree.leaves(manual), jax.tree.leaves(automatic), noise, strict=True)
    floor = rounding_floor(facts)
    return tuple(compare_leaf(path, ours, theirs, floor, moved) for path, ours, theirs, moved in leaves)


def _paths(program: Program, argnum: int, tree: Any) -> list[str]:
    """The leaves' paths, with the argument's position in front where it is needed to know which is meant."""
    paths = [path for path, _ in trees.leaves_with_paths(tree)]
    if len(program.argnums) == 1 and "" not in paths:
        return paths
    return ["/".join(filter(None, (f"args[{argnum}]", path))) for path in paths]


def _in_words(facts: Facts) -> str:
    bits = round(-math.log2(unit_roundoff(facts.dtype)))
    return (
        f"allowed: 4 (u sqrt(n) + u) = {rounding_floor(facts):.1e} with u = 2^-{bits} ({facts.dtype}) and n = "
        f"{facts.terms} terms in the longest sum; or 4 times the noise, where a leaf has more"
    )
