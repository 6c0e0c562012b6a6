"""The record of one equation, and the graph of moments: which value or cotangent was made of which."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ..jaxprs.custom import function_source
from ..jaxprs.evaluate import source_lines
from .regions import Region
from .statistics import Statistics

INSTALLED = ("site-packages", "dist-packages")
LIBRARY = str(Path(jax.__file__).parent)  # JAX's folder
PACKAGE = Path(__file__).parents[1]
ROOMS = tuple(str(PACKAGE / room) for room in ("backprop", "rules", "jaxprs", "tracing", "comparing"))
TRACE = str(PACKAGE / "tracing" / "pipeline.py")
LINE = re.compile(r"(?P<file>.+?):(?P<line>\d+)(?::(?P<column>\d+))?(?: \((?P<function>.*)\))?")


class Place(NamedTuple):
    """Where an equation was written.

    Attributes:
      file, line, column: 0: not known. function: the line's. scope: its `named_scope`s.
      caller: of a line in an installed library, the user's line that led to it, as `str` of a place.
    """

    file: str = ""
    line: int = 0
    column: int = 0
    function: str = ""
    scope: str = ""
    caller: str = ""

    def __str__(self) -> str:
        """ "file:line:column (function)", the file without its folders."""
        if not self.file:
            return self.function or "(no line of the user's)"
        return f"{Path(self.file).name}:{self.line}:{self.column}" + (f" ({self.function})" if self.function else "")

    @property
    def library(self) -> str:
        """The installed package that the file belongs to; "" for the user's own files."""
        parts = Path(self.file).parts
        after = next((i for i, part in enumerate(parts) if part in INSTALLED), len(parts))
        return Path(parts[after + 1]).stem if after + 1 < len(parts) else ""

    @property
    def text(self) -> str:
        """The line itself, as far as the file can be read."""
        try:
            return Path(self.file).read_text(encoding="utf-8").splitlines()[self.line - 1].strip()
        except (OSError, IndexError, UnicodeDecodeError):
            return ""


def place_of(equation: Any, around: Place, in_library: bool) -> Place:
    """Where an equation stands.

    The equations of a library's function have the line of the call: what is traced once names the line of its first
    call alone. So has what an engine or a rule made."""
    scope = "/".join(filter(None, (around.scope, str(equation.source_info.name_stack))))
    places = [] if in_library else _users_lines(source_lines(equation))
    if not places:
        return around._replace(scope=scope)
    caller = next((str(place) for place in places if not place.library), "") if places[0].library else ""
    return places[0]._replace(scope=scope, caller=caller)


def _users_lines(lines: Sequence[str]) -> list[Place]:
    """The lines that are not this package's own, and that ran within `trace`, if any did; the innermost first."""
    found = [LINE.fullmatch(line) for line in lines]
    outermost = next((i for i, m in enumerate(found) if m is not None and m["file"] == TRACE), len(found))
    inner = [m for m in found[:outermost] if m is not None and not m["file"].startswith(ROOMS)]
    return [Place(m["file"], int(m["line"]), int(m["column"] or 0), m["function"] or "") for m in inner]


class Scope:
    """A body that equations stand in: the program itself, or that of a call, loop or branch.

    Attributes:
      place: of the call. path: the labels of the bodies around, this one's last.
      in_library: whether the function is JAX's own.
    """

    def __init__(self, place: Place, path: tuple[str, ...] = (), in_library: bool = False):
        self.place, self.path, self.in_library = place, path, in_library
        self.children: dict[tuple[int, str], Scope] = {}
        self.records: dict[int, Record] = {}

    def inside(self, equation: Any, label: str) -> "Scope":
        """The body of this equation, the same at each call."""
        key = id(equation), label
        if key not in self.children:
            place = place_of(equation, self.place, self.in_library)
            library = self.in_library or function_source(equation)[1].startswith(LIBRARY)
            self.children[key] = Scope(place, (*self.path, label), library)
        return self.children[key]


Iteration = tuple[int, ...]  # the iterations of the loops around, the outermost first


class Seen(NamedTuple):
    """Statistics of one iteration; None for a value that is not floating, or a cotangent that is zero."""

    iteration: Iteration
    of: tuple[Statistics | None, ...]

    @property
    def size(self) -> float:
        """The largest root mean square; 0 where there is none."""
        return max((s.rms for s in self.of if s is not None), default=0.0)


@dataclass(eq=False)
class Record:
    """All that is kept of one equation.

    Attributes:
      number: its place in the order of the forward walk. place: where the user wrote it.
      path: the labels of the calls, loops and branches that it stands in: ("scan", "cond[1]").
      primitive, rule: their names. shapes: of its outputs, like "f32[8,3]". name: given by `fb.name`, or None.
      region: the `shard_map` that it stands in: its values are stacks of the devices' pieces.
      entered: whether its own body is recorded too.
      made_of: what made each of its operands the first time: the number of a record, the name of an input, or None for
        what neither did. targets: the positions of the operands that get a term, in the order of `passed_on`.
      values: the statistics of its outputs, for each iteration. saturated: of an activation, the share of its elements
        that are saturated (see `saturation.py`), likewise.
      cotangents: those of its outputs' cotangents. passed_on: those of the terms that it gives to its operands.
    """

    number: int
    equation: Any
    place: Place
    path: tuple[str, ...]
    primitive: str
    shapes: tuple[str, ...]
    name: str | None = None
    region: Region | None = None
    rule: str = ""
    entered: bool = False
    made_of: tuple[int | str | None, ...] = ()
    targets: tuple[int, ...] = ()
    values: list[Seen] = field(default_factory=list)
    saturated: list[float] = field(default_factory=list)
    cotangents: list[Seen] = field(default_factory=list)
    passed_on: list[Seen] = field(default_factory=list)


class Moment(NamedTuple):
    """One equation at one iteration, in one direction, and what it was made of.

    Attributes:
      record: None for what is no equation: an input, a sum of cotangents, the rows of a loop put together.
      what: of these, a word for it.
      parents: the numbers of the moments that made its operands, or the cotangents that came in.
      came: "nan", "inf" or "" of what came in; made: of what it made.
      value: of an input that is not finite, itself.
    """

    record: Record | None
    what: str
    iteration: Iteration
    backward: bool
    parents: tuple[int, ...]
    came: str
    made: str
    value: Any = None


@dataclass
class Evidence:
    """The values at one equation and iteration, kept by a second walk.

    operands, outputs: its values. cotangents: of its outputs. found: terms of its operands' cotangents, by operand.
    """

    record: Record
    iteration: Iteration
    step: Any = None
    operands: tuple[Any, ...] = ()
    outputs: tuple[Any, ...] = ()
    cotangents: tuple[Any, ...] = ()
    found: dict[int, Any] = field(default_factory=dict)

    def is_of(self, record: Record, iteration: Iteration) -> bool:
        return record.number == self.record.number and iteration == self.iteration

    @property
    def equation(self) -> Any:
        return self.record.equation if self.step is None else self.step.equation
