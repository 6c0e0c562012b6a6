"""How much of a gradient is rounding noise: measured, by changing the last bit of every input and by float32."""

import contextlib
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.blocks.block import tracing_plain_definitions
from fnbackprop.jaxprs.avals import is_inexact
from fnbackprop.jaxprs.limited_loops import LimitedFunction, TooManyIterations

from .arrays import distance, is_finite, map_floating, relative_error
from .gradient_sources import gradient_function
from .program import Program, is_array
from .reference.float64 import is_another_branch
from .tolerance import NOISE, RoundingFacts

NOISE_SAMPLES, MORE_SAMPLES = 2, 8  # the latter where no reference tells of rounding too


def measured_noise(program: Program, facts: RoundingFacts, function: Callable, reference: Any) -> list[float]:
    """How far the value and each leaf of the gradient move, relatively, when every input's last bit changes."""
    noise = [0.0] * len(jax.tree.leaves(reference))
    for sample in range(NOISE_SAMPLES if facts.roundoff > 1e-15 else MORE_SAMPLES):
        arguments = shaken((program.inputs, program.others), sample, facts.roundoff)
        try:
            moved = function(*arguments, np.float32(1))
        except TooManyIterations:  # a loop that converges at the point need not do so beside it
            continue
        pairs = zip(jax.tree.leaves(moved), jax.tree.leaves(reference), strict=True)
        noise = [max(old, _error_or_zero(*pair)) for old, pair in zip(noise, pairs, strict=True)]
    return noise


def plain_value(program: Program, facts: RoundingFacts, floor: float) -> tuple[Any, float]:
    """The function's value without a backward pass, compiled, and the relative error that rounding explains in it, at
    least `floor`: a value that is a small difference of large terms moves by more than the few shaken inputs may have
    shown."""
    with tracing_plain_definitions(True):
        function, arguments = LimitedFunction(program.function), (program.inputs, program.others)
        plain, noise = function(*arguments), 0.0
        for sample in range(MORE_SAMPLES):
            with contextlib.suppress(TooManyIterations):
                moved = function(*shaken(arguments, sample, facts.roundoff))
                noise = max(noise, distance(moved, plain))
    return plain, max(floor, NOISE * noise) if math.isfinite(noise) else floor


def narrow_noise(program: Program, backward: str, reference: Any) -> list[float]:
    """How far the value and each leaf are, relatively, from the same in float32, scaled to the rounding of float64.

    Shaken inputs do not show what is lost inside, where two large numbers nearly cancel. 0 where float32 says nothing:
    the program cannot be run in it, or draws or decides otherwise.
    """
    nothing = [0.0] * len(jax.tree.leaves(reference))
    try:
        with jax.enable_x64(False), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of dtypes that are named in the program
            arguments = with_bits((program.inputs, program.others), 32)
            found = gradient_function(program, backward)(*arguments, np.float32(1))
        if is_another_branch(float(reference[0]), found[0], 0.0):
            return nothing
        pairs = zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True)
        return [min(_error_or_zero(*pair), 1.0) * 2.0**-29 for pair in pairs]
    except Exception:  # what is the user's may refuse float32 in any way
        return nothing


def is_finite_in_float64(program: Program, facts: RoundingFacts) -> bool:
    """Whether the manual gradient of the program is finite where it is run in float64; it is asked of one that was run
    in less, and is not."""
    if facts.roundoff < 1e-15:
        return False
    try:
        with jax.enable_x64(True):
            arguments = with_bits((program.inputs, program.others), 64)
            return all(map(is_finite, jax.tree.leaves(gradient_function(program, "manual")(*arguments, np.float32(1)))))
    except Exception:  # what is the user's may refuse float64 in any way
        return False


def _error_or_zero(found: Any, reference: Any) -> float:
    """The relative error, and 0 where there is none: an integer's gradient, or values that are not finite."""
    if reference.dtype == jax.dtypes.float0:
        return 0.0
    error = relative_error(found, reference)
    return 0.0 if math.isnan(error) else error


def shaken(tree: Any, seed: int, size: float) -> Any:
    """The tree with every floating number x changed to x (1 + size) or x (1 - size), at random."""

    def shake(leaf: np.ndarray, random: np.random.Generator) -> np.ndarray:
        step = max(size, float(jnp.finfo(leaf.dtype).eps))  # less than that would be rounded away
        return leaf * (1 + step * random.choice((-1, 1), leaf.shape)).astype(leaf.dtype)

    return map_floating(shake, tree, seed)


def with_bits(tree: Any, bits: int) -> Any:
    """The tree with every real number of its arrays in so many bits, two of them in a complex one."""

    def cast(leaf: Any) -> Any:
        if not is_array(leaf) or not is_inexact(leaf):
            return leaf
        return leaf.astype(f"complex{2 * bits}" if jax.numpy.iscomplexobj(leaf) else f"float{bits}")

    return jax.tree.map(cast, tree)
