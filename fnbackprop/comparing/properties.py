"""What every gradient must keep, right or wrong: the contract of a backward pass (L0)."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .arrays import array_norm, over, to_float64
from .gradient_sources import is_inexact
from .program import Program
from .results import Check, Verdict

SAME_VALUE = "the forward's value equals the plain primal"
SCALE = -2.0  # a power of two: scaling by it rounds nothing


def check_contract(
    program: Program, function: Callable, first: tuple[Any, Any], plain: Any, floors: tuple[float, list[float]]
) -> tuple[Check, ...]:
    """The four promises of a backward pass.

    Args:
      function: the compiled `(inputs, others, cotangent) -> (value, gradients)`.
      first: what it gave for a cotangent of 1.
      plain: the function's value without a backward pass.
      floors: what rounding explains of the value, and of each leaf, relatively.
    """

    def call(cotangent):
        return function(program.inputs, program.others, np.float32(cotangent))

    again = call(1.0)
    repeated = Check("a second call is identical", Verdict.PASS)
    if not _identical(first, again):
        worst = max(_errors(again[1], first[1]), default=0.0)
        reason = f"two calls with the same arguments differ, by {worst:.1e} of the gradient"
        repeated = Check(repeated.name, Verdict.NONDETERMINISTIC, reason, worst, 0.0)
        return (repeated,)
    return (
        repeated,
        _same_value(first[0], plain, floors[0]),
        _zero(call(0.0)[1], first[1]),
        _linear(call(SCALE)[1], first[1], floors[1]),
    )


def _same_value(value: Any, plain: Any, floor: float) -> Check:
    name = SAME_VALUE
    if not (np.isfinite(value) and np.isfinite(plain)):
        return Check(name, Verdict.SKIPPED, "the value is not finite")
    error = over(array_norm(to_float64(value) - to_float64(plain)), array_norm(plain))
    if error <= floor:
        return Check(name, Verdict.PASS, "", error, floor)
    reason = f"with a backward pass the function's value is {float(value):.6g}, without {float(plain):.6g}"
    return Check(name, Verdict.FAIL, reason, error, floor)


def _zero(gradients: Any, usual: Any) -> Check:
    name = "a zero cotangent gives zeros"
    for path, leaf, own in _leaves(gradients, usual):
        if np.isfinite(own).all() and np.any(leaf):
            reason = (
                f"the gradient{path} of zero times the function has {np.count_nonzero(leaf)} elements that are not 0"
            )
            return Check(name, Verdict.FAIL, reason)
    return Check(name, Verdict.PASS)


def _linear(gradients: Any, usual: Any, floors: list[float]) -> Check:
    name = "linear in the cotangent"
    for (path, leaf, own), floor in zip(_leaves(gradients, usual), floors, strict=True):
        if not np.isfinite(own).all():
            continue
        error = over(array_norm(to_float64(leaf) - SCALE * to_float64(own)), array_norm(SCALE * to_float64(own)))
        if error > floor:
            reason = f"{SCALE:g} times the cotangent does not give {SCALE:g} times the gradient{path}"
            return Check(name, Verdict.FAIL, reason, error, floor)
    return Check(name, Verdict.PASS)


def _leaves(gradients: Any, usual: Any) -> list[tuple[str, np.ndarray, np.ndarray]]:
    pairs = zip(jax.tree.leaves_with_path(gradients), jax.tree.leaves(usual), strict=True)
    return [
        (f" at {jax.tree_util.keystr(path)}" if path else "", np.asarray(leaf), np.asarray(own))
        for (path, leaf), own in pairs
        if is_inexact(leaf)
    ]


def _errors(one: Any, two: Any) -> list[float]:
    return [over(array_norm(to_float64(a) - to_float64(b)), array_norm(b)) for _, a, b in _leaves(one, two)]


def _identical(one: Any, two: Any) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    return all(np.array_equal(to_float64(a), to_float64(b), equal_nan=True) for a, b in pairs if is_inexact(a))
