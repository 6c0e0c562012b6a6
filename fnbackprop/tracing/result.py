"""`Trace`: what `fb.trace` returns."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from .blame import Blame
from .findings import Finding
from .recorder import Walk
from .records import Record
from .show import text
from .show.page import fragment, page
from .show.rows import Row, rows_of, table_rows
from .statistics import rms


class Trace:
    """Every equation of a function at its arguments: what flowed forward and what flowed back.

    Attributes:
      name: of the function.
      value: as `fb.value_and_grad` gives it.
      gradients: as `fb.value_and_grad` gives them, by the leaves' paths.
      records: one for each equation, in the order of the forward walk.
      findings: what else there is to know: vanishing and exploding cotangents, dead units, keys used twice, ...
      notes: what was done otherwise than one may expect.
      compiled: whether what is shown is of the compiled program, and not of a walk on numbers.
      tied: for each differentiated leaf that is the same array as others, their paths.

    Example:
      >>> import fnbackprop as fb, jax.numpy as jnp
      >>> found = fb.trace(lambda x: jnp.sum(jnp.sin(x)), jnp.zeros(2))
      >>> print(found.ok, found.records[0].primitive, found.gradients)
      True sin {'args[0]': Array([1., 1.], dtype=float32)}
    """

    def __init__(
        self,
        name: str,
        walk: Walk,
        blame: Blame | None,
        findings: tuple[Finding, ...],
        notes: tuple[str, ...] = (),
        tied: dict[str, tuple[str, ...]] | None = None,
    ):
        self.tied = tied or {}
        self.name, self.value, self.gradients = name, walk.value, walk.gradients
        self.records, self.findings, self.notes = walk.recorder.records, findings, notes
        self._blame, self._kept = blame, walk.recorder.kept
        self.compiled = walk.compiled

    @property
    def ok(self) -> bool:
        """Whether value and gradient are finite."""
        return self._blame is None

    def blame(self) -> Blame | None:
        """The origin of a NaN or infinity in the value or the gradient; None if both are finite."""
        return self._blame

    def cotangent(self, name: str | int) -> Any:
        """The gradient with respect to a named value, or to the value of the equation with this number.

        Stacked along a first axis if it was made several times: in the iterations of a loop (a `while` that ends after
        a number of them that is data, too), or by several equations of this name. Inside a `shard_map` it has a first
        axis for the devices along which it varies.
        Raises:
          KeyError: nothing of this name was kept; `fb.trace(..., keep=...)` keeps more.
        """
        return self._of(name, 1)

    def value_of(self, name: str | int) -> Any:
        """The value itself, as `cotangent`."""
        return self._of(name, 0)

    def _of(self, name: str | int, side: int) -> Any:
        chosen = [r for r in self.records if name == (r.number if isinstance(name, int) else r.name)]
        found = [pair for r in chosen for pair in sorted(self._kept.get(r.number, ([], []))[side], key=lambda p: p[0])]
        if not found:
            known = ", ".join(sorted({repr(r.name) for r in self.records if r.name})) or "none"
            there = [f"{r.number} ({r.primitive})" for r in self.records if str(name) in str(r.place)]
            passed = any(r.number in self._kept for r in chosen)
            why = "no cotangent reaches it" if passed else f"the names are: {known}; keep= keeps more"
            if there and isinstance(name, str):
                why = f"it is a line, of the equations {', '.join(there)}: ask for one by its number; keep= keeps them"
            raise KeyError(f"{name!r}: {why}")
        values = [xs[0] for _, xs in found]
        return values[0] if len(values) == 1 else jnp.stack(values)

    def table(self, lines: str | None = None) -> str:
        """The equations as a table: folded by line, or, with `lines` ("model.py:40-60", "model.py"), each by itself."""
        rows = table_rows(self.records, lines)
        if lines is not None and not rows:
            files = dict.fromkeys(Path(r.place.file).name for r in self.records if r.place.file)
            return f"no equation stands at {lines}; they are of {', '.join(files) or 'no file'}"
        return text.table(rows)

    @property
    def rows(self) -> list[Row]:
        """The rows of the folded table, in the order of the forward walk."""
        return rows_of(self.records)

    def __str__(self) -> str:
        return text.summary(self)

    __repr__ = __str__

    def html(self, path: str | Path | None = None) -> str:
        """One page that needs no other file: the verdict, the source with the size of each line's cotangents beside
        it, the depth profile, a map of each loop's steps, the tree of leaves, and the table. Returned, and written to
        `path` if given."""
        written = page(self)
        if path is not None:
            Path(path).write_text(written, encoding="utf-8")
        return written

    def _repr_html_(self) -> str:
        return fragment(self)

    def to_json(self) -> str:
        """All of it as JSON; a number that is not finite is a string."""
        return json.dumps(
            {
                "name": self.name,
                "value": _number(float(np.real(np.asarray(self.value)))),
                "blame": None if self._blame is None else _of_blame(self._blame),
                "findings": [
                    {"concern": f.concern.value, "place": str(f.place), "sentence": f.sentence} for f in self.findings
                ],
                "notes": list(self.notes),
                "tied": self.tied,
                "gradients": {path: _number(rms(g)) for path, g in self.gradients.items()},
                "equations": list(map(_of_record, self.records)),
            },
            indent=1,
        )


def _number(x: float) -> float | str:
    return x if np.isfinite(x) else str(x)


def _of_blame(blame: Blame) -> dict[str, Any]:
    return {
        "kind": blame.kind.value,
        "backward": blame.backward,
        "file": blame.place.file,
        "line": blame.place.line,
        "column": blame.place.column,
        "primitive": blame.primitive,
        "path": list(blame.path),
        "iteration": list(blame.iteration),
        "device": dict(blame.device),
        "element": list(blame.element),
        "reaches": list(blame.reaches),
        "sentence": blame.sentence,
    }


def _of_record(record: Record) -> dict[str, Any]:
    seen = {"values": record.values, "cotangents": record.cotangents, "passed_on": record.passed_on}
    return {
        "number": record.number,
        "primitive": record.primitive,
        "rule": record.rule,
        "name": record.name,
        "file": record.place.file,
        "line": record.place.line,
        "column": record.place.column,
        "scope": record.place.scope,
        "path": list(record.path),
        "saturated": record.saturated,
        "shapes": list(record.shapes),
        **{
            key: [
                {"iteration": list(s.iteration), "of": [None if x is None else x._asdict() for x in s.of]}
                for s in sorted(group, key=lambda s: s.iteration)
            ]
            for key, group in seen.items()
        },
    }
