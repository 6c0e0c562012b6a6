"""A comparison as text: what is wrong and where, a table of at most 80 columns, and what there is to say below it."""

import io
import math
import textwrap
from typing import Any

from ..results import SEVERITY, Comparison, EquationComparison, Hypothesis, LeafComparison, Verdict

WIDTH = 80
MOST_ROWS = 40
OF_THE_USER = "the rule is not the derivative of its primal"  # how the reason of a wrong custom rule begins
MOST_TOLD = 4  # leaves and equations told of in full
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
    said = f"  {comparison.name}: {counted} ({kinds}), {comparison.sides[0]} against {comparison.sides[1]}"
    headline = Text.assemble(_coloured(comparison.verdict), said)
    parts = [headline, *map(_lines, findings(comparison)), table(comparison)]
    return Group(*parts, _lines([*comparison.problems, *notes(comparison), comparison.tolerance]))


# ---------------------------------------------------------------- what is wrong


def findings(comparison: Comparison) -> list[list[str]]:
    """A paragraph for each wrong leaf, and for each wrong rule; empty if nothing is wrong."""
    wrong = [leaf for leaf in comparison.leaves if leaf.verdict is Verdict.FAIL and math.isfinite(leaf.error)]
    paragraphs = [_of_leaf(leaf, comparison) for leaf in wrong[:MOST_TOLD]]
    if len(wrong) > MOST_TOLD:
        paragraphs.append([f"... and {len(wrong) - MOST_TOLD} more leaves are wrong"])
    for i, equation in enumerate(comparison.equations[:MOST_TOLD]):
        paragraphs.append(_of_equation(equation, comparison, ("first", "then")[i > 0]))
    if len(comparison.equations) > MOST_TOLD:
        paragraphs.append([f"... and {len(comparison.equations) - MOST_TOLD} more rules are wrong"])
    return paragraphs


def _of_leaf(leaf: LeafComparison, comparison: Comparison) -> list[str]:
    times = leaf.error / leaf.noise if leaf.noise > 0 else math.inf
    noise = f" = {times:.1e} x noise" if math.isfinite(times) else ""
    numbers = f"rel {leaf.error:.1e}  ratio {leaf.ratio:.4g}  cos {leaf.cosine:.4f}"
    first = f"FAIL  {leaf.path}  ({_shape(leaf, True)})  {numbers}{noise}"
    reason = _by_sides(leaf.reason, comparison)
    lines = [first, f"  ulps: median {leaf.ulps[0]:.3g}, largest {leaf.ulps[1]:.3g}; {reason}"]
    if leaf.hypothesis is not None:
        lines.append(f"  likely cause: {_cause(leaf.hypothesis, comparison)}")
    return lines


def _of_equation(equation: EquationComparison, comparison: Comparison, which: str) -> list[str]:
    inside = f" in {equation.within}" if equation.within else ""
    users = equation.reason.startswith(OF_THE_USER)
    ours, theirs = ("its rule", "its primal's derivative") if users else comparison.sides
    kind = "wrong" if comparison.audited else "different"
    lines = [f"{which} {kind} equation: {equation.primitive}  {equation.where}{inside}"]
    if math.isfinite(equation.error):
        rule = f"{equation.name}, operand {equation.operand}" if equation.name else f"output {equation.operand}"
        lines.append(
            f"  {rule}: {ours} is {equation.error:.1e} off {theirs}, allowed "
            f"{equation.allowed:.1e}, with the {equation.cotangent} cotangent"
        )
    elif equation.name:
        lines.append(f"  {equation.name}, operand {equation.operand}, with the {equation.cotangent} cotangent")
    lines.append(f"  {equation.reason}")
    if equation.hypothesis is not None:
        lines.append(f"  likely cause: {_cause(equation.hypothesis, comparison)}")
    if equation.numeric:
        lines.append(f"  differences of this equation agree with {equation.numeric}")
    if comparison.audited:
        lines.append(f"  {equation.count} of {comparison.audited} equations are wrong by this rule")
    return lines


