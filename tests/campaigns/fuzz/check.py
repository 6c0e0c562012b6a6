"""Manual against automatic gradients of one case, in float64, with a random cotangent.

A leaf may differ by the largest of a few hundred roundoffs of its own norm, some tens of roundoffs of the largest
norm in the case (for a leaf that cancels to zero), and several times the noise: how far JAX's own gradient moves when
the last bits of inputs and cotangents change; or, if that does not suffice, those of all results on the way, in numpy.
The noise is only measured where the first two do not suffice.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnbackprop as fb
from fnbackprop.backprop.memory.save_policy import BudgetError
from fnbackprop.jaxprs.avals import is_weak

from .programs import Case
from .reference import vjp_by_forward_mode, vjp_with_loops_forwards
from .tiers import COMPILED, FLOAT0, IN_NUMPY, Gradient, Tier

RELATIVE = 1e-12
FLOAT32 = 1e-6  # where the program computes in it on the way: a cotangent is rounded there, and a tangent of 1 is not
OF_LARGEST = 1e-14
NOISE_FACTOR = 16.0
OPTIONS: dict[str, Any] = {}  # of `fb.vjp`, for all checks of a run
USELESS = 1e-3  # a gradient with more relative noise than this / NOISE_FACTOR shows nothing


class Verdict(NamedTuple):
    """`kind` is "same", "mismatch" or "skipped"; `why` says the figures, or the reason for skipping."""

    kind: str
    why: str = ""


def check(case: Case, tier: Tier = COMPILED) -> Verdict:
    """Compare value and gradient of a case by `fb.vjp` and `jax.vjp`."""
    try:
        program = tier.function(case)
        reference, want = run_reference(program, case, tier)
    except Exception as error:
        return Verdict("skipped", f"JAX raises {type(error).__name__}")
    try:
        got = tier.gradient(functools.partial(fb.vjp, **OPTIONS), program, case)
    except BudgetError:
        return Verdict("skipped", "the budget cannot be kept")
    except Exception as error:
        if tier is COMPILED and _raises_under_jit(reference, program, case):
            return Verdict("skipped", "JAX raises under jit, as ours does")
        return Verdict("mismatch", f"fb.vjp raises {type(error).__name__}: {error}")
    if not _close(got.value, want.value) and not _close(program(*case.inputs), want.value):
        return Verdict("skipped", "JAX's function has another value where it is differentiated")
    # Ours is of JAX's type, or, where JAX loses the weak type of a Python number on the way, of that which the function
    # is traced with and of its input's. (JAX 0.10.2 loses it when it compiles a loop over a reference.)
    types = map(is_weak, (*tier.types(program, case), *case.inputs))
    weak = [own if own == jaxs else typed for own, jaxs, typed in zip(got.weak, want.weak, types, strict=True)]
    want = want._replace(weak=weak)
    rounded = reference is not jax.vjp and "float32" in repr(case.program)
    return _compare(case, got, want, FLOAT32 if rounded else RELATIVE)


def check_numpy(case: Case) -> Verdict:
    """Compare value and gradient by JAX as numpy evaluates them with those that are compiled."""
    try:
        want, got = (run_reference(tier.function(case), case, tier)[1] for tier in (COMPILED, IN_NUMPY))
    except Exception as error:
        return Verdict("skipped", f"JAX raises {type(error).__name__}")
    return _compare(case, got._replace(weak=want.weak), want, RELATIVE)


def run_reference(program: Callable, case: Case, tier: Tier) -> tuple[Callable, Gradient]:
    """JAX's transform for a program, and the gradient that it gives."""
    try:
        return jax.vjp, tier.gradient(jax.vjp, program, case)
    except ValueError as error:
        if "while_loop" not in str(error):
            raise
    try:
        return vjp_with_loops_forwards, tier.gradient(vjp_with_loops_forwards, program, case)
    except Exception:  # a program that cannot be traced, or a user's rule with a loop in it
        return vjp_by_forward_mode, tier.gradient(vjp_by_forward_mode, program, case)


