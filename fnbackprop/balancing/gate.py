"""Whether there is anything to judge: a wrong gradient, one that is not finite, or a loss that is not a function."""

from typing import Any

import jax
import numpy as np

from fnbackprop.comparing.pipeline import compare
from fnbackprop.comparing.results import Verdict
from fnbackprop.tracing.pipeline import trace

from .subject import Subject

WRONG = (Verdict.FAIL, Verdict.NONDETERMINISTIC)


def why_not_judged(subject: Subject, batch: Any, key: jax.Array, loss: jax.Array, gradient: Any, check: bool) -> str:
    """A sentence; empty if all is well.

    Args:
      subject: what is balanced.
      batch, key: those of its step.
      loss, gradient: at its state.
      check: whether the gradient is compared with the automatic one, and every rule in place.
    """
    return (
        not_finite(subject, batch, key, loss, gradient)
        or _not_deterministic(subject, batch, key)
        or (_wrong(subject, batch, key) if check else "")
    )


def not_finite(subject: Subject, batch: Any, key: jax.Array, loss: jax.Array, gradient: Any) -> str:
    """Which of loss and gradient is not finite at the state, and the line that made it so; empty if both are."""
    broken = [path for path, leaf in gradient.items() if not np.isfinite(np.asarray(leaf)).all()]
    if not broken and np.isfinite(float(loss)):
        return ""
    blame = trace(subject.loss, subject.params, batch, key).blame()
    where = "" if blame is None else ": " + "; ".join(line.strip() for line in blame.sentence.splitlines())
    what = f"gradient of {_first(broken)}" if broken else "loss"
    return f"The {what} is not finite{where}"


def _not_deterministic(subject: Subject, batch: Any, key: jax.Array) -> str:
    """Numbers that Python or NumPy draw are constants of a traced program: if two traces differ, both are run."""
    traces = [jax.make_jaxpr(lambda *a: subject.loss(*a))(subject.params, batch, key) for _ in range(2)]
    if _same(*traces):
        return ""
    values = [float(jax.jit(lambda *a: subject.loss(*a))(subject.params, batch, key)) for _ in range(2)]
    apart, size = abs(values[0] - values[1]), max(map(abs, values))
    if apart <= 1e-5 * size:
        return ""
    return (
        f"The loss is no function of (params, batch, key): called twice, it is {values[0]:.7g} and {values[1]:.7g}. "
        "Draw random numbers from its key alone"
    )


def _same(one: Any, other: Any) -> bool:
    equal = len(one.consts) == len(other.consts) and all(map(_same_array, one.consts, other.consts))
    return equal and str(one.jaxpr) == str(other.jaxpr)


def _same_array(x: Any, y: Any) -> bool:
    if jax.dtypes.issubdtype(jax.numpy.result_type(x), jax.dtypes.prng_key):
        x, y = jax.random.key_data(x), jax.random.key_data(y)
    return np.array_equal(x, y, equal_nan=np.issubdtype(np.asarray(x).dtype, np.inexact))


def _wrong(subject: Subject, batch: Any, key: jax.Array) -> str:
    found = compare(subject.loss, subject.params, subject.part(batch), key, directions=0, progress=False)
    if found.verdict not in WRONG:
        return ""
    if wrong := found.equations[:1]:
        return f"The gradient is wrong at {wrong[0].primitive} {wrong[0].where}: {wrong[0].reason}"
    leaves = [leaf.path for leaf in found.leaves if leaf.verdict in WRONG]
    problems = "; ".join(map(str, found.problems))
    return f"The gradient of {_first(leaves)} is wrong: fnbackprop compare says more" if leaves else problems


def _first(paths: list[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more leaves" if len(paths) > 3 else "")
