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
    """A comparison that did not pass; `comparison` holds it, and the message is its text."""

    def __init__(self, comparison: "Comparison"):
        super().__init__(str(comparison))
        self.comparison = comparison


@dataclass(frozen=True)
class Comparison(Results):
    """The manual gradient of a function beside the automatic one, and beside differences of the function.

    Its fields are those of `results.Results`.
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
