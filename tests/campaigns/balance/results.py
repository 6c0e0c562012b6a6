"""What a campaign has measured: a line of JSON for each measurement as it ends, and a table of all of them."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from fnbackprop.columns import aligned


class Finding(NamedTuple):
    """What was expected and found, and whether it is good. unsafe: a run that diverges was called balanced."""

    expected: str
    found: str
    good: bool
    unsafe: bool = False


class Measurement(NamedTuple):
    """One number of a part of the campaign, and how it is measured."""

    part: str
    name: str
    run: Callable[[], Finding]


class Row(NamedTuple):
    """A measurement that was made; processor seconds of all cores."""

    part: str
    name: str
    finding: Finding
    seconds: float

    def __str__(self) -> str:
        mark = "good" if self.finding.good else "BAD "
        return f"{mark}  {self.part}: {self.name}: {self.finding.found}, expected {self.finding.expected}"


def measured(measurements: Sequence[Measurement], file: Path | None) -> list[Row]:
    """Make the measurements that the file has not, and write each to it as it ends."""
    known = {} if file is None or not file.exists() else _read(file)
    rows = []
    for one in measurements:
        row = known.get((one.part, one.name))
        if row is None:
            began = time.process_time()
            finding = one.run()
            finding = finding._replace(good=bool(finding.good), unsafe=bool(finding.unsafe))  # JSON knows no NumPy
            row = Row(one.part, one.name, finding, time.process_time() - began)
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("a", encoding="utf-8") as end:
                    end.write(json.dumps(row._asdict() | {"finding": row.finding._asdict()}) + "\n")
            print(row, flush=True)
        rows.append(row)
    return rows


def _read(file: Path) -> dict[tuple[str, str], Row]:
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    rows = (Row(**line | {"finding": Finding(**line["finding"])}) for line in lines)
    return {(row.part, row.name): row for row in rows}


def table(rows: Sequence[Row]) -> str:
    """All rows in columns."""
    head = ("", "part", "measurement", "expected", "found", "processor s")
    cells = [
        ("" if row.finding.good else "BAD", row.part, row.name, row.finding.expected, row.finding.found)
        + (f"{row.seconds:.1f}",)
        for row in rows
    ]
    return "\n".join(aligned([head, *cells], right={5}))
