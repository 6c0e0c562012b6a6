"""`python -m tests.campaigns balance`: does `fb.balance` say what is known, and what full runs show?

    python -m tests.campaigns balance                             # all of it: about 40 minutes on 2 cores
    python -m tests.campaigns balance quadratics noise units      # answers that are known: a minute
    python -m tests.campaigns balance edge                        # where training comes to rest: 4 minutes
    python -m tests.campaigns balance verdicts --only "mlp adam"  # against labels from full runs
    python -m tests.campaigns balance cost                        # of the experiments of this repository

Each number is printed, and written to --results, as it is measured; what stands in that file is not measured again.
At the end stands a table. The exit status is 1 if a number is out of its bounds, a run that diverges was called
balanced, or more than one verdict in fifteen is wrong.
"""

import argparse
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from . import cost, edge, known_answers, labelled
from .results import Measurement, Row, measured, table

PARTS = ("quadratics", "edge", "noise", "units", "verdicts", "cost")
WRONG_AT_MOST = 1 / 15  # of the verdicts


def all_measurements() -> list[Measurement]:
    found = chain.from_iterable(module.measurements() for module in (known_answers, edge, labelled, cost))
    return sorted(found, key=lambda one: PARTS.index(one.part))


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        "python -m tests.campaigns balance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--only", default="", help="words in a measurement's name")
    parser.add_argument("--results", type=Path, help="where each is written as it ends, and read from")
    options = parser.parse_args(argv)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(unknown)}; they are {', '.join(PARTS)}")
    chosen = [one for one in all_measurements() if one.part in (options.parts or PARTS) and options.only in one.name]
    rows = measured(chosen, options.results)
    print("", table(rows), "", *summary(rows), sep="\n")
    return 0 if is_good(rows) else 1


def is_good(rows: Sequence[Row]) -> bool:
    """Whether all numbers are within their bounds; of verdicts, a few may be wrong, and none unsafe."""
    verdicts = [row.finding for row in rows if row.part == "verdicts"]
    wrong = sum(not finding.good for finding in verdicts)
    others = all(row.finding.good for row in rows if row.part != "verdicts")
    return others and wrong <= WRONG_AT_MOST * len(verdicts) and not any(finding.unsafe for finding in verdicts)


def summary(rows: Sequence[Row]) -> list[str]:
    """A line for each part."""
    lines = []
    for part in PARTS:
        findings = [row.finding for row in rows if row.part == part]
        if findings:
            good, unsafe = sum(finding.good for finding in findings), sum(finding.unsafe for finding in findings)
            called = f"; {unsafe} that diverge were called balanced" if part == "verdicts" else ""
            lines.append(f"{part}: {good} of {len(findings)} are good{called}")
    return lines
