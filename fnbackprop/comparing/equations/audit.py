"""Every rule in place: a walk over the real program's values that checks each equation's rule.

Each equation is checked with its actual operands and twice: with the cotangent that reaches it, and with a Gaussian
one. The cotangents that travel on are the automatic ones, so no error propagates: what is found wrong is wrong itself,
and the first found is the earliest in the order of the backward walk.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from fnbackprop.jaxprs.graph import holds
from fnbackprop.jaxprs.limited_loops import TooManyIterations
from fnbackprop.jaxprs.lists import merge, present
from fnbackprop.jaxprs.views import ShardMap

from ..gradient_sources import in_primal_types
from ..program import TracedProgram, first_line
from ..results import Cotangent, EquationComparison
from .check import COMPILED, CUSTOM, EquationCheck, Evidence, manual_cotangents
from .custom_rules import custom_rule_verdict, has_another_forward, wrong_types
from .gaussian_cotangents import GaussianCotangents
from .implicit import has_implicit_derivative, implicit_derivative, wrong_solve
from .inside import wrong_inside
from .loops import LOOPS
from .shard_map import check_body
from .verdict import equation_verdict, users_name
from .walk import Visit, Walker


class Audit:
    """Checks every rule that a program uses.

    Args:
      traced: the program.
      seed: of the Gaussian cotangents.
      intended: names of the user's functions whose rule differs from their primal's derivative on purpose.
      thorough: check loops and calls as wholes too, and walk more iterations.
      say: called with a line of progress.

    Attributes:
      found: the equations that did not pass, in the order of the backward walk, each rule once.
      audited: how many equations were checked, those of a loop's body once.
      replaced: lines at which a user's rule replaces the derivative on purpose.
      forwards: lines at which a user's rule computes other outputs than its function.
      wrong_solves: solvers whose solution is none, as far as `replaced_implicitly` was asked.
      notes: what was left out.
      value, cotangents: the function's value, and the cotangents of the operands, computed equation by equation.
    """

    def __init__(
        self,
        traced: TracedProgram,
        seed: int = 0,
        intended: Sequence[str] = (),
        thorough: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ):
        self.traced, self.intended, self.say = traced, tuple(intended), say
        self.walker = Walker(COMPILED.values, self.check, LOOPS, thorough)
        self.gaussian = GaussianCotangents(seed)
        self.groups: dict[Any, tuple[EquationComparison, set]] = {}
        self.checked: set[Any] = set()
        self.replaced: dict[str, None] = {}
        self.implicit: dict[Any, list[Visit]] = {}
        self.forwards: dict[str, None] = {}
        self.wrong_solves: dict[Any, EquationComparison] = {}

    def run(self) -> "Audit":
        """Walk forward from the operands and back from a cotangent of one."""
        (self.value, *_), self.cotangents = self.walker.run(self.traced)
        return self

    @property
    def found(self) -> tuple[EquationComparison, ...]:
        return tuple(replace(first, count=len(places)) for first, places in self.groups.values())

    @property
    def audited(self) -> int:
        return len(self.checked)

    @functools.cached_property
    def replaced_implicitly(self) -> list[str]:
        """Where the function's own differences may have another slope than an equation's derivative: found out when it
        is asked for, as it solves once more. Solvers that are wrong are added to `wrong_solves` then."""
        reasons: dict[str, None] = {}
        for visits in self.implicit.values():
            for visit in visits:
                found = implicit_derivative(visit, self.intended)
                if found is not None and found.wrong:
                    self.wrong_solves.setdefault(visit.identity(), wrong_solve(visit, found.reason))
                elif found is not None:
                    reasons[f"{visit.name} at {visit.location.line}: {found.reason}"] = None
        return list(reasons)

    @property
    def notes(self) -> dict[str, None]:
        return self.walker.notes

    def check(self, visit: Visit, cts: list[Any]) -> list[Any]:
        """Check an equation's rule; returns the automatic cotangents of its operands."""
        before = dict(self.groups)
        found = self._check(visit, present(cts))
        if visit.name == "shard_map":
            self._check_shard_map(visit, cts, before)
        return found

    def _check(self, visit: Visit, cts: list[Any]) -> list[Any]:
        self.checked.add(visit.identity())
        if self.audited % 20 == 0:
            self.say(f"rules in place: {self.audited} equations")
        if has_implicit_derivative(visit):
            self.implicit.setdefault(visit.identity(), []).append(visit)
            del self.implicit[visit.identity()][1:-1]  # of a loop the first visited and the last, which are held
        check = EquationCheck(visit.equation, visit.step.active, False, self.traced.users_mode)
        try:
            found = COMPILED.both(check, visit.operands, cts)
        except Exception as error:  # JAX refuses to differentiate it, or the user's code to be traced again
            self.checked.discard(visit.identity())
            self.notes[f"{visit.name} at {visit.location.line} was not checked: {first_line(error)}"] = None
            return jax.block_until_ready(manual_cotangents(check, visit.operands, cts))
        actual = Evidence(check, visit.operands, cts, found, Cotangent.ACTUAL, visit.location)
        wrong = equation_verdict(actual)
        with contextlib.suppress(TooManyIterations):  # a loop in a backward pass need not converge for any cotangent
            wrong = wrong or equation_verdict(actual.again(self.gaussian(cts, visit.name)))
        if visit.name in CUSTOM:
            self._note(visit, wrong_types(actual))
        self._note(visit, wrong)
        if visit.name in CUSTOM:
            self._check_custom_rule(visit, cts)
        moving = [visit.operands[i] for i in check.targets]
        return merge(visit.step.active, in_primal_types([pair.second for pair in found], moving))

    def _check_custom_rule(self, visit: Visit, cts: list[Any]) -> None:
        """Hold a user's rule against the derivative of its primal definition."""
        check = EquationCheck(visit.equation, visit.step.active, True, self.traced.users_mode)
        reached = [bool(jnp.any(ct != 0)) for ct in cts]
        for kind, cotangents in ((Cotangent.ACTUAL, cts), (Cotangent.GAUSSIAN, self.gaussian(cts))):
            said = custom_rule_verdict(check, visit.operands, cotangents, kind, visit.location, self.intended, reached)
            self.replaced.update(dict.fromkeys(said.replaced))
            self.notes.update(dict.fromkeys(said.notes))
            if said.wrong or said.replaced:
                break
        if said.wrong or said.follows:
            self._note(visit, wrong_inside(visit, self.traced.users_mode, self.intended) or said.wrong)
        if has_another_forward(check, visit.operands):
            self.forwards[f"{users_name(visit.equation)} at {visit.location.line}"] = None

    def _check_shard_map(self, visit: Visit, cts: list[Any], before: dict) -> None:
        """The body of a `shard_map`, if the whole is wrong or holds rules of the user's; `before`: the groups then."""
        body = ShardMap.of(visit.equation).body
        if before.keys() == self.groups.keys() and not holds(body, CUSTOM):
            return
        try:
            inside = check_body(visit, cts, self.traced.users_mode, self.intended)
        except Exception as error:  # what stands in a region may refuse to be traced in parts
            what = f"the shard_map at {visit.location.line} was checked as a whole only"
            self.notes[f"{what}: {first_line(error)}"] = None
            return
        self.checked.update(inside.checked)
        self.notes.update(dict.fromkeys(inside.notes))
        if inside.wrong:  # the whole is wrong because of these
            self.groups = before
            self._note(visit, inside.wrong)

    def _note(self, visit: Visit, wrong: Sequence[EquationComparison]) -> None:
        """Keep what was found: of each rule the first, and how many equations of the program it is wrong at."""
        for one in wrong:
            _, places = self.groups.setdefault((one.primitive, one.name, one.operand), (one, set()))
            places.add(visit.identity())
