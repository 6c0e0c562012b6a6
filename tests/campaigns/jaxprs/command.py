"""`python -m tests.campaigns jaxprs --against REV`: does fnbackprop emit the same equations as at another revision?

Traces value_and_grad of the benchmarks' programs, of the models and of small programs of every rule, also under vmap
and jit, to second order, with a budget and with checkpoints; nothing is computed. The programs are the working tree's,
and only `fnbackprop` is that of the revision. Differences that are wanted stand in `intended.py`. The recording of a
revision is kept in a temporary folder, so that a second comparison takes half the time.

    python -m tests.campaigns jaxprs --against 375f25a
    python -m tests.campaigns jaxprs --against 375f25a --only "rules/sin#*"   # the programs whose name matches
    python -m tests.campaigns jaxprs --show "rules/sin#0: value_and_grad"     # the canonical text of the working tree's
"""

import argparse
import difflib
import tempfile
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from .intended import INTENDED
from .revisions import Recording, extract, link

MOST_LINES = 12  # of one program's difference


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns jaxprs", description=__doc__.split("\n")[0])
    parser.add_argument("--against", metavar="REV", help="a commit, a branch or a tag")
    parser.add_argument("--only", default="*", help="a pattern of program names")
    parser.add_argument("--lines", type=int, default=MOST_LINES, help="the most lines of one difference that are shown")
    parser.add_argument("--show", metavar="NAME", help="print the jaxpr of a program of the working tree")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        pattern = options.show or options.only
        now = Recording(link(Path(folder, "now")), pattern)
        if options.show or not options.against:
            texts = now.texts()
            print(*texts.values() if options.show else (f"{len(texts)} programs recorded",), sep="\n")
            return 0
        before = Recording(extract(options.against, Path(folder, "before")), pattern)
        return report(before.texts(), now.texts(), INTENDED if options.only == "*" else [], options.lines)


def report(before: Mapping[str, str], now: Mapping[str, str], intended: Sequence[tuple[str, str]], lines: int) -> int:
    """Print what differs; 1 if anything does that is not intended, or an intended difference does not exist."""
    if not now:
        raise SystemExit("no program has a name that matches")
    different = [name for name in now if before.get(name) != now[name]]
    reasons = {name: next((why for pattern, why in intended if fnmatchcase(name, pattern)), "") for name in different}
    for name in different:
        print(f"{'INTENDED' if reasons[name] else 'DIFFERS '}  {name}  {reasons[name]}")
        if not reasons[name]:
            print(difference(before.get(name, ""), now[name], lines))
    stale = [pattern for pattern, _ in intended if not any(fnmatchcase(name, pattern) for name in different)]
    print(*(f"STALE     {pattern}: listed as intended, but nothing differs" for pattern in stale), sep="\n", end="")
    wanted = sum(map(bool, reasons.values()))
    refused = sum(text.startswith("raises") for text in now.values())
    print(
        f"{len(now)} programs, {len(now) - len(different)} equal, {len(different) - wanted} differ, {wanted} intended "
        f"({refused} raise when traced)"
    )
    return int(wanted < len(different) or bool(stale))


def difference(before: str, now: str, lines: int) -> str:
    """The first lines of a unified diff."""
    found = list(difflib.unified_diff(before.splitlines(), now.splitlines(), "before", "now", n=1, lineterm=""))[2:]
    more = [f"... and {len(found) - lines} more lines"] if len(found) > lines else []
    return "\n".join(f"    {line}" for line in [*found[:lines], *more])
