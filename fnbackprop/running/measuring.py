"""The first call of a place, compared with `jax.grad`: is the gradient right, what does it cost in time and memory?"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from ..backprop.transforms import value_and_grad
from ..comparing.arrays import relative_error
from ..comparing.comparison import Comparison
from ..comparing.gradient_sources import automatic_value_and_grad
from ..comparing.pipeline import comparison_of
from ..comparing.program import first_line, make_program
from ..comparing.results import Verdict
from ..comparing.stages import STAGES, Options, Work
from ..comparing.weighted import differentiable
from .capture import Captured
from .places import Place, short

ROUNDS, TIMING = range(3, 31), 2.0  # the fewest and the most rounds, seconds that they may take


@dataclass(frozen=True)
class Measured:
    """What was found at one place.

    Attributes:
      verdict: of the comparison; SKIPPED where there is none.
      reason: what there is to say about it; empty for nothing.
      time, memory: of value and gradient, ours over JAX's; NaN where JAX does not differentiate. `memory` is of the
        compiled program's temporary memory.
      seconds: by JAX.
      details: the whole comparison as text, where the gradient is wrong.
    """

    verdict: Verdict
    reason: str = ""
    time: float = math.nan
    memory: float = math.nan
    seconds: float = math.nan
    details: str = ""


def not_compared(reason: str) -> Measured:
    return Measured(Verdict.SKIPPED, reason)


def measure(place: Place, seconds: float, options: dict[str, Any]) -> Measured:
    """Compare a place and take the time, in about so many seconds; `options` are those of `fb.vjp`."""
    captured = place.captured
    if place.fallback:
        return not_compared(f"by jax.grad: {place.fallback}")
    if captured is None:
        return not_compared(f"it is part of {short(place.within)}" if place.within else "the function raised an error")
    if captured.reason:
        return not_compared(captured.reason)
    if captured.arrays is None:
        return not_compared("it was traced, and never run")
    if seconds <= 0:
        return not_compared("no time was left")
    try:
        with jax.enable_x64(captured.x64):
            return _measure(captured, time.perf_counter() + seconds, options)
    except Exception as error:  # the user's code may refuse to be run again in any way
        return not_compared(first_line(error))


def _measure(captured: Captured, deadline: float, options: dict[str, Any]) -> Measured:
    function, args = captured.program()
    argnums = differentiable(args[:-1])
    cost = _against_jax(function, args, argnums, options)
    comparison, left_out = _compare(function, args, argnums, deadline)
    if options and comparison is not None and not _same_gradient(function, args, argnums, options, comparison):
        return Measured(Verdict.FAIL, f"with {options} the gradient is another than without", *cost)
    if comparison is None:
        return Measured(Verdict.SKIPPED, left_out, *cost)
    verdict, reason = _in_short(comparison)
    details = str(comparison) if verdict is Verdict.FAIL else ""
    return Measured(verdict, "; ".join(filter(None, (reason, left_out, captured.note))), *cost, details)


# ---------------------------------------------------------------- right or wrong


class OutOfTime(BaseException):
    """The comparison is left where it stands. No `Exception`, because the stages catch what a user's code may raise."""


def _compare(function: Callable, args: tuple, argnums: tuple[int, ...], deadline: float) -> tuple:
    """The comparison, as far as the time allows (None: not at all), and what was left out."""

    def say(doing: str) -> None:
        if time.perf_counter() > deadline:
            raise OutOfTime(doing)

    options = Options(4, None, True, True, False, (), 0)
    with jax.default_matmul_precision("highest"):
        program = make_program(function, args, argnums, False)
        work = Work(program, program, options, say)
        try:
            for stage in STAGES:
                if work.problems:
                    break
                stage(work)
        except OutOfTime as late:
            if not work.leaves:
                return None, "no time was left"
            return comparison_of(work), f"no time was left for {late}"
    return comparison_of(work), ""


