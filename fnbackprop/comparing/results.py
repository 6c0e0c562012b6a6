"""What a comparison found, as data: of the whole, of each leaf, of each equation's rule, of each further property.

Words used throughout `comparing/`: the *manual* gradient is that of fnbackprop's hand-written rules, the *automatic*
one is JAX's, and *differences* of the function itself are the third source. Nothing here prints anything: see `show/`.
"""

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Verdict(enum.StrEnum):
    """The most severe first. PASS is the only good one; each of the others comes with its reason.

    FAIL: the manual gradient is wrong. NON_FINITE: NaN or infinite. NONDETERMINISTIC: a second call differs.
    JUMP: the function is discontinuous here. UNBOUNDED: its slope is infinite. DOMAIN_EDGE: it is defined on one side
    only. KINK: its slopes from the two sides differ, or a tie inside it hides its slope, and the gradient is a
    convention. NOISE_LIMITED: rounding hides whatever there may be. SKIPPED: not compared.

    Example:
        >>> import fnbackprop as fb, jax.numpy as jnp
        >>> fb.compare(lambda x: jnp.abs(x), 0.0, progress=False).verdict is fb.Verdict.KINK
        True
    """

    FAIL = "FAIL"
    NONDETERMINISTIC = "NONDETERMINISTIC"
    DOMAIN_EDGE = "DOMAIN-EDGE"
    UNBOUNDED = "UNBOUNDED"
    JUMP = "JUMP"
    KINK = "KINK"
    NON_FINITE = "NON-FINITE"
    NOISE_LIMITED = "NOISE-LIMITED"
    PASS = "PASS"
    SKIPPED = "SKIPPED"


SEVERITY = tuple(Verdict)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The most severe; SKIPPED if there are none."""
    return min(verdicts, key=SEVERITY.index, default=Verdict.SKIPPED)


class Sides(NamedTuple):
    """What the two gradients that are compared are called; automatic: empty where JAX refuses to give one."""

    manual: str = "manual"
    automatic: str = "automatic"


MANUAL_AND_AUTOMATIC = Sides()
RULE_AND_PRIMAL = Sides("its rule", "its primal's derivative")  # of a user's `custom_vjp` or `custom_jvp`


class Cause(enum.StrEnum):
    """What kind of mistake would explain a wrong array."""

    SCALE = "scale"
    SIGN = "sign"
    CONJUGATE = "conjugate"
    REAL = "real"
    TRANSPOSE = "transpose"
    FLIP = "flip"
    ROLL = "roll"
    MEAN = "mean"
    SUM = "sum"
    MASK = "mask"
    SLICE = "slice"
    ZERO = "zero"
    NONZERO = "nonzero"
    SWAP = "swap"
    IGNORED = "ignored"


class Agreement(enum.StrEnum):
    """With which cotangent differences of an equation agree; UNKNOWN where they can say nothing."""

    MANUAL = "manual"
    AUTOMATIC = "automatic"
    BOTH = "both"
    NEITHER = "neither"
    UNKNOWN = ""


class Cotangent(enum.StrEnum):
    """The output cotangent with which an equation was checked: that of the backward pass, or a Gaussian one."""

    ACTUAL = "actual"
    GAUSSIAN = "Gaussian"


class EquationKind(enum.Enum):
    """What the two sides of an EquationComparison are.

    RULE: the hand-written rule and JAX's derivative. CUSTOM_RULE: a user's `custom_vjp` or `custom_jvp` rule and the
    derivative of the function that it belongs to. TWO_FUNCTIONS: an equation of each of two functions.
    """

    RULE = "rule"
    CUSTOM_RULE = "custom rule"
    TWO_FUNCTIONS = "two functions"


class Property(enum.StrEnum):
    """A property that is checked beside the gradient's values; its text is how it is printed."""

    REPEATABLE = "a second call is identical"
    SAME_VALUE = "the value is the same with a backward pass and without"
    ZERO = "a zero cotangent gives zeros"
    LINEAR = "linear in the cotangent"
    RULES = "rules in place"
    WITHOUT_JIT = "without jit"
    VMAP = "under vmap"
    CHECKPOINT = "under jax.checkpoint"
    REPEATED = "repeated"
    UNROLLED = "with loops unrolled"
    SHARDED = "with sharded data"


@dataclass(frozen=True)
class Hypothesis:
    """What would explain a wrong array: under this change, manual equals the reference up to rounding.

    Attributes:
      text: for people, like "a factor 2 is missing" or "mean for sum, axis 0".
      residual: the relative error that is left under the change.
      factor: of manual to the reference, for Cause.SCALE; else NaN.
    """

    text: str
    kind: Cause
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
      hypothesis: what would explain the difference, if anything does.
      bound: from differences: the relative error of this leaf is at most this, at 95 %.
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
    """One equation of the program that did not pass.

    Attributes:
      primitive: its name; of a user's rule, "custom_vjp_call" or "custom_jvp_call".
      name: of the rule, or of the user's function. rule_at: the "file:line" of the rule, where it is known.
      where: the user's "file:line:column (function)".
      within: the loops and branches around it, like "scan[12]/cond[1]"; empty at the top.
      operand: the position of the operand whose cotangent it is.
      cotangent: the output cotangent that showed it.
      verdict, reason, error, allowed, ratio, hypothesis: as for a leaf.
      numeric: which side differences of this equation agree with.
      count: how many equations of the program are wrong by the same rule.
      kind: what was compared with what.
    """

    primitive: str
    name: str
    where: str
    within: str
    operand: int
    cotangent: Cotangent
    verdict: Verdict
    reason: str = ""
    error: float = math.nan
    allowed: float = math.nan
    ratio: float = math.nan
    hypothesis: Hypothesis | None = None
    numeric: Agreement = Agreement.UNKNOWN
    count: int = 1
    kind: EquationKind = EquationKind.RULE
    rule_at: str = ""


@dataclass(frozen=True)
class NumericComparison:
    """Both gradients against differences of the function along Gaussian directions.

    Attributes:
      verdict, reason: of the manual gradient.
      directions: how many moved all leaves at once.
      manual, automatic: the largest distance of each from the differences, relative to the size that a derivative in
        a Gaussian direction has.
      allowed: the largest distance that the step and rounding explain.
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
      verdict, reason: as for a leaf.
      error, allowed: relative, where there are numbers.
    """

    name: Property
    verdict: Verdict
    reason: str = ""
    error: float = math.nan
    allowed: float = math.nan


@dataclass(frozen=True)
class Results:
    """All that was found about the manual gradient of a function; its fields are described in `Comparison`."""

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
    sides: Sides = MANUAL_AND_AUTOMATIC

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
