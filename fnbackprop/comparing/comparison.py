"""`Comparison`: the results of `fb.compare`, which print themselves; and the error that a failed one raises."""

import enum
import json
import math
import os
import pathlib
from dataclasses import asdict, dataclass
from typing import Any

from .results import Results
from .show import html, text


class GradientMismatch(AssertionError):
    """A comparison that did not pass; it is an AssertionError, whose message is the comparison's text.

    Attributes:
        comparison: the `Comparison`.
    Example:
        >>> import fnbackprop as fb, jax
        >>> doubled = jax.custom_vjp(lambda x: 2 * x)
        >>> doubled.defvjp(lambda x: (2 * x, None), lambda _, dy: (dy,))  # wrong: a factor 2 is missing
        >>> try:
        ...     fb.compare(doubled, 3.0, progress=False).require()
        ... except fb.GradientMismatch as error:
        ...     print(error.comparison.verdict)
        FAIL
    """

    def __init__(self, comparison: "Comparison"):
        super().__init__(str(comparison))
        self.comparison = comparison


@dataclass(frozen=True)
class Comparison(Results):
    """The manual gradient of a function beside the automatic one, and beside differences of the function.

    Attributes:
        name: of the function.
        value: its value, as the manual forward pass and JAX's give it.
        leaves: the gradient, in the order of the tree's leaves: each with its `path`, `verdict`, relative `error` and
            what is `allowed`.
        numeric: the comparison with differences; None if no directions were asked for.
        problems: what is wrong with the gradient as a whole.
        tolerance: in words, what `allowed` is made of.
        seed: of the directions, for the same comparison again.
        equations: those that did not pass, in the order of the backward walk: the first is the earliest wrong one.
        audited: how many equations were held against the automatic rule; 0 if that was not asked for.
        contract: the checks that any pullback must pass (linear, deterministic ...).
        environment: those under vmap, remat, without jit ..., if asked for.
        intended: where a gradient is stopped or replaced on purpose, with the lines.
        notes: what else there is to know, a line each.
        sides: the names of the two that are compared.
    Example:
        >>> import fnbackprop as fb
        >>> found = fb.compare(lambda x: x**2, 3.0, progress=False)
        >>> print(found.ok, found.verdict, found.leaves[0].path)
        True PASS args[0]
    """

    def require(self) -> "Comparison":
        """This comparison if it is ok; else raises GradientMismatch, an AssertionError with the same text."""
        if not self.ok:
            raise GradientMismatch(self)
        return self

    def table(self) -> str:
        """The leaves as a table of at most 80 columns."""
        return text.table_text(self)

    def to_json(self) -> str:
        """All of it as JSON; a number that is not finite is null."""
        return json.dumps(_as_json({"verdict": self.verdict, "ok": self.ok, **asdict(self)}), indent=2)

    def __str__(self) -> str:
        return text.full_text(self)

    def __rich__(self) -> Any:
        return text.renderable(self)

    def html(self, path: str | os.PathLike) -> None:
        """Write all of it as one page that needs no other file and no network."""
        pathlib.Path(path).write_text(html.page(self), encoding="utf-8")

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return html.fragment(self)


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, complex):
        return [_as_json(value.real), _as_json(value.imag)]
    if isinstance(value, enum.Enum):
        return value.value
    return None if isinstance(value, float) and not math.isfinite(value) else value
