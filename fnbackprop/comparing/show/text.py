"""Results as text: what is wrong and where, a table of the leaves, and below it what the table cannot hold."""

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ..results import (
    MANUAL_AND_AUTOMATIC,
    RULE_AND_PRIMAL,
    SEVERITY,
    Agreement,
    Check,
    EquationComparison,
    EquationKind,
    Hypothesis,
    LeafComparison,
    Results,
    Sides,
    Verdict,
)

DECADES = range(-17, 2)  # of the bars of errors, one character each
BAR = "1e-17 to 10, | allowed"
COLOURS = {Verdict.PASS: "green", Verdict.FAIL: "bold red", Verdict.NON_FINITE: "bold red"}


class Extent(NamedTuple):
    """How much is shown.

    Attributes:
      width: in characters.
      rows: of the table, at most. findings: wrong leaves and wrong equations described in full, at most.
      columns: the titles of the columns of numbers, of those in `_numbers`.
    """

    width: int
    rows: int
    findings: int
    columns: tuple[str, ...]


TERMINAL = Extent(80, 40, 4, ("norm", "error", "allowed", "ratio", "cos"))


def full_text(results: Results) -> str:
    """All of it as plain text."""
    return _plain(renderable(results))


def table_text(results: Results) -> str:
    """The table alone, as plain text."""
    return _plain(table(results))


def renderable(results: Results, extent: Extent = TERMINAL) -> Group:
    """All of it, for rich."""
    counted = f"{len(results.leaves)} {'leaf' if len(results.leaves) == 1 else 'leaves'}"
    kinds = ", ".join(dict.fromkeys(leaf.dtype for leaf in results.leaves)) or "none"
    manual, automatic = results.sides
    said = f"  {results.name}: {counted} ({kinds}), {manual} against {automatic or 'differences alone'}"
    headline = Text.assemble(_coloured(results.verdict), said)
    below = [*results.problems, *notes(results, extent), results.tolerance]
    paragraphs = (_lines(lines, extent.width) for lines in findings(results, extent.findings))
    return Group(headline, *paragraphs, table(results, extent), _lines(below, extent.width))


# ---------------------------------------------------------------- what is wrong


def findings(results: Results, most: int = TERMINAL.findings) -> list[list[str]]:
    """A paragraph for each wrong leaf, and for each wrong rule; empty if nothing is wrong."""
    wrong = [leaf for leaf in results.leaves if _has_paragraph(leaf)]
    paragraphs = [_of_leaf(leaf) for leaf in wrong[:most]]
    if len(wrong) > most:
        paragraphs.append([f"... and {len(wrong) - most} more leaves are wrong"])
    for i, equation in enumerate(results.equations[:most]):
        paragraphs.append(_of_equation(equation, results, "then" if i else "first"))
    if len(results.equations) > most:
        paragraphs.append([f"... and {len(results.equations) - most} more rules are wrong"])
    return paragraphs


def _has_paragraph(leaf: LeafComparison) -> bool:
    return leaf.verdict is Verdict.FAIL and leaf.error > leaf.allowed


def _of_leaf(leaf: LeafComparison) -> list[str]:
    times = leaf.error / leaf.noise if leaf.noise > 0 else math.inf
    noise = f" = {times:.1e} x noise" if math.isfinite(times) else ""
    numbers = f"rel {leaf.error:.1e}  ratio {leaf.ratio:.4g}  cos {leaf.cosine:.4f}"
    return [
        f"FAIL  {leaf.path}  ({_shape(leaf, True)})  {numbers}{noise}",
        f"  ulps: median {leaf.ulps[0]:.3g}, largest {leaf.ulps[1]:.3g}; {leaf.reason}",
        *_cause(leaf.hypothesis),
    ]


