"""Inside a `shard_map`: the rules of its body, asked on each device with the values that it holds.

The walk is the audit's, but traced within the region, where the axes have names; what comes back is a few numbers for
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
from fnbackprop.jaxprs.types import close_jaxpr

from ..diagnosis import scale_hypothesis
from ..results import EquationComparison, Verdict
from ..show.text import OF_THE_USER
from .check import CUSTOM, EquationCheck, both_sides, floor_of
from .verdict import WRONG, rule_name, sizes_of, users_name
from .walk import Audit, Visit


class Row(NamedTuple):
    """One operand of one equation in the region, asked with one cotangent."""

    visit: Visit
    operand: int
    cotangent: str
    primal: bool


class Shards(Audit):
    """The traced walk: what it is told of each equation is kept in `rows` and `stats`."""

    def __init__(self, outer: Audit):
        super().__init__(outer.traced)
        self.rows: list[Row] = []
        self.stats: list[Any] = []

    def evaluate(self, equation: Any, values: list[Any]) -> Sequence[Any]:
        return bind(equation, values)

    def walks_loop(self, name: str) -> bool:
        return False

    def ask(self, visit: Visit, cts: list[Any]) -> list[Any]:
        step = visit.step
        check = EquationCheck(step.equation, step.active, False, self.traced.users_mode)
        found = self._ask(visit, check, cts, "actual")
        self._ask(visit, check, self.gaussian(cts), "Gaussian")
        if step.equation.primitive.name in CUSTOM:
            try:
                self._ask(visit, check._replace(primal=True), self.gaussian(cts), "Gaussian")
            except Exception as error:  # the primal may have no derivative
                self.notes[f"{users_name(step.equation)} was not held against its primal: {error}"] = None
        result = dict(zip(check.targets, found, strict=True))
        return [result.get(i) for i in range(len(visit.operands))]

    def _ask(self, visit: Visit, check: EquationCheck, cts: list[Any], kind: str) -> list[Any]:
        _, seconds, stats = both_sides(check, visit.operands, cts)
        self.rows += [Row(visit, position, kind, check.primal) for position in check.targets]
        self.stats += [one.astype(np.float32) for one in stats]
        return seconds

    def gaussian(self, cts: Sequence[Any]) -> list[Any]:
        """Varying over the axes as the cotangents do."""
        return [g + 0 * ct for g, ct in zip(super().gaussian(cts), cts, strict=True)]


def look_inside(outer: Audit, visit: Visit, cts: Sequence[Any]) -> list[EquationComparison]:
    """The wrong equations of a `shard_map`'s body, in the order of the backward walk.

    Args:
      cts: of the outputs; None for those that are no floating numbers.
    """
    step, params = visit.step, visit.step.equation.params
    closed, shards = close_jaxpr(params["jaxpr"]), Shards(outer)
    axes = tuple(axis for axis in params["mesh"].axis_names if axis in params["newly_manual_axes"])

    def run(operands, cotangents):
        plan = shards.engine.plan(closed, step.active, step.wanted)
        _, visits = shards.forward(plan, operands, visit.location.inside("shard_map"))
        shards.backward(plan, visits, cotangents)
        return jnp.stack(shards.stats)[None]

    specs = [None if ct is None else spec for spec, ct in zip(params["out_specs"], cts, strict=True)]
    region = jax.shard_map(
        run, mesh=params["mesh"], in_specs=(list(params["in_specs"]), specs),
        out_specs=jax.sharding.PartitionSpec(axes), axis_names=params["newly_manual_axes"],
        check_vma=params["check_vma"],
    )  # fmt: skip
    stats = np.asarray(jax.jit(region, compiler_options=quick_compilation())(visit.operands, list(cts)))
    found = (_judged(row, stats[:, i], outer.intended) for i, row in enumerate(shards.rows))
    outer.asked.update(row.visit.identity() for row in shards.rows)
    return [one for one in found if one is not None]


def _judged(row: Row, stats: np.ndarray, intended: Sequence[str]) -> EquationComparison | None:
    """The verdict on the device that is farthest off."""
    equation = row.visit.step.equation
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = np.where(stats[:, 1] == 0, 0, stats[:, 1] / stats[:, 3])
    worst = int(np.argmax(errors))
    floor, (_, off, ours, theirs) = floor_of(equation), map(float, stats[worst])
    name = users_name(equation) if row.primal else rule_name(equation, row.operand)
    if not errors[worst] > 10 * floor or (row.primal and (name in intended or theirs == 0)):
        return None
    ratio = ours / theirs if theirs else math.inf
    said = None
    for factor in (ratio, -ratio):  # parallel, and so a factor, if the distance is that of the lengths
        if math.isfinite(ratio) and abs(off - abs(factor - 1) * theirs) <= 10 * floor * max(ours, theirs):
            said = scale_hypothesis(factor, sizes_of(equation, row.operand), abs(off / theirs - abs(factor - 1)))
    return EquationComparison(
        primitive=equation.primitive.name, name=name, where=row.visit.location.line, within=row.visit.location.within,
        operand=row.operand, cotangent=row.cotangent, verdict=Verdict.FAIL,
        reason=OF_THE_USER if row.primal else WRONG, error=float(errors[worst]),
        allowed=10 * floor, ratio=ratio, hypothesis=said,
    )  # fmt: skip
