"""Blame: where a number first became NaN or infinite that reaches the value or the gradient, and why there."""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .causes import Spot, cause_of_cotangent, cause_of_value, index_of_bad, place_in_backward, spot_of_value
from .recorder import Walk
from .records import Evidence, Iteration, Moment, Place, Record, Seen
from .statistics import all_finite


class Kind(enum.Enum):
    """Why a number became NaN or infinite."""

    ZERO_TIMES_INFINITY = "0·inf"
    INFINITE_DERIVATIVE = "infinite derivative"
    OVERFLOW = "overflow"
    POLE = "outside the domain"
    UNDEFINED = "undefined"
    INPUT = "input"
    VALUE = "non-finite value"
    WRONG_RULE = "wrong rule"
    COMPILED = "only when compiled"


REMEDY = {
    Kind.ZERO_TIMES_INFINITY: "guard the operand too, jnp.where(ok, f(jnp.where(ok, x, 1)), 0), or pass "
    "safe_select=True to fb.grad",
    Kind.INFINITE_DERIVATIVE: "keep the operand away from there: add a small number inside, or guard it with "
    "jnp.where before the operation",
    Kind.OVERFLOW: "shift or scale the operand first (subtract the maximum before exp), or use a wider dtype",
    Kind.POLE: "keep the operand inside the domain: jnp.maximum(x, eps) before it, or guard it with jnp.where",
    Kind.UNDEFINED: "use a large finite number in the place of the infinity, or leave out rows that are masked whole",
    Kind.INPUT: "clean the data: the number is there before the function begins",
    Kind.VALUE: "mend the value in the forward pass first",
    Kind.COMPILED: "operation by operation all is finite, but compiled together they round otherwise (a·b - c in one "
    "step, say): leave a margin before sqrt, log or a division there",
    Kind.WRONG_RULE: "compare the rule with the automatic derivative: fb.compare",
}


@dataclass(frozen=True)
class Blame:
    """The origin of a number that is not finite.

    Attributes:
      kind: the class of the cause. backward: whether a cotangent is meant, and no value.
      place: the user's line. primitive, rule: of the equation. path: the calls, loops and branches around it.
      iteration: of the loops around, the outermost first. device: inside a `shard_map`, its coordinates in the mesh,
        (("data", 1),) for instance. element: the position of the first bad element; on a device, in its piece.
      reaches: the paths of the leaves whose gradient is not finite; value: whether the function's value is not.
      behind: of 0·inf, the line of the selection that made the cotangent zero; of `undefined` and `non-finite value`,
        the line where the infinity was made; else None.
      detail: of the numbers that met. remedy: what to do.
    """

    kind: Kind
    backward: bool
    place: Place
    primitive: str
    rule: str
    path: tuple[str, ...]
    iteration: Iteration
    device: tuple[tuple[str, int], ...]
    element: tuple[int, ...]
    reaches: tuple[str, ...]
    leaves: int
    value: bool
    behind: Place | None
    behind_primitive: str
    detail: str

    @property
    def remedy(self) -> str:
        return REMEDY[self.kind]

    @property
    def severity(self) -> str:
        """What it reaches."""
        if not self.reaches:
            return "reaches the value, no gradient" if self.value else "reaches nothing"
        listed = ", ".join(path or "the argument" for path in self.reaches[:3])
        more = f" and {len(self.reaches) - 3} more" if len(self.reaches) > 3 else ""
        return f"reaches {'the value and ' if self.value else ''}the gradient of {listed}{more} (of {self.leaves})"

    @property
    def where(self) -> str:
        """Line, iteration and element in words."""
        loops = [label for label in self.path if label in ("scan", "while")]
        numbered = zip(loops, self.iteration, strict=False)
        library = f"in {self.place.library}" + (f", called from {self.place.caller}" if self.place.caller else "")
        parts = [str(self.place), *([library] if self.place.library else [])]
        parts += [*(f"iteration {i} of the {label}" for label, i in numbered)]
        parts += [label for label in self.path if label.startswith("branch")]
        if self.device:
            parts.append(f"device {', '.join(f'{axis}={i}' for axis, i in self.device)}")
        if self.element:
            parts.append(f"element {list(self.element)}")
        return ", ".join(parts)

    @property
    def sentence(self) -> str:
        """All of it, for a message."""
        what = "cotangent" if self.backward else "value"
        at = "" if self.kind is Kind.INPUT else f" at {self.primitive}"
        rule = f" by {self.rule}" if self.rule else ""
        source = f"\n    {self.place.text}" if self.place.text else ""
        behind = ""
        if self.behind is not None:
            word = "the cotangent was made zero" if self.kind is Kind.ZERO_TIMES_INFINITY else "made infinite"
            behind = f"\n{word} by {self.behind_primitive}, {self.behind}"
            behind += f"\n    {self.behind.text}" if self.behind.text else ""
        return (
            f"{self.kind.value}: a {what} became {self.detail}{at}{rule}, {self.where}{source}{behind}\n"
            f"it {self.severity}. To mend it: {self.remedy}."
        )

    def __str__(self) -> str:
        return self.sentence