def _raises_under_jit(reference: Callable, program: Callable, case: Case) -> bool:
    """Whether JAX fails where the program is traced, too: some jaxprs of its own making are not well-typed."""
    try:
        COMPILED.gradient(reference, jax.jit(program), case)
    except Exception:
        return True
    return False


def _compare(case: Case, found: Gradient, expected: Gradient, relative: float) -> Verdict:
    if not _close(found.value, expected.value):
        return Verdict("mismatch", "the value differs")
    got, want, cotangents = found.leaves, expected.leaves, expected.cotangents
    problems = [_different_kind(i, g, w) for i, (g, w) in enumerate(zip(got, want, strict=True))]
    if any(problems):
        return Verdict("mismatch", next(filter(None, problems)))
    if found.weak != expected.weak:
        return Verdict("mismatch", f"weak types of values and gradient: {found.weak} against {expected.weak}")
    floating = [i for i, w in enumerate(want) if w.dtype != FLOAT0]
    for i in floating:
        if not np.all(np.isfinite(want[i])):
            same = np.array_equal(np.isnan(got[i]), np.isnan(want[i])) and np.all(np.isinf(got[i]) == np.isinf(want[i]))
            return Verdict("skipped", f"JAX's gradient is not finite, ours {'likewise' if same else 'otherwise'}")
    largest = max((_norm(x) for x in [*cotangents, *(want[i] for i in floating)]), default=0.0)
    errors = {i: _norm(got[i] - want[i]) for i in floating}
    suspects = [i for i in floating if not errors[i] <= max(relative * _norm(want[i]), OF_LARGEST * largest)]
    return _judge_by_noise(case, expected, suspects, errors) if suspects else Verdict("same")


def _close(values: Sequence[Any], others: Sequence[Any]) -> bool:
    return all(np.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(values, others, strict=True))


def _different_kind(number: int, got: np.ndarray, want: np.ndarray) -> str:
    """What is wrong with a leaf's shape or dtype, or empty."""
    if got.shape == want.shape and got.dtype == want.dtype:
        return ""
    return f"x{number}: {got.dtype}{got.shape} against {want.dtype}{want.shape}"


def _judge_by_noise(case: Case, expected: Gradient, suspects: list[int], errors: dict[int, float]) -> Verdict:
    want = expected.leaves
    moved = [_gradient_nearby(case, expected, seed) for seed in range(3)]
    skipped = Verdict("same")
    for i in suspects:
        noise = NOISE_FACTOR * max(_norm(other[i] - want[i]) for other in moved)
        norm = _norm(want[i])
        if not errors[i] <= noise and expected.rounded is not None:
            values, leaves = zip(*map(expected.rounded, range(3)), strict=True)
            if not all(_close(value, expected.value) for value in values):
                return Verdict("skipped", "the value jumps: roundoff within decides what it is")
            inner = NOISE_FACTOR * max(_norm(other[i] - want[i]) for other in leaves)
            # more is no roundoff: a decision on values that are equal, or nearly, was taken otherwise
            noise = max(noise, inner) if inner <= USELESS * norm else noise
        if not errors[i] <= noise and np.isfinite(noise):
            return Verdict("mismatch", f"x{i}: error {errors[i]:.2e} of norm {norm:.2e}, {noise:.2e} allowed for noise")
        if not noise <= USELESS * norm and norm > 0 and errors[i] > USELESS * norm:
            skipped = Verdict("skipped", "ill-conditioned: noise alone moves JAX's gradient that far")
    return skipped


def _gradient_nearby(case: Case, expected: Gradient, seed: int) -> list[np.ndarray]:
    """JAX's gradient with the last bits of inputs and cotangents changed."""
    rng = np.random.default_rng(seed)
    inputs = [_nudge(rng, x) for x in case.inputs]
    return expected.again(inputs, [_nudge(rng, ct) for ct in expected.cotangents])


def _nudge(rng: np.random.Generator, x: Any) -> Any:
    if not jnp.issubdtype(x.dtype, np.inexact):
        return x
    return jnp.asarray(x * (1 + 2.0**-51 * rng.choice([-1, 1], size=x.shape)), x.dtype)


def _norm(x: Any) -> float:
    return float(np.linalg.norm(np.ravel(np.asarray(x))))