def _same_gradient(
    function: Callable, args: tuple, argnums: tuple[int, ...], options: dict[str, Any], comparison: Comparison
) -> bool:
    """Whether the options leave the gradient that was compared as it is, up to what rounding explains."""
    with jax.default_matmul_precision("highest"):
        both = [jax.jit(value_and_grad(function, argnums, allow_int=True, **o))(*args)[1] for o in ({}, options)]
    leaves = zip(comparison.leaves, *map(jax.tree.leaves, both), strict=True)
    return not any(
        relative_error(found, reference) > leaf.allowed  # false where either is NaN: an integer leaf
        for leaf, reference, found in leaves
        if leaf.verdict is not Verdict.SKIPPED
    )


def _in_short(comparison: Comparison) -> tuple[Verdict, str]:
    """The verdict, and what it leaves to say in one line.

    Leaves that are nothing but rounding error, by JAX too (a bias before a batch norm), do not hide that others pass.
    """
    verdict, leaves = comparison.verdict, comparison.leaves
    noisy = [leaf.path for leaf in leaves if leaf.verdict is Verdict.NOISE_LIMITED]
    if verdict is Verdict.NOISE_LIMITED and any(leaf.verdict is Verdict.PASS for leaf in leaves):
        return Verdict.PASS, f"{len(noisy)} of {len(leaves)} leaves are rounding error alone: {', '.join(noisy[:3])}"
    if verdict in (Verdict.PASS, Verdict.FAIL):
        return verdict, ""
    parts = (comparison.value, *leaves, *comparison.equations, *comparison.contract, comparison.numeric)
    found = (part.reason for part in parts if part is not None and part.verdict is verdict)
    return verdict, next((reason for reason in found if reason), "")


# ---------------------------------------------------------------- time and memory


def _against_jax(
    function: Callable, args: tuple, argnums: tuple[int, ...], options: dict[str, Any]
) -> tuple[float, ...]:
    """(ratio of times, ratio of temporary memory, JAX's seconds) of the compiled value and gradient."""
    ours = compiled(value_and_grad(function, argnums, allow_int=True, **options), args)
    try:
        theirs = compiled(automatic_value_and_grad(function, argnums, allow_int=True), args)
    except Exception:  # JAX does not differentiate this
        return math.nan, math.nan, math.nan
    seconds = in_turns((ours, theirs))
    memory = [program.memory_analysis().temp_size_in_bytes for program, _ in (ours, theirs)]
    ratio = statistics.median(own / other for own, other in seconds)
    return ratio, _quotient(*memory), statistics.median(other for _, other in seconds)


def compiled(function: Callable, args: tuple) -> tuple[Any, tuple]:
    """The compiled function, and its arguments where it wants them."""
    program = jax.jit(function).lower(*args).compile()
    return program, jax.device_put(args, program.input_shardings[0])


def in_turns(programs: Sequence[tuple[Any, tuple]]) -> list[tuple[float, ...]]:
    """Seconds of each program, round by round."""
    rounds: list[tuple[float, ...]] = []
    for program, args in programs:  # to warm up
        jax.block_until_ready(program(*args))
    end = time.perf_counter() + TIMING
    while len(rounds) < ROUNDS.start or (time.perf_counter() < end and len(rounds) < ROUNDS.stop):
        rounds.append(tuple(_seconds(*one) for one in programs))
    return rounds


def median_seconds(programs: Sequence[tuple[Any, tuple]]) -> list[float]:
    """The median time of each compiled program, run in turns."""
    return [statistics.median(times) for times in zip(*in_turns(programs), strict=True)]


def _seconds(program: Callable, args: tuple) -> float:
    start = time.perf_counter()
    jax.block_until_ready(program(*args))
    return time.perf_counter() - start


def _quotient(own: int, other: int) -> float:
    if other == 0:
        return 1.0 if own == 0 else math.inf
    return own / other
