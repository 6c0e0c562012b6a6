"""What a run of the fuzzer found, a line of JSON for some hundred programs, so that the next run goes on after them."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Results:
    """A file of results, of runs with different settings (seed, tier, options); none without a path."""

    def __init__(self, path: Path | None):
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else ()
        self.rows = list(map(json.loads, lines))

    def end(self, settings: Mapping[str, Any]) -> int:
        """The number of the first program that has not been run with these settings."""
        ends = (row["start"] + row["counts"]["programs"] for row in self.rows if row["settings"] == settings)
        return max(ends, default=0)

    def add(self, settings: Mapping[str, Any], start: int, counts: Counter, found: list[str], seconds: float) -> None:
        """Write what became of some programs: how many of each verdict, the mismatches, processor seconds."""
        row = {"settings": settings, "start": start, "counts": dict(counts), "found": found, "seconds": seconds}
        self.rows.append(json.loads(json.dumps(row)))
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def counts(self) -> Counter:
        """Of all rows together."""
        return sum((Counter(row["counts"]) for row in self.rows), Counter())

    def seconds(self) -> float:
        return sum(row["seconds"] for row in self.rows)
