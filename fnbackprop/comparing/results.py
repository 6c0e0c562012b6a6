"""What a comparison says of a gradient: of the whole, of each leaf, and of each equation's rule."""

import enum
import json
import math
import os
import pathlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

NOISE_LIMIT = 0.1  # an allowed relative error above this proves nothing


class Verdict(enum.StrEnum):
    """PASS is the only good one; each of the others comes with its reason.

    FAIL: the manual gradient is wrong. NON_FINITE: NaN or infinite. NONDETERMINISTIC: a second call differs.
    JUMP: the function is discontinuous here. UNBOUNDED: its slope is infinite. DOMAIN_EDGE: it is defined on one side
    only. KINK: its slopes from the two sides differ, or a tie inside it hides its slope, and the gradient is a
    convention. NOISE_LIMITED: rounding hides whatever there may be. SKIPPED: not compared.
    """

    PASS = "PASS"
    FAIL = "FAIL"
    NON_FINITE = "NON-FINITE"
    NONDETERMINISTIC = "NONDETERMINISTIC"
    JUMP = "JUMP"
    UNBOUNDED = "UNBOUNDED"
    DOMAIN_EDGE = "DOMAIN-EDGE"
    KINK = "KINK"
    NOISE_LIMITED = "NOISE-LIMITED"
    SKIPPED = "SKIPPED"


SEVERITY = (
    Verdict.FAIL,
    Verdict.NONDETERMINISTIC,
    Verdict.DOMAIN_EDGE,
    Verdict.UNBOUNDED,
    Verdict.JUMP,
    Verdict.KINK,
    Verdict.NON_FINITE,
    Verdict.NOISE_LIMITED,
    Verdict.PASS,
    Verdict.SKIPPED,
)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The most severe; SKIPPED if there are none."""
    return min(verdicts, key=SEVERITY.index, default=Verdict.SKIPPED)


@dataclass(frozen=True)
class Hypothesis:
    """What would diagnose a wrong array: under this change, manual equals the reference up to rounding.

    Attributes:
      text: for people, like "a factor 2 is missing" or "mean for sum, axis 0".
      kind: "scale", "sign", "transpose", "flip", "roll", "conjugate", "mean", "sum", "mask", "zero", "swap", ...
      residual: the relative error that is left under the change.
      factor: of manual to the reference, for "scale"; else NaN.
    """

    text: str
    kind: str
    residual: float
    factor: float = math.nan


@dataclass(frozen=True)
class LeafComparison:
    """One leaf of the gradient, manual against the reference.

    Attributes:
      path: where it is, like "layers/0/w".
      shape, dtype: of the automatic gradient.
      verdict, reason: the reason is empty when there is nothing to say.
      norm: Euclidean, of the reference.
      error: the norm of manual - reference, relative to `norm`.
      allowed: the largest error that rounding explains.
      noise: the error of the automatic gradient itself, relative to `norm`.
      ratio: the norm of manual over that of the reference.
      cosine: of the angle between them.
      ulps: the median and the largest distance of elements, in units in the last place of the leaf's dtype.
      worst: the index of the element that is farthest off, as text like "[3, 1]", and both values.
      hypothesis: what would diagnose the difference, if anything does.
      bound: by the numeric evaluator: the relative error of this leaf is at most this, at 95 %.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    verdict: Verdict
    reason: str = ""
    norm: float = math.nan
    error: float = math.nan
    allowed: float = math.nan
    noise: float = math.nan
    ratio: float = math.nan
    cosine: float = math.nan
    ulps: tuple[float, float] = (math.nan, math.nan)
    worst: tuple[str, complex | float, complex | float] | None = None
    hypothesis: Hypothesis | None = None
    bound: float = math.nan


@dataclass(frozen=True)
class EquationComparison:
    """One equation of the program, its rule held against the automatic one on the program's own operands.

    Attributes:
      primitive: its name; of a user's rule, "custom_vjp_call" or "custom_jvp_call".
      name: of the rule, or of the user's function.
      where: the user's "file:line:column (function)".
      within: the loops and branches around it, like "scan[12]/cond[1]"; empty at the top.
      operand: the position of the operand whose cotangent it is.
      cotangent: "actual" or "Gaussian": which output cotangent showed it.
      verdict, reason, error, allowed, ratio, hypothesis: as for a leaf.
      numeric: "manual", "automatic", "both", "neither" or "": whom differences of this equation agree with.
      count: how many equations of the program are off by the same rule.
    """

    primitive: str
    name: str
    where: str
    within: str
    operand: int
    cotangent: str
    verdict: Verdict
    reason: str = ""
    error: float = math.nan
    allowed: float = math.nan
    ratio: float = math.nan
    hypothesis: Hypothesis | None = None
    numeric: str = ""
    count: int = 1