def find_blame(walk: Walk, again: Callable[[Sequence[Evidence]], None]) -> Blame | None:
    """The origin of what is not finite in the value or the gradient; None if both are finite.

    again: walks once more, and fills in the evidence that it is given."""
    bad = tuple(name for name, g in walk.gradients.items() if not all_finite(g))
    value_is_bad = not np.isfinite(complex(walk.value))
    moments = walk.recorder.moments
    if value_is_bad:
        starts = [walk.value_moment]
    elif bad:
        pairs = zip(walk.gradients, walk.gradient_moments, strict=True)
        starts = [number for name, number in pairs if name in bad]
    else:
        return None
    number = origin(moments, [n for n in starts if n is not None])
    if number is None:
        return None
    facts = _Facts(walk, moments[number], bad, value_is_bad)
    return facts.blame(number, again)


def origin(moments: Sequence[Moment], starts: Sequence[int]) -> int | None:
    """The first moment from which a bad number reached one of these: what came to it was sound, or less bad."""
    found, pending, visited = [], list(starts), set()
    while pending:
        number = pending.pop()
        if number in visited:
            continue
        visited.add(number)
        moment = moments[number]
        before = [n for n in moment.parents if _passes(moments[n], moment)]
        pending += before
        if not before and moment.made:
            found.append(number)
    return min(found, default=None)


def _passes(parent: Moment, child: Moment) -> bool:
    """Whether the child's number is bad because the parent's was. Of cotangents, any; of values, a NaN makes a NaN, an
    infinity an infinity: masks of -inf are used rightly as long as no NaN is made of them."""
    if parent.backward != child.backward or not (parent.made and child.came and child.made):
        return False
    return child.backward or parent.made == child.came == child.made