def _of_equation(equation: EquationComparison, results: Results, which: str) -> list[str]:
    inside = f" in {equation.within}" if equation.within else ""
    two = equation.kind is EquationKind.TWO_FUNCTIONS
    lines = [f"{which} {'different' if two else 'wrong'} equation: {equation.primitive}  {equation.where}{inside}"]
    ours, theirs = _sides_of(equation, results)
    name = f"{equation.name} at {equation.rule_at}" if equation.rule_at else equation.name
    if math.isfinite(equation.error):
        rule = f"{name}, operand {equation.operand}" if name else f"output {equation.operand}"
        lines.append(
            f"  {rule}: {ours} is {equation.error:.1e} off {theirs}, allowed "
            f"{equation.allowed:.1e}, with the {equation.cotangent} cotangent"
        )
    elif equation.name:
        lines.append(f"  {name}, operand {equation.operand}, with the {equation.cotangent} cotangent")
    lines += [f"  {equation.reason}", *_cause(equation.hypothesis)]
    if equation.numeric:
        named = {Agreement.MANUAL: ours, Agreement.AUTOMATIC: theirs}
        lines.append(f"  differences of this equation agree with {named.get(equation.numeric, equation.numeric)}")
    if not two and results.audited:
        lines.append(f"  {equation.count} of {results.audited} equations are wrong by this rule")
    return lines


def _sides_of(equation: EquationComparison, results: Results) -> Sides:
    """What the two cotangents of an equation are called."""
    if equation.kind is EquationKind.CUSTOM_RULE:
        return RULE_AND_PRIMAL
    return results.sides if equation.kind is EquationKind.TWO_FUNCTIONS else MANUAL_AND_AUTOMATIC


def _cause(hypothesis: Hypothesis | None) -> list[str]:
    if hypothesis is None:
        return []
    residual = f" (residual {hypothesis.residual:.0e})" if math.isfinite(hypothesis.residual) else ""
    return [f"  likely cause: {hypothesis.text}{residual}"]


# ---------------------------------------------------------------- the table


def table(results: Results, extent: Extent = TERMINAL) -> Table:
    """A row for the function's value and one for each leaf; in a large tree, for those that matter most."""
    grid = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_column("", no_wrap=True)
    grid.add_column("leaf", overflow="fold")
    grid.add_column("shape", overflow="fold")
    for name in extent.columns:
        grid.add_column(name, justify="right", overflow="fold")
    mixed = len({leaf.dtype for leaf in results.leaves}) > 1
    for leaf in (results.value, *shown_leaves(results, extent.rows)):
        numbers = _numbers(leaf)
        grid.add_row(
            _coloured(leaf.verdict), Text(leaf.path), Text(_shape(leaf, mixed)), *map(numbers.get, extent.columns)
        )
    return grid


def shown_leaves(results: Results, most: int = TERMINAL.rows) -> list[LeafComparison]:
    """All leaves, or those of the worst verdicts and the largest errors, in the order of the tree."""
    ranked = sorted(results.leaves, key=lambda leaf: (SEVERITY.index(leaf.verdict), -_share(leaf)))
    kept = {id(leaf) for leaf in ranked[:most]}
    return [leaf for leaf in results.leaves if id(leaf) in kept]


def _share(leaf: LeafComparison) -> float:
    """The error as a fraction of what is allowed."""
    return leaf.error / leaf.allowed if leaf.allowed > 0 else 0.0


def _shape(leaf: LeafComparison, with_dtype: bool) -> str:
    short = leaf.dtype.replace("bfloat", "bf").replace("float", "f").replace("complex", "c") if with_dtype else ""
    return f"{short}[{','.join(map(str, leaf.shape))}]"


def _numbers(leaf: LeafComparison) -> dict[str, str]:
    """Every number of a leaf in words, by the title of its column."""
    numbers = {
        "norm": (leaf.norm, ".1e"),
        "error": (leaf.error, ".1e"),
        "allowed": (leaf.allowed, ".1e"),
        "noise": (leaf.noise, ".1e"),
        "ratio": (leaf.ratio, ".4g"),
        "cos": (leaf.cosine, ".3f"),
        "median ulps": (leaf.ulps[0], ".3g"),
        "largest ulps": (leaf.ulps[1], ".3g"),
        "<= at 95 %": (leaf.bound, ".1e"),
    }
    words = {title: "-" if math.isnan(value) else format(value, style) for title, (value, style) in numbers.items()}
    return words | {BAR: _bar(leaf.error, leaf.allowed)}


