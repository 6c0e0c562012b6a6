"""What the walk tells, kept: a record for each equation, and the graph of moments."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from ..jaxprs.avals import aval_of
from ..jaxprs.types import Tracer, is_var
from .records import Evidence, Iteration, Moment, Place, Record, Scope, Seen, place_of
from .regions import Region
from .saturation import saturated_share
from .statistics import Statistics, has_statistics, statistics

SMALL_LITERAL = 1e-4  # an epsilon
_NOWHERE = Place()


class Recorder:
    """Collects what one walk shows.

    Args:
      keep: of which records the values and cotangents themselves are kept.
      evidence: what to fill in when its equation and iteration come.
      function: where the program's function is: the place of equations of which no line is known.

    Attributes:
      records: in the order of the forward walk. moments: in the order in which they happened.
      kept: for each kept record's number, (iteration, values) and (iteration, cotangents).
      lost: the additions of a small number that changed nothing.
      keys: for each random key that was used, the records that used it.
    """

    def __init__(self, keep: Callable[[Record], bool], evidence: Sequence[Evidence] = (), function: Place = _NOWHERE):
        self.keep, self.evidence = keep, evidence
        self.records: list[Record] = []
        self.moments: list[Moment] = []
        self.kept: dict[int, tuple[list[Any], list[Any]]] = {}
        self.keys: dict[bytes, list[tuple[Record, Iteration]]] = {}
        self.lost: list[tuple[Record, Iteration]] = []
        self.scope, self.iteration = Scope(function), ()
        self.plans: dict[Any, Any] = {}
        self._made_by: dict[int, tuple[Any, int]] = {}
        self._known: dict[int, tuple[Any, Statistics | None]] = {}

    def close(self) -> None:
        """Let go of what only the walk needs."""
        self.plans.clear()
        self._made_by.clear()
        self._known.clear()

    # ------------------------------------------------------------ where the walk is

    @contextmanager
    def inside(self, equation: Any, label: str) -> Iterator[None]:
        """The body of an equation."""
        outer, self.scope = self.scope, self.scope.inside(equation, label)
        try:
            yield
        finally:
            self.scope = outer

    @contextmanager
    def at_iteration(self, i: int) -> Iterator[None]:
        outer, self.iteration = self.iteration, (*self.iteration, i)
        try:
            yield
        finally:
            self.iteration = outer

    def record_of(self, equation: Any, region: Region | None = None, scope: Scope | None = None) -> Record:
        """The record of an equation. region: the `shard_map` that it stands in. scope: its body, if not the one where
        the walk is."""
        scope = self.scope if scope is None else scope
        records = scope.records
        if id(equation) not in records:
            place = place_of(equation, scope.place, scope.in_library)
            shapes = tuple(v.aval.str_short(short_dtypes=True) for v in equation.outvars)
            primitive = equation.primitive.name
            name = equation.params.get("name") if primitive == "name" else None
            record = Record(len(self.records), equation, place, scope.path, primitive, shapes, name, region)
            self.records.append(record)
            records[id(equation)] = record
        return records[id(equation)]

    # ------------------------------------------------------------ the graph of moments

    def number_of(self, x: Any) -> int | None:
        """The moment that made a value."""
        found = self._made_by.get(id(x))
        return found[1] if found is not None and found[0]() is x else None

    def made(self, xs: Sequence[Any], moment: Moment) -> int:
        """Note that these values were made at this moment; returns its number."""
        number = len(self.moments)
        self.moments.append(moment)
        for x in xs:
            if isinstance(x, jax.Array):
                self._made_by[id(x)] = weakref.ref(x), number
        return number

    def _source(self, x: Any) -> int | str | None:
        """The number of the record that made a value, or the name of the input that it is."""
        number = self.number_of(x)
        if number is None:
            return None
        moment = self.moments[number]
        return (moment.what if not moment.parents else None) if moment.record is None else moment.record.number

    def _primitive_behind(self, operands: Sequence[Any]) -> str:
        """What made the first operand; "" for what no equation did."""
        number = self.number_of(operands[0]) if operands else None
        record = None if number is None else self.moments[number].record
        return "" if record is None else record.primitive

    def parents(self, xs: Sequence[Any]) -> tuple[int, ...]:
        found = (self.number_of(x) for x in xs)
        return tuple(dict.fromkeys(n for n in found if n is not None))

    def derived(self, x: Any, sources: Sequence[Any], what: str, backward: bool) -> Any:
        """Note that a value, which is returned, was made of others by no equation of the program."""
        if not isinstance(x, Tracer):
            came = _worst(self.statistics(y) for y in sources)
            made = _worst([self.statistics(x)])
            self.made([x], Moment(None, what, self.iteration, backward, self.parents(sources), came, made))
        return x

    def input(self, x: Any, name: str) -> None:
        """Note an input of the program."""
        made = _worst([self.statistics(x)])
        self.made([x], Moment(None, name, (), False, (), made, made, x if made else None))

    def statistics(self, x: Any) -> Statistics | None:
        """The statistics of a value, computed once; None for one that is not floating."""
        if x is None or not has_statistics(aval_of(x)):
            return None
        known = self._known.get(id(x))
        if known is not None and known[0]() is x:
            return known[1]
        found = statistics(x)
        if isinstance(x, jax.Array):
            self._known[id(x)] = weakref.ref(x), found
        return found

    # ------------------------------------------------------------ what is seen

    def saw_values(self, equation: Any, operands: Sequence[Any], outputs: Sequence[Any], entered: bool) -> None:
        record = self.record_of(equation)
        seen = tuple(map(self.statistics, outputs))
        record.values.append(Seen(self.iteration, seen))
        if len(record.values) == 1:
            record.made_of = tuple(map(self._source, operands))
        share = saturated_share(equation, self._primitive_behind(operands), outputs)
        if share is not None:
            record.saturated.append(share)
        record.entered = record.entered or entered
        if self.keep(record):
            self.kept.setdefault(record.number, ([], []))[0].append((self.iteration, list(outputs)))
        for evidence in self.evidence:
            if evidence.is_of(record, self.iteration):
                evidence.operands, evidence.outputs = tuple(operands), tuple(outputs)
        if entered:
            return
        if record.primitive == "random_bits":
            self._saw_key(record, operands)
        if record.primitive == "add" and _is_lost(equation, operands, outputs):
            self.lost.append((record, self.iteration))
        came, made = _worst(map(self.statistics, operands)), _worst(seen)
        self.made(outputs, Moment(record, "", self.iteration, False, self.parents(operands), came, made))

    def _saw_key(self, record: Record, operands: Sequence[Any]) -> None:
        key = operands[0]
        data = jax.random.key_data(key) if jax.dtypes.issubdtype(aval_of(key).dtype, jax.dtypes.prng_key) else key
        self.keys.setdefault(np.asarray(data).tobytes(), []).append((record, self.iteration))

    def saw_cotangents(
        self, step: Any, cotangents: Sequence[Any], targets: Sequence[Any], found: Sequence[Any], entered: bool
    ) -> None:
        """Note one equation of the backward walk: of its operands `targets`, these terms were found."""
        record = self.record_of(step.equation)
        record.targets = tuple(map(step.equation.invars.index, targets))
        record.rule = ", ".join(dict.fromkeys(call.rule.name for call in step.calls))
        came, made = tuple(map(self.statistics, cotangents)), tuple(map(self.statistics, found))
        record.cotangents.append(Seen(self.iteration, came))
        record.passed_on.append(Seen(self.iteration, made))
        if self.keep(record):
            self.kept.setdefault(record.number, ([], []))[1].append((self.iteration, list(cotangents)))
        for evidence in self.evidence:
            if evidence.is_of(record, self.iteration):
                evidence.step, evidence.cotangents = step, tuple(cotangents)
                evidence.found = {step.equation.invars.index(v): ct for v, ct in zip(targets, found, strict=True)}
        if entered:
            return
        moment = Moment(record, "", self.iteration, True, self.parents(cotangents), _worst(came), _worst(made))
        self.made(found, moment)


def _is_lost(equation: Any, operands: Sequence[Any], outputs: Sequence[Any]) -> bool:
    """Whether a small literal was added to numbers that are not zero, and rounded away in all of them."""
    other = epsilon_added(equation, operands)
    if other is None or not np.size(other):
        return False
    return bool(np.all(np.asarray(other) != 0) and np.array_equal(np.asarray(other), np.asarray(outputs[0])))


def epsilon_added(equation: Any, operands: Sequence[Any]) -> Any:
    """The operand of an addition to which a small literal is added; None if it is no such addition."""
    literals = [not is_var(atom) for atom in equation.invars]
    if sum(literals) != 1 or not has_statistics(equation.outvars[0].aval):
        return None
    added, other = operands[literals.index(True)], operands[literals.index(False)]
    return other if 0 < abs(complex(added)) < SMALL_LITERAL else None


def _worst(seen: Any) -> str:
    """ "nan", "inf" or "" of several statistics."""
    found = {s.bad for s in seen if s is not None}
    return "nan" if "nan" in found else "inf" if "inf" in found else ""


class Walk(NamedTuple):
    """What one walk gave.

    Attributes:
      recorder: what it was told.
      value, value_moment: of the function, and the number of the moment that made it.
      gradients, gradient_moments: of each differentiated leaf, by its path.
      compiled: whether it was one compiled program.
    """

    recorder: Recorder
    value: Any
    value_moment: int | None
    gradients: dict[str, Any]
    gradient_moments: list[int | None]
    compiled: bool = False