@dataclass(frozen=True)
class NumericComparison:
    """Both gradients against differences of the function along Gaussian directions.

    Attributes:
      verdict, reason: of the manual gradient.
      directions: how many moved all leaves at once.
      manual, automatic: the largest distance of each from the differences, relative to the size that a derivative in
        a Gaussian direction has.
      allowed: the largest distance that the step and rounding diagnose.
      rate: by which power of the step the Taylor remainder falls: 2 if the gradient is right, 1 if it is wrong; NaN
        where the remainder is below rounding.
    """

    verdict: Verdict
    reason: str
    directions: int
    manual: float
    automatic: float
    allowed: float
    rate: float = math.nan


@dataclass(frozen=True)
class Check:
    """One further property: of the contract (L0) or of an environment (L4).

    Attributes:
      name: like "linear in the cotangent" or "jit against eager".
      verdict, reason: as for a leaf.
      error, allowed: relative, where there are numbers.
    """

    name: str
    verdict: Verdict
    reason: str = ""
    error: float = math.nan
    allowed: float = math.nan


class GradientMismatch(AssertionError):
    """A comparison that did not pass; `comparison` holds it, and the message is its text."""

    def __init__(self, comparison: "Comparison"):
        super().__init__(str(comparison))
        self.comparison = comparison


@dataclass(frozen=True)
class Comparison:
    """The manual gradient of a function beside the automatic one, and beside differences of the function.

    Attributes:
      name: of the function.
      value: its value, as the manual forward pass and JAX's give it.
      leaves: the gradient, in the order of the tree's leaves.
      numeric: None if no directions were asked for.
      problems: what is wrong with the gradient as a whole.
      tolerance: in words, what `allowed` is made of.
      seed: of the directions, for the same comparison again.
      equations: those that did not pass, in the order of the backward walk: the first is the earliest wrong one.
      audited: how many equations were held against the automatic rule; 0 if that was not asked for.
      contract: the checks of L0. environment: those of L4, if asked for.
      intended: where a gradient is stopped or replaced on purpose, with the lines.
      notes: what else there is to know, a line each.
      sides: the names of the two that are compared.
    """

    name: str
    value: LeafComparison
    leaves: tuple[LeafComparison, ...]
    numeric: NumericComparison | None
    problems: tuple[str, ...]
    tolerance: str
    seed: int
    equations: tuple[EquationComparison, ...] = ()
    audited: int = 0
    contract: tuple[Check, ...] = ()
    environment: tuple[Check, ...] = ()
    intended: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sides: tuple[str, str] = ("manual", "automatic")

    @property
    def verdict(self) -> Verdict:
        """The worst of all verdicts; SKIPPED if there was nothing to compare."""
        if self.problems:
            return Verdict.FAIL
        found = [leaf.verdict for leaf in self.leaves]
        others = [self.value, *self.equations, *self.contract, *self.environment]
        others += [] if self.numeric is None else [self.numeric]
        # A leaf decides whether anything was proven; the others can only make it worse.
        soft = (Verdict.PASS, Verdict.SKIPPED, Verdict.NOISE_LIMITED)
        return worst([*found, *(other.verdict for other in others if other.verdict not in soft)])

    @property
    def ok(self) -> bool:
        """Whether the verdict is PASS."""
        return self.verdict is Verdict.PASS

    @property
    def first_difference(self) -> EquationComparison | LeafComparison | None:
        """Where the two part: the earliest wrong equation of the backward walk, else the first wrong leaf."""
        parts = (*self.equations, *self.leaves)
        return next((part for part in parts if part.verdict is Verdict.FAIL), None)

    def require(self) -> "Comparison":
        """This comparison if it is ok; else raises GradientMismatch, an AssertionError with the same text."""
        if not self.ok:
            raise GradientMismatch(self)
        return self

    def table(self) -> str:
        """The leaves as a table of at most 80 columns."""
        from .show.text import table_text

        return table_text(self)

    def to_json(self) -> str:
        """All of it as JSON; a number that is not finite is null."""
        return json.dumps(_finite({"verdict": self.verdict, "ok": self.ok, **asdict(self)}), indent=2)

    def __str__(self) -> str:
        from .show.text import text

        return text(self)

    def __rich__(self) -> Any:
        from .show.text import renderable

        return renderable(self)

    def html(self, path: str | os.PathLike) -> None:
        """Write all of it as one page that needs no other file and no network."""
        from .show.html import page

        pathlib.Path(path).write_text(page(self), encoding="utf-8")

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from .show.html import fragment

        return fragment(self)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, complex):
        return [_finite(value.real), _finite(value.imag)]
    return None if isinstance(value, float) and not math.isfinite(value) else value
