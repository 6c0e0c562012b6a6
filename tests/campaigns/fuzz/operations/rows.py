"""A row of the table of operations that a random program is made of: a source template with the operands it takes.

`{0}`, `{1}` stand for operands; `{axis}` is an axis of operand 0; other names are drawn from the row's choices. An
operand is named by a kind (see `KINDS` in `generate.py`) or the shape of a float array. A guard keeps the operands off
the kinks and poles of the operation. A row whose result has a shape or dtype that programs do not use is rejected
when it is drawn.
"""

import re
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Operation:
    """One row: the expression, the kinds of its operands, what guards them, and the choices for its names."""

    template: str
    operands: tuple[str, ...]
    guard: str | None = None
    choices: dict[str, tuple[Any, ...]] = field(default_factory=dict)


def rows(operands: str, templates: str, guard: str | None = None, **choices: Any) -> list[Operation]:
    """One operation for each line of `templates`."""
    lines = [line.strip() for line in templates.strip().splitlines()]
    kinds = tuple(re.findall(r"\([^)]*\)|\w+", operands))
    return [Operation(line, kinds, guard, choices) for line in lines]
