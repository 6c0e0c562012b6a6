"""A comparison as text: a headline, a table of at most 80 columns, and what there is to say below it."""

import io
import textwrap
from typing import Any

from .verdict import SEVERITY, Comparison, LeafComparison, Verdict

WIDTH = 80
MOST_ROWS = 40
COLOURS = {Verdict.PASS: "green", Verdict.FAIL: "bold red", Verdict.NON_FINITE: "bold red"}


def text(comparison: Comparison) -> str:
    """The whole comparison as plain text."""
    return _plain(renderable(comparison))


def table_text(comparison: Comparison) -> str:
    """The table alone, as plain text."""
    return _plain(table(comparison))


def renderable(comparison: Comparison) -> Any:
    """The whole comparison for rich."""
    from rich.console import Group
    from rich.text import Text

    counted = f"{len(comparison.leaves)} {'leaf' if len(comparison.leaves) == 1 else 'leaves'}"
    kinds = ", ".join(dict.fromkeys(leaf.dtype for leaf in comparison.leaves)) or "none"
    said = f"  {comparison.name}: {counted} ({kinds}), manual against automatic"
    headline = Text.assemble(_coloured(comparison.verdict), said)
    lines = [*comparison.problems, *notes(comparison), comparison.tolerance]
    return Group(headline, table(comparison), Text("\n".join(map(_wrapped, lines)), no_wrap=True, overflow="ignore"))


def table(comparison: Comparison) -> Any:
    """A row for the function's value and one for each leaf; in a large tree, for those that matter most."""
    from rich.table import Table

    grid = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_column("", no_wrap=True)
    grid.add_column("leaf", overflow="fold")
    for name in ("shape", "norm", "error", "allowed", "ratio", "cos"):
        grid.add_column(name, justify="left" if name == "shape" else "right", overflow="fold")
    mixed = len({leaf.dtype for leaf in comparison.leaves}) > 1
    for leaf in (comparison.value, *shown_leaves(comparison)):
        grid.add_row(_coloured(leaf.verdict), leaf.path, _shape(leaf, mixed), *_numbers(leaf))
    return grid


def shown_leaves(comparison: Comparison) -> list[LeafComparison]:
    """All leaves, or those of the worst verdicts and the largest errors, in the order of the tree."""
    ranked = sorted(comparison.leaves, key=lambda leaf: (SEVERITY.index(leaf.verdict), -_share(leaf)))
    kept = {id(leaf) for leaf in ranked[:MOST_ROWS]}
    return [leaf for leaf in comparison.leaves if id(leaf) in kept]


def notes(comparison: Comparison) -> list[str]:
    """What the table cannot hold: reasons, the rows left out, the numeric witness."""
    shown = shown_leaves(comparison)
    lines = [f"{leaf.path}: {leaf.reason}" for leaf in (comparison.value, *shown) if leaf.reason]
    hidden = len(comparison.leaves) - len(shown)
    if hidden:
        lines.append(f"... and {hidden} more leaves, none of them worse than these; to_json() has all")
    numeric = comparison.numeric
    if numeric is not None:
        lines.append(
            f"numeric {numeric.verdict}: in {numeric.directions} directions (seed {comparison.seed}) manual is off by "
            f"{numeric.manual:.1e}, automatic by {numeric.automatic:.1e}, allowed {numeric.allowed:.1e}"
        )
        lines += [numeric.reason] if numeric.reason else []
    return lines


def _wrapped(line: str) -> str:
    """Broken at spaces alone, so that a file's path stays whole."""
    return textwrap.fill(line, WIDTH, break_long_words=False, break_on_hyphens=False)


def _share(leaf: LeafComparison) -> float:
    """How much of what is allowed a leaf uses up."""
    return leaf.error / leaf.allowed if leaf.allowed > 0 else 0.0


def _shape(leaf: LeafComparison, with_dtype: bool) -> str:
    short = leaf.dtype.replace("bfloat", "bf").replace("float", "f").replace("complex", "c") if with_dtype else ""
    return f"{short}[{','.join(map(str, leaf.shape))}]"


def _numbers(leaf: LeafComparison) -> list[str]:
    formats = (
        (leaf.norm, ".1e"),
        (leaf.error, ".1e"),
        (leaf.allowed, ".1e"),
        (leaf.ratio, ".4g"),
        (leaf.cosine, ".3f"),
    )
    return ["-" if value != value else format(value, style) for value, style in formats]


def _coloured(verdict: Verdict) -> Any:
    from rich.text import Text

    return Text(str(verdict), style=COLOURS.get(verdict, "yellow"))


def _plain(what: Any) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    console.print(what)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())
