"""Inside a `shard_map`: the rules of its body, checked on each device with the values that it holds.

The walk is the same, but traced within the region, where the axes have names; what comes back is a few numbers for
each equation and device.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.jaxprs.compat import quick_compilation
from fnbackprop.jaxprs.evaluate import bind
from fnbackprop.jaxprs.limited_loops import LimitedFunction
from fnbackprop.jaxprs.lists import merge, present
from fnbackprop.jaxprs.views import ShardMap

from ..diagnosis import scale_hypothesis
from ..program import first_line
from ..results import MANUAL_AND_AUTOMATIC, RULE_AND_PRIMAL, Cotangent, EquationComparison, EquationKind, Verdict
from ..tolerance import facts_of_equation, rounding_floor
from .check import CUSTOM, EquationCheck, both_sides
from .gaussian_cotangents import GaussianCotangents
from .verdict import Finding, rule_of, sizes_of, users_name, users_rule
from .walk import Visit, Walker


class Row(NamedTuple):
    """One operand of one equation in the region, checked with one cotangent."""

    visit: Visit
    operand: int
    cotangent: Cotangent
    primal: bool


class RegionChecks:
    """What is traced at each equation of the region: `rows` says of what, `stats` are the numbers."""

    def __init__(self, users_mode: bool):
        self.users_mode, self.draw = users_mode, GaussianCotangents()
        self.rows: list[Row] = []
        self.stats: list[Any] = []
        self.notes: list[str] = []

    def check(self, visit: Visit, cts: list[Any]) -> list[Any]:
        cts = present(cts)
        check = EquationCheck(visit.equation, visit.step.active, False, self.users_mode)
        found = self._both(visit, check, cts, Cotangent.ACTUAL)
        self._both(visit, check, self._gaussian(cts, visit.name), Cotangent.GAUSSIAN)
        if visit.name in CUSTOM:
            try:
                self._both(visit, check._replace(primal=True), self._gaussian(cts, visit.name), Cotangent.GAUSSIAN)
            except Exception as error:  # the primal may have no derivative
                self.notes.append(f"{users_name(visit.equation)} was not compared with its primal: {first_line(error)}")
        return merge(visit.step.active, found)

    def _both(self, visit: Visit, check: EquationCheck, cts: list[Any], kind: Cotangent) -> list[Any]:
        _, seconds, stats = both_sides(check, visit.operands, cts)
        self.rows += [Row(visit, position, kind, check.primal) for position in check.targets]
        self.stats += [one.astype(np.float32) for one in stats]
        return seconds

    def _gaussian(self, cts: Sequence[Any], primitive: str) -> list[Any]:
        """Varying over the axes as the cotangents do."""
        return [g + 0 * ct for g, ct in zip(self.draw(cts, primitive), cts, strict=True)]


class BodyVerdict(NamedTuple):
    """The wrong equations of a body, in the order of the backward walk; which were checked; what was left out."""

    wrong: list[EquationComparison]
    checked: set[Any]
    notes: list[str]


def check_body(visit: Visit, cts: Sequence[Any], users_mode: bool, intended: Sequence[str]) -> BodyVerdict:
    """Check the equations of a `shard_map`'s body.

    Args:
      cts: of the outputs; None for those that are not floating.
      users_mode: whether the program was traced in 64-bit mode.
      intended: see `Audit`.
    """
    region, step, checks = ShardMap.of(visit.equation), visit.step, RegionChecks(users_mode)
    walker = Walker(bind, checks.check, loops={})
    axes = tuple(axis for axis in region.mesh.axis_names if axis in region.axes)

    def run(operands, cotangents):
        plan = walker.engine.plan(region.body, step.active, step.wanted)
        _, visits = walker.forward(plan, operands, visit.location.inside("shard_map"))
        walker.backward(plan, visits, cotangents)
        return jnp.stack(checks.stats)[None]

    specs = [None if ct is None else spec for spec, ct in zip(region.out_specs, cts, strict=True)]
    mapped = region.map(run, (list(region.in_specs), specs), jax.sharding.PartitionSpec(axes))
    stats = np.asarray(LimitedFunction(mapped, compiler_options=quick_compilation())(visit.operands, list(cts)))
    found = (_verdict(row, stats[:, i], intended) for i, row in enumerate(checks.rows))
    checked = {row.visit.identity() for row in checks.rows}
    return BodyVerdict([one for one in found if one is not None], checked, checks.notes)


def _verdict(row: Row, stats: np.ndarray, intended: Sequence[str]) -> EquationComparison | None:
    """That on the device with the largest error."""
    equation = row.visit.equation
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = np.where(stats[:, 1] == 0, 0, stats[:, 1] / stats[:, 3])
    worst = int(np.argmax(errors))
    floor = rounding_floor(facts_of_equation(equation))
    _, off, ours, theirs = map(float, stats[worst])
    name, place = (
        users_rule(equation, row.visit.step.active, row.operand) if row.primal else rule_of(equation, row.operand)
    )
    if not errors[worst] > 10 * floor or (row.primal and (name in intended or theirs == 0)):
        return None
    ratio = ours / theirs if theirs else math.inf
    cause = None
    for factor in (ratio, -ratio):  # parallel, and so a factor, if the distance is that of the lengths
        if math.isfinite(ratio) and abs(off - abs(factor - 1) * theirs) <= 10 * floor * max(ours, theirs):
            sides, left = RULE_AND_PRIMAL if row.primal else MANUAL_AND_AUTOMATIC, abs(off / theirs - abs(factor - 1))
            cause = scale_hypothesis(factor, sizes_of(equation, row.operand), left, sides)
    finding, kind = Finding.DIFFERS, EquationKind.RULE
    if row.primal:
        finding, kind = Finding.CUSTOM_RULE, EquationKind.CUSTOM_RULE
    return EquationComparison(
        primitive=equation.primitive.name, name=name, rule_at=place, where=row.visit.location.line,
        within=row.visit.location.within, operand=row.operand, cotangent=row.cotangent, verdict=Verdict.FAIL,
        reason=finding.value, error=float(errors[worst]), allowed=10 * floor, ratio=ratio, hypothesis=cause, kind=kind,
    )  # fmt: skip
