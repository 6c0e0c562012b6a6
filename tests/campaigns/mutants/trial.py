"""What becomes of one mutant: on which program it shows, and who catches it there."""

import enum
import hashlib
import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import chex
import jax
import numpy as np
from jax.test_util import check_grads

import fnbackprop as fb
from fnbackprop.comparing.results import SEVERITY, Verdict

from . import blocks, rules
from .programs import PROGRAMS, Program


class Outcome(enum.StrEnum):
    """STILLBORN: not caught where it runs, if anywhere, and elsewhere it stops with an error, so that use shows it.

    UNSEEN: it changes the gradient of no program."""

    CAUGHT = "caught"
    SURVIVED = "survived"
    UNSEEN = "unseen"
    STILLBORN = "stillborn"


@dataclass
class Trial:
    """One mutant's fate. `programs` are those whose gradient it changes, as far as they were looked at; `by` says which
    checker catches it there."""

    mutant: rules.Mutant
    outcome: Outcome
    programs: list[Program] = field(default_factory=list)
    by: dict[str, bool] = field(default_factory=dict)


Checker = Callable[[Program, rules.Mutant], bool]
MOST_PROGRAMS = 80  # that one mutant is looked for in
MOST_CHANGED = 30  # of those, whose gradients it changes


def run(mutant: rules.Mutant, checkers: dict[str, Checker]) -> Trial:
    """Install a mutant and hand the programs that it changes to each checker, until it catches it."""
    with blocks.small_tiles() if _of_block(mutant) else nullcontext():
        return _run(mutant, checkers)


def _run(mutant: rules.Mutant, checkers: dict[str, Checker]) -> Trial:
    programs = programs_of(mutant)
    changed, errors, by = [], 0, dict.fromkeys(checkers, False)
    for program in programs:
        effect = effect_of(mutant, program)
        errors += effect is Effect.ERROR
        if effect is not Effect.ANOTHER:
            continue
        try:
            caught = {name: by[name] or check(program, mutant) for name, check in checkers.items()}
        except Exception as error:
            if runs(program, mutant) and not isinstance(error, jax.errors.JaxRuntimeError):
                raise
            errors += 1  # the compiler may refuse one form of a program alone
            continue
        changed.append(program)
        by |= caught
        if all(by.values()) or len(changed) == MOST_CHANGED:
            break
    if changed and by.get("compare", True):
        return Trial(mutant, Outcome.CAUGHT, changed, by)
    outcome = Outcome.STILLBORN if errors else Outcome.SURVIVED if changed else Outcome.UNSEEN
    return Trial(mutant, outcome, changed, by)


def programs_of(mutant: rules.Mutant) -> list[Program]:
    """The programs of the primitives whose rules reach the mutated function: one of each, then a second of each ..."""
    if _of_block(mutant):
        return blocks.programs_of(mutant.module)
    names = rules.reached()[mutant.module, mutant.function]
    rows = itertools.zip_longest(*(PROGRAMS.get(name, ()) for name in names))
    return [program for row in rows for program in row if program is not None][:MOST_PROGRAMS]


def _of_block(mutant: rules.Mutant) -> bool:
    return mutant.module.startswith(blocks.PREFIX)


def installed(mutant: rules.Mutant) -> AbstractContextManager[None]:
    """The mutant in the place of the right rule, or of the right block."""
    return (blocks if _of_block(mutant) else rules).installed(mutant)


# ---------------------------------------------------------------- whether a program's gradient is another


class Effect(enum.Enum):
    """What a mutant does to a program's gradient."""

    NONE = "the same operations"
    ANOTHER = "other operations"
    ERROR = "it cannot be traced"


def effect_of(mutant: rules.Mutant, program: Program) -> Effect:
    right = original(program)
    with installed(mutant):
        try:
            return Effect.NONE if fingerprint(program) == right else Effect.ANOTHER
        except Exception:  # whatever a broken rule may raise
            return Effect.ERROR


def runs(program: Program, mutant: rules.Mutant) -> bool:
    with installed(mutant):
        try:
            jax.block_until_ready(jax.jit(fb.grad(program.loss, program.argnums))(*program.operands))
        except Exception:  # as above
            return False
    return True


def fingerprint(program: Program) -> str:
    """Equal for two gradients that are the same operations on the same constants."""
    closed = jax.make_jaxpr(fb.grad(program.loss, program.argnums))(*program.operands)
    plain = (c for c in closed.consts if not jax.dtypes.issubdtype(c.dtype, jax.dtypes.extended))  # no keys
    constants = b"".join(np.asarray(c).tobytes() for c in plain)
    return hashlib.sha256(str(closed).encode() + constants).hexdigest()


@cache
def original(program: Program) -> str:
    """The fingerprint under the right rules, which must be in place when it is asked for first."""
    return fingerprint(program)


# ---------------------------------------------------------------- the checkers


@cache
def baseline(program: Program) -> list[int]:
    """What `fb.compare` says of the program under the right rules, which must be in place."""
    return verdicts(program)


def verdicts(program: Program) -> list[int]:
    """How severe the verdicts are that a user is shown: of the whole, of the leaves, and how many equations FAIL."""
    found = fb.compare(program.loss, *program.operands, argnums=program.argnums)
    severe = [-SEVERITY.index(verdict) for verdict in (found.verdict, *(leaf.verdict for leaf in found.leaves))]
    return [*severe, sum(equation.verdict is Verdict.FAIL for equation in found.equations)]


def by_compare(program: Program, mutant: rules.Mutant) -> bool:
    """A verdict worse than that of the right rules: at a kink, say, not even they PASS."""
    right = baseline(program)
    with installed(mutant):
        return any(found > before for found, before in zip(verdicts(program), right, strict=True))


def by_check_grads(program: Program, mutant: rules.Mutant) -> bool:
    """`jax.test_util.check_grads` with its defaults, in reverse mode, which is all that a custom_vjp has."""
    return _raises(partial(check_grads, order=1, modes=("rev",)), program, mutant)


def by_chex(program: Program, mutant: rules.Mutant) -> bool:
    """`chex.assert_numerical_grads` with its defaults, in reverse mode."""
    return _raises(partial(chex.assert_numerical_grads, order=1, modes=("rev",)), program, mutant)


def _raises(check: Callable, program: Program, mutant: rules.Mutant) -> bool:
    with installed(mutant):
        try:
            check(*as_custom_vjp(program))
        except Exception:  # an AssertionError, or what the broken gradient makes JAX say
            return True
    return False


def as_custom_vjp(program: Program) -> tuple[Callable, tuple[Any, ...]]:
    """The program's function of its floating operands, whose gradient by JAX is ours."""
    places = program.argnums
    given = tuple(program.operands[i] for i in places)

    def plain(*floating):
        operands = list(program.operands)
        for place, x in zip(places, floating, strict=True):
            operands[place] = x
        return program.function(*operands)

    def outputs(*floating):
        return [y for y in jax.tree.leaves(plain(*floating)) if _is_inexact(y)]

    function = jax.custom_vjp(outputs)
    function.defvjp(lambda *xs: fb.vjp(outputs, *xs), lambda pullback, cts: tuple(pullback(cts)))
    return function, given


def _is_inexact(x: Any) -> bool:
    return jax.numpy.issubdtype(x.dtype, np.inexact)


CHECKERS: dict[str, Checker] = {"compare": by_compare, "check_grads": by_check_grads, "chex": by_chex}


def keep_compiled(directory: str) -> None:
    """Keep what is compiled: the automatic gradient of a program is the same beside every mutant."""
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
