"""`Balance`: what `fb.balance` returns."""

import dataclasses
import enum
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from .facts import Facts
from .show import text
from .show.page import page
from .suggestion import Suggestion, suggest, why_none
from .verdict import FINE, Verdict, judge


class Balance:
    """Whether the learning rate of an experiment is too high, too low or balanced, and what shows it.

    Attributes:
      facts: all that was measured: `facts.ratio` is rho, the rate over the critical one; `facts.curvature`,
        `facts.branches`, `facts.noise`, `facts.layers` ...
      verdict: a `Verdict`.
      sentence: why.
      suggestion: a multiple of the learning rate, with an interval and why; None if nothing can be said.
      why_no_suggestion: why nothing can be said; empty if there is a suggestion.

    Example:
      See `fb.balance`, which returns it.

      >>> import fnbackprop as fb
      >>> hasattr(fb.Balance, "html") and hasattr(fb.Balance, "ok")
      True
    """

    def __init__(self, facts: Facts):
        judgement = judge(facts)
        self.facts = facts
        self.verdict: Verdict = judgement.verdict
        self.sentence: str = judgement.sentence
        self.suggestion: Suggestion | None = suggest(facts, judgement)
        self.why_no_suggestion: str = why_none(facts, judgement)

    @property
    def ok(self) -> bool:
        """Whether the rate may stay as it is."""
        return self.verdict in FINE

    @property
    def multiplier(self) -> float:
        """By what to multiply the learning rate: 1 if it is balanced, or if nothing can be said."""
        return 1.0 if self.suggestion is None else self.suggestion.multiplier.value

    @property
    def multipliers(self) -> dict[str, float]:
        """For `fb.scale_by_layer`: what would make the updates of all layers equal relative to their weights."""
        return {layer.name: layer.multiplier for layer in self.facts.layers if layer.multiplier is not None}

    def table(self) -> str:
        """The evidence in columns, each number with its uncertainty."""
        return text.table(self)

    def __str__(self) -> str:
        return text.full_text(self)

    __repr__ = __str__

    def to_json(self) -> str:
        """All of it as JSON; a number that is not finite is null."""
        content = {
            "verdict": self.verdict,
            "ok": self.ok,
            "sentence": self.sentence,
            "suggestion": None if self.suggestion is None else self.suggestion._asdict(),
            "why_no_suggestion": self.why_no_suggestion,
            "overshoot": self.facts.overshoot,
            **_fields(self.facts),
        }
        return json.dumps(_as_json(content), indent=1)

    def html(self, path: str | Path | None = None) -> str:
        """One page that needs no other file: the verdict, and the evidence as curves and tables. Returned, and written
        to `path` if given."""
        written = page(self)
        if path is not None:
            Path(path).write_text(written, encoding="utf-8")
        return written

    _repr_html_ = html


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _as_json(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value):
        return _as_json(_fields(value))
    if isinstance(value, dict):
        return {name: _as_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return list(map(_as_json, value.tolist() if isinstance(value, np.ndarray) else value))
    return None if isinstance(value, float) and not math.isfinite(value) else value