def _bar(error: float, allowed: float) -> str:
    """The error as a bar on a logarithmic scale, with a mark at what is allowed."""
    if math.isnan(error):
        return ""

    def reach(value: float) -> int:
        return sum(value >= 10.0**decade for decade in DECADES)

    bar = ["=" if i < reach(error) else "." for i in range(len(DECADES) + 1)]
    if allowed > 0:
        bar[reach(allowed)] = "|"
    return "".join(bar)


# ---------------------------------------------------------------- below the table


def notes(results: Results, extent: Extent = TERMINAL) -> list[str]:
    """What the table cannot hold: reasons, the rows left out, differences of the function, further properties."""
    shown = shown_leaves(results, extent.rows)
    lines = []
    if any(equation.kind is EquationKind.CUSTOM_RULE for equation in results.equations):
        lines.append("both backwards use the user's rules: they agree on what is wrong in these")
    told = [leaf for leaf in (results.value, *shown) if leaf.reason and not _has_paragraph(leaf)]
    lines += [f"{leaf.path}: {leaf.reason}" for leaf in told]
    hidden = len(results.leaves) - len(shown)
    if hidden:
        lines.append(f"... and {hidden} more leaves, none of them worse than these; to_json() has all")
    if results.audited and all(equation.kind is EquationKind.TWO_FUNCTIONS for equation in results.equations):
        lines.append(f"rules PASS: {results.audited} equations in place, with actual and Gaussian cotangents")
    lines += [*_numeric(results), *_level("contract", results.contract), *_level("environment", results.environment)]
    return [*lines, *(f"intended: {line}" for line in results.intended), *results.notes]


def _numeric(results: Results) -> list[str]:
    numeric = results.numeric
    if numeric is None:
        return []
    if numeric.verdict is Verdict.SKIPPED:
        return [f"numeric SKIPPED: {numeric.reason}"]
    ours, theirs = results.sides
    theirs = f", {theirs} by {numeric.automatic:.1e}" if theirs else ""
    rate = f"; the Taylor remainder falls as h^{numeric.rate:.2f}" if math.isfinite(numeric.rate) else ""
    lines = [
        f"numeric {numeric.verdict}: in {numeric.directions} directions (seed {results.seed}) {ours} is off by "
        f"{numeric.manual:.1e}{theirs}, allowed {numeric.allowed:.1e}{rate}"
    ]
    lines += [numeric.reason] if numeric.reason else []
    bounds = [leaf.bound for leaf in results.leaves if math.isfinite(leaf.bound)]
    if bounds and numeric.verdict is Verdict.PASS:
        lines.append(
            f"relative error of {'the leaf' if len(bounds) == 1 else f'each of {len(bounds)} leaves'} <= "
            f"{max(bounds):.1e} (95 %, by one direction of its own)"
        )
    return lines


def _level(name: str, checks: Sequence[Check]) -> list[str]:
    """The properties of one level: the broken ones each by itself, else those that hold in one line."""
    broken = [check for check in checks if check.verdict not in (Verdict.PASS, Verdict.SKIPPED)]
    lines = [f"{name} {check.verdict}: {check.name}: {check.reason}" for check in broken]
    if checks and not broken:
        lines.append(f"{name} PASS: {', '.join(c.name for c in checks if c.verdict is Verdict.PASS)}")
    return lines + [f"{name} SKIPPED: {c.name}: {c.reason}" for c in checks if c.verdict is Verdict.SKIPPED]


def _lines(lines: list[str], width: int) -> Text:
    return Text("\n".join(_wrapped(line, width) for line in lines), no_wrap=True, overflow="ignore")


def _wrapped(line: str, width: int) -> str:
    """Broken at spaces alone, so that a file's path stays whole."""
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False, subsequent_indent=indent)


def _coloured(verdict: Verdict) -> Text:
    return Text(str(verdict), style=COLOURS.get(verdict, "yellow"))


def _plain(what: Any) -> str:
    console = Console(file=io.StringIO(), width=TERMINAL.width, color_system=None)
    console.print(what)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())
