"""What a comparison says of a gradient, leaf by leaf."""

import enum
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

NOISE_LIMIT = 0.1  # an allowed relative error above this proves nothing


class Verdict(enum.StrEnum):
    """PASS is the only good one; each of the others comes with its reason."""

    PASS = "PASS"
    FAIL = "FAIL"
    NON_FINITE = "NON-FINITE"
    NOISE_LIMITED = "NOISE-LIMITED"
    SKIPPED = "SKIPPED"


SEVERITY = (Verdict.FAIL, Verdict.NON_FINITE, Verdict.NOISE_LIMITED, Verdict.PASS, Verdict.SKIPPED)


@dataclass(frozen=True)
class LeafComparison:
    """One leaf of the gradient, manual against automatic.

    Attributes:
      path: where it is, like "layers/0/w".
      shape, dtype: of the automatic gradient.
      verdict, reason: the reason is empty when there is nothing to say.
      norm: Euclidean, of the automatic gradient.
      error: the norm of manual - automatic, relative to `norm`.
      allowed: the largest error that rounding explains.
      noise: how far, relatively, the automatic gradient itself moves when the inputs' last bits change.
      ratio: the norm of manual over that of automatic.
      cosine: of the angle between them.
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


@dataclass(frozen=True)
class NumericComparison:
    """Both gradients against differences of the function along Gaussian directions.

    Attributes:
      verdict, reason: of the manual gradient.
      directions: how many.
      manual, automatic: the largest distance of each from the differences, relative to the size that a derivative in
        a Gaussian direction has.
      allowed: the largest distance that the step and rounding explain.
    """

    verdict: Verdict
    reason: str
    directions: int
    manual: float
    automatic: float
    allowed: float


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
    """

    name: str
    value: LeafComparison
    leaves: tuple[LeafComparison, ...]
    numeric: NumericComparison | None
    problems: tuple[str, ...]
    tolerance: str
    seed: int

    @property
    def verdict(self) -> Verdict:
        """The worst of all verdicts; SKIPPED if there was nothing to compare."""
        if self.problems:
            return Verdict.FAIL
        found = [leaf.verdict for leaf in self.leaves] or [Verdict.SKIPPED]
        found += [self.value.verdict] if self.value.verdict is not Verdict.PASS else []
        if self.numeric is not None and self.numeric.verdict in (Verdict.FAIL, Verdict.NON_FINITE):
            found.append(self.numeric.verdict)
        return min(found, key=SEVERITY.index)

    @property
    def ok(self) -> bool:
        """Whether the verdict is PASS."""
        return self.verdict is Verdict.PASS

    def require(self) -> "Comparison":
        """This comparison if it is ok; else raises GradientMismatch, an AssertionError with the same text."""
        if not self.ok:
            raise GradientMismatch(self)
        return self

    def table(self) -> str:
        """The leaves as a table of at most 80 columns."""
        from .report import table_text

        return table_text(self)

    def to_json(self) -> str:
        """All of it as JSON; a number that is not finite is null."""
        return json.dumps(_finite({"verdict": self.verdict, "ok": self.ok, **asdict(self)}), indent=2)

    def __str__(self) -> str:
        from .report import text

        return text(self)

    def __rich__(self) -> Any:
        from .report import renderable

        return renderable(self)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