def _cause(hypothesis: Hypothesis, comparison: Comparison) -> str:
    said = _by_sides(hypothesis.text, comparison)
    residual = f" (residual {hypothesis.residual:.0e})" if math.isfinite(hypothesis.residual) else ""
    return f"{said}{residual}"


def _by_sides(text: str, comparison: Comparison) -> str:
    """With the names of the two sides."""
    for name, side in zip(("manual", "automatic"), comparison.sides, strict=True):
        text = text.replace(name, side)
    return text


# ---------------------------------------------------------------- the table


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


# ---------------------------------------------------------------- below the table


def notes(comparison: Comparison) -> list[str]:
    """What the table cannot hold: reasons, the rows left out, the other gradient_sources and levels."""
    shown = shown_leaves(comparison)
    both = any(e.reason.startswith(OF_THE_USER) for e in comparison.equations)
    told = [leaf for leaf in (comparison.value, *shown) if leaf.reason and not _told(leaf)]
    lines = ["both backwards use the user's rules: their leaves agree on what is wrong in these"] if both else []
    lines += [f"{leaf.path}: {_by_sides(leaf.reason, comparison)}" for leaf in told]
    hidden = len(comparison.leaves) - len(shown)
    if hidden:
        lines.append(f"... and {hidden} more leaves, none of them worse than these; to_json() has all")
    if comparison.audited and not comparison.equations:
        lines.append(f"rules PASS: {comparison.audited} equations in place, with actual and Gaussian cotangents")
    lines += _numeric(comparison)
    for level, checks in (("contract", comparison.contract), ("environment", comparison.environment)):
        bad = [check for check in checks if check.verdict not in (Verdict.PASS, Verdict.SKIPPED)]
        lines += [f"{level} {check.verdict}: {check.name}: {check.reason}" for check in bad]
        if checks and not bad:
            lines.append(f"{level} PASS: {', '.join(c.name for c in checks if c.verdict is Verdict.PASS)}")
        lines += [f"{level} SKIPPED: {c.name}: {c.reason}" for c in checks if c.verdict is Verdict.SKIPPED]
    return [*lines, *(f"intended: {line}" for line in comparison.intended), *comparison.notes]


def _numeric(comparison: Comparison) -> list[str]:
    numeric = comparison.numeric
    if numeric is None:
        return []
    ours, theirs = comparison.sides
    rate = f"; the Taylor remainder falls as h^{numeric.rate:.2f}" if math.isfinite(numeric.rate) else ""
    lines = [
        f"numeric {numeric.verdict}: in {numeric.directions} directions (seed {comparison.seed}) {ours} is off by "
        f"{numeric.manual:.1e}, {theirs} by {numeric.automatic:.1e}, allowed {numeric.allowed:.1e}{rate}"
    ]
    lines += [numeric.reason] if numeric.reason else []
    bounds = [leaf.bound for leaf in comparison.leaves if math.isfinite(leaf.bound)]
    if bounds and numeric.verdict is Verdict.PASS:
        lines.append(
            f"relative error of {'the leaf' if len(bounds) == 1 else f'each of {len(bounds)} leaves'} <= "
            f"{max(bounds):.1e} (95 %, by one direction of its own)"
        )
    return lines


def _told(leaf: LeafComparison) -> bool:
    """Whether the leaf has a paragraph of its own."""
    return leaf.verdict is Verdict.FAIL and math.isfinite(leaf.error)


def _lines(lines: list[str]) -> Any:
    from rich.text import Text

    return Text("\n".join(map(_wrapped, lines)), no_wrap=True, overflow="ignore")


def _wrapped(line: str) -> str:
    """Broken at spaces alone, so that a file's path stays whole."""
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(
        line, WIDTH, break_long_words=False, break_on_hyphens=False, subsequent_indent=indent, drop_whitespace=True
    )


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