class _Facts:
    """A bad moment, and what it reaches."""

    def __init__(self, walk: Walk, moment: Moment, bad: tuple[str, ...], value_is_bad: bool):
        self.walk, self.moment, self.bad, self.value_is_bad = walk, moment, bad, value_is_bad

    def blame(self, number: int, again: Callable[[Sequence[Evidence]], None]) -> Blame:
        moments, moment = self.walk.recorder.moments, self.moment
        record = _record_of(moments, moment)
        if moment.record is None:
            if record is None:
                spot = Spot((), index_of_bad([moment.value]))
                return self._made(Kind.INPUT, Place(function=moment.what), "", spot, moment.made)
            what = f"the {moment.what} after {record.primitive}"
            return self._made(Kind.OVERFLOW, record.place, what, Spot(), moment.made)
        evidence = Evidence(moment.record, moment.iteration)
        again([evidence])
        if moment.backward:
            return self._of_cotangent(number, evidence)
        if moment.came:
            return self._of_infinities(number, spot_of_value(evidence), again)
        cause = cause_of_value(evidence)
        return self._made(Kind[cause], None, None, spot_of_value(evidence), moment.made)

    def _of_infinities(self, number: int, spot: Spot, again: Callable) -> Blame:
        """Of a NaN that was made of infinities: where they were made, if by a mistake; a mask's are made on purpose."""
        moments = self.walk.recorder.moments
        source = origin(moments, [n for n in moments[number].parents if moments[n].made == "inf"])
        if source is None:
            return self._made(Kind.UNDEFINED, None, None, spot, "nan")
        if moments[source].record is not None and not moments[source].came:
            return _Facts(self.walk, moments[source], self.bad, self.value_is_bad).blame(source, again)
        behind = _record_of(moments, moments[source])
        found = self._made(Kind.UNDEFINED, None, None, spot, "nan", behind)
        return (
            found if behind else replace(found, behind=Place(function=moments[source].what), behind_primitive="input")
        )

    def _of_cotangent(self, number: int, evidence: Evidence) -> Blame:
        moments, record = self.walk.recorder.moments, self.moment.record
        assert record is not None
        cause, spot = cause_of_cotangent(evidence)
        kind, behind = Kind[cause], None
        if kind is Kind.ZERO_TIMES_INFINITY:
            behind = _selection_behind(moments, number)
        elif kind is Kind.VALUE:
            forward = next(
                i for i, m in enumerate(moments) if m.record is record and m.iteration == self.moment.iteration
            )
            first = origin_of_bad_value(moments, forward)
            behind = None if first is None else _record_of(moments, moments[first])
        place = place_in_backward(evidence, record.place)
        return self._made(kind, place, None, spot, self.moment.made, behind)

    def _made(
        self,
        kind: Kind,
        place: Place | None,
        primitive: str | None,
        spot: Spot,
        made: str,
        behind: Record | None = None,
    ) -> Blame:
        record, moment = self.moment.record, self.moment
        return Blame(
            kind=kind,
            backward=moment.backward,
            place=place or (record.place if record else Place()),
            primitive=(record.primitive if record else "") if primitive is None else primitive,
            rule=record.rule if record is not None and moment.backward else "",
            path=record.path if record else (),
            iteration=moment.iteration,
            device=spot.device,
            element=spot.element,
            reaches=self.bad,
            leaves=len(self.walk.gradients),
            value=self.value_is_bad,
            behind=behind.place if behind else None,
            behind_primitive=behind.primitive if behind else "",
            detail={"nan": "NaN", "inf": "infinite"}[made],
        )


def _record_of(moments: Sequence[Moment], moment: Moment) -> Record | None:
    """The record of a moment; of a sum or of rows, that of the last equation that it was made of."""
    while moment.record is None and moment.parents:
        moment = moments[moment.parents[-1]]
    return moment.record


def origin_of_bad_value(moments: Sequence[Moment], number: int) -> int | None:
    """Where a bad operand of this moment, or its own bad value, was made."""
    before = [n for n in moments[number].parents if moments[n].made]
    return origin(moments, before or [number])


def _selection_behind(moments: Sequence[Moment], number: int) -> Record | None:
    """The nearest selection, or product, through which the cotangent came that is zero."""
    pending, visited, product = list(moments[number].parents), set(), None
    while pending:
        here = pending.pop(0)
        if here in visited or not moments[here].backward:
            continue
        visited.add(here)
        record = moments[here].record
        if record is not None and record.primitive == "select_n":
            return record
        if record is not None and record.primitive == "mul" and product is None:
            product = record
        pending += moments[here].parents
    return product


def blame_by_statistics(walk: Walk) -> Blame | None:
    """The origin as far as statistics alone tell it, for what is not finite only as it is compiled."""
    bad = tuple(name for name, gradient in walk.gradients.items() if not all_finite(gradient))
    value_is_bad, records = not all_finite(walk.value), [r for r in walk.recorder.records if not r.entered]
    if value_is_bad:
        found = ((r, seen) for r in records for seen in r.values if _bad(seen))
    else:
        pairs = ((r, pair) for r in reversed(records) for pair in zip(r.cotangents, r.passed_on, strict=True))
        found = ((r, made) for r, (came, made) in pairs if _bad(made) and not _bad(came))
    record, seen = next(found, (None, None))
    if record is None or seen is None:
        return None
    moment = Moment(record, "", seen.iteration, not value_is_bad, (), "", _bad(seen))
    return _Facts(walk, moment, bad, value_is_bad)._made(Kind.COMPILED, None, None, Spot(), moment.made)


def _bad(seen: Seen) -> str:
    return next((s.bad for s in seen.of if s is not None and s.bad), "")
