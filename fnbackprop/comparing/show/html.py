"""A comparison as one HTML page that needs nothing else, and as the fragment that a notebook shows."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from ..results import Check, Comparison, EquationComparison, Hypothesis, LeafComparison, NumericComparison, Verdict

DECADES = (-17, 1)  # the range of the error bars, as powers of ten
SCALE = "1e-17 to 10, | allowed"
PASSED = (Verdict.PASS, Verdict.SKIPPED)

STYLE = """
.fnb{--ink:#1b1f24;--soft:#5c6670;--line:#dfe3e8;--back:#fff;--bar:#8fa3b8;--pass:#1a7f37;--fail:#b42318;--warn:#8a5a00;
color:var(--ink);background:var(--back);font:14px/1.45 system-ui,sans-serif;padding:1px 0}
@media(prefers-color-scheme:dark){.fnb{--ink:#e6e9ed;--soft:#9aa5b1;--line:#343b44;--back:#16191d;--bar:#5d7186;
--pass:#57c278;--fail:#ff8a7a;--warn:#e0b050}}
.fnb h1{font-size:21px;margin:.4em 0}.fnb h2{font-size:15px;margin:1.6em 0 .4em}
.fnb p{margin:.35em 0;max-width:60em}.fnb .soft{color:var(--soft)}
.fnb code,.fnb td{font-family:ui-monospace,monospace;font-size:12.5px}
.fnb .scroll{overflow-x:auto}
.fnb table{border-collapse:collapse}
.fnb th{text-align:left;font-weight:500;color:var(--soft);font-size:12.5px}
.fnb td,.fnb th{padding:3px 14px 3px 0;border-bottom:1px solid var(--line);vertical-align:top;white-space:nowrap;
text-align:left;background:none;color:inherit}
.fnb td.number,.fnb th.number{text-align:right}.fnb td.text{white-space:normal;min-width:18em}
.fnb .PASS{color:var(--pass)}.fnb .FAIL,.fnb .NON-FINITE,.fnb .NONDETERMINISTIC{color:var(--fail);font-weight:600}
.fnb .verdict{color:var(--warn)}.fnb .verdict.PASS{color:var(--pass)}
.fnb .verdict.FAIL,.fnb .verdict.NON-FINITE,.fnb .verdict.NONDETERMINISTIC{color:var(--fail)}
.fnb .first{border-left:4px solid var(--fail);padding:.1em 0 .1em 1em;margin:1em 0}
.fnb .bar{position:relative;width:150px;height:9px;margin-top:5px;background:var(--line)}
.fnb .bar i{position:absolute;left:0;top:0;bottom:0;background:var(--bar)}
.fnb .bar.FAIL i{background:var(--fail)}
.fnb .bar b{position:absolute;top:-3px;bottom:-3px;width:2px;background:var(--ink)}
.fnb summary{cursor:pointer;color:var(--soft);margin:.6em 0}
""".replace("\n", "")


def page(comparison: Comparison) -> str:
    """The whole document."""
    title = escape(f"{comparison.verdict} {comparison.name}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width"><style>body{margin:0}'
        "body .fnb{box-sizing:border-box;min-height:100vh;padding:8px 28px 28px}</style></head>"
        f"<body>{fragment(comparison)}</body></html>\n"
    )


def fragment(comparison: Comparison) -> str:
    """All that there is to say, with its own style."""
    sections = (
        _headline(comparison),
        _first_difference(comparison),
        "".join(_paragraph(problem, "FAIL") for problem in comparison.problems),
        _section("Wrong equations, in the order of the backward pass", _equations(comparison)),
        _section("Leaves", _leaves(comparison)),
        _section("Differences of the function", _numeric(comparison)),
        _section("Contract", _checks(comparison.contract)),
        _section("Environment", _checks(comparison.environment)),
        _section("Stopped or replaced on purpose", _list(comparison.intended)),
        _section("Notes", _list(comparison.notes)),
        _paragraph(f"{comparison.tolerance}. Seed {comparison.seed}.", "soft"),
    )
    return f'<div class="fnb"><style>{STYLE}</style>{"".join(sections)}</div>'


def _headline(comparison: Comparison) -> str:
    count, kinds = len(comparison.leaves), dict.fromkeys(leaf.dtype for leaf in comparison.leaves)
    leaves = f"{count} {'leaf' if count == 1 else 'leaves'} ({', '.join(kinds) or 'none'})"
    audited = f", {comparison.audited} equations audited in place" if comparison.audited else ""
    said = f"{leaves}, {' against '.join(comparison.sides)}{audited}"
    return f"<h1>{_verdict(comparison.verdict)} {escape(comparison.name)}</h1>{_paragraph(said, 'soft')}"


def _first_difference(comparison: Comparison) -> str:
    """The one thing to read: where the two part, and why."""
    first = comparison.first_difference
    if first is None:
        return ""
    if isinstance(first, EquationComparison):
        where = f"{first.where}{f', within {first.within}' if first.within else ''}"
        what = f"The first wrong equation is <code>{escape(first.primitive)}</code>, at <code>{escape(where)}</code>"
        what += f": the rule <code>{escape(first.name)}</code>, operand {first.operand}."
        numeric = f"Differences of this equation agree with {first.numeric}." if first.numeric else ""
    else:
        what, numeric = f"The first wrong leaf is <code>{escape(first.path)}</code>.", ""
    likely = f"Likely cause: {_hypothesis(first.hypothesis)}." if first.hypothesis else ""
    lines = (what, escape(likely), escape(numeric), escape(first.reason))
    return f'<div class="first">{"".join(f"<p>{line}</p>" for line in lines if line)}</div>'


# ---------------------------------------------------------------- the tables


def _equations(comparison: Comparison) -> str:
    rows = [
        [
            _verdict(e.verdict), _code(e.primitive), _code(e.name), _code(e.where), _code(e.within or "-"),
            _number(e.error), _number(e.allowed), _number(e.ratio, ".4g"), escape(e.cotangent), str(e.count),
            _remark(e.reason, e.hypothesis),
        ]
        for e in comparison.equations
    ]  # fmt: skip
    head = ("", "primitive", "rule", "where", "within", "error", "allowed", "ratio", "cotangent", "alike", "")
    return _table(head, rows, numbers=(5, 6, 7, 9))


def _leaves(comparison: Comparison) -> str:
    """Those that did not pass, the value if it did not, and behind a fold the rest."""
    leaves = [comparison.value, *comparison.leaves]
    open_, folded = ([leaf for leaf in leaves if (leaf.verdict in PASSED) == passed] for passed in (False, True))
    head = ("", "leaf", "type", "norm", "error", SCALE, "allowed", "noise", "ratio", "cosine", "ulps", "≤ at 95 %", "")
    tables = [_table(head, [_leaf(leaf) for leaf in group], (3, 4, 6, 7, 8, 9, 10, 11)) for group in (open_, folded)]
    if not open_ or not folded:
        return "".join(tables)
    return f"{tables[0]}<details><summary>{len(folded)} that passed</summary>{tables[1]}</details>"


def _leaf(leaf: LeafComparison) -> list[str]:
    ulps = "-" if math.isnan(leaf.ulps[1]) else f"{leaf.ulps[0]:.3g}, {leaf.ulps[1]:.3g}"
    shape = f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
    numbers = [_number(leaf.norm), _number(leaf.error), _bar(leaf), _number(leaf.allowed), _number(leaf.noise)]
    numbers += [_number(leaf.ratio, ".4g"), _number(leaf.cosine, ".4f"), ulps, _number(leaf.bound)]
    return [_verdict(leaf.verdict), _code(leaf.path), _code(shape), *numbers, _remark(leaf.reason, leaf.hypothesis)]


def _bar(leaf: LeafComparison) -> str:
    """The error, and a mark at what is allowed, on a logarithmic scale."""
    low, high = DECADES

    def place(x: float) -> float:
        return 0.0 if not x > 0 else 100 * min(max((math.log10(min(x, 1e300)) - low) / (high - low), 0.0), 1.0)

    if math.isnan(leaf.error):
        return ""
    mark = f'<b style="left:{place(leaf.allowed):.1f}%"></b>' if leaf.allowed > 0 else ""
    return f'<div class="bar {leaf.verdict}"><i style="width:{place(leaf.error):.1f}%"></i>{mark}</div>'


def _numeric(comparison: Comparison) -> str:
    numeric: NumericComparison | None = comparison.numeric
    if numeric is None:
        return ""
    row = [_verdict(numeric.verdict), str(numeric.directions), _number(numeric.manual), _number(numeric.automatic)]
    row += [_number(numeric.allowed), _number(numeric.rate, ".2f"), escape(numeric.reason)]
    sides = [f"{side} off by" for side in comparison.sides]
    return _table(("", "directions", *sides, "allowed", "Taylor rate", ""), [row], numbers=(1, 2, 3, 4, 5))


def _checks(checks: Sequence[Check]) -> str:
    rows = [
        [_verdict(c.verdict), escape(c.name), _number(c.error), _number(c.allowed), escape(c.reason)] for c in checks
    ]
    return _table(("", "property", "error", "allowed", ""), rows, numbers=(2, 3))


# ---------------------------------------------------------------- pieces


def _section(title: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2>{body}" if body else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Iterable[int]) -> str:
    """Cells are HTML already; the last column wraps, and one with nothing in it is left out. Empty without rows."""
    numbers, last = set(numbers), len(head) - 1
    kinds = ["number" if i in numbers else "text" if i == last else "" for i in range(len(head))]
    shown = [i for i in range(len(head)) if any(row[i] not in ("", "-") for row in rows)]
    if not shown:
        return ""
    top = "".join(f'<th class="{kinds[i]}">{escape(head[i])}</th>' for i in shown)
    cells = ("".join(f'<td class="{kinds[i]}">{row[i]}</td>' for i in shown) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _list(lines: Sequence[str]) -> str:
    return "".join(_paragraph(line) for line in lines)


def _paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>'


def _verdict(verdict: Verdict) -> str:
    return f'<span class="verdict {verdict}">{verdict}</span>'


def _code(text: str) -> str:
    return text if text == "-" else f"<code>{escape(text)}</code>"


def _remark(reason: str, hypothesis: Hypothesis | None) -> str:
    likely = f"likely: {_hypothesis(hypothesis)}" if hypothesis else ""
    return escape("; ".join(filter(None, (reason, likely))))


def _hypothesis(hypothesis: Hypothesis) -> str:
    return f"{hypothesis.text} (residual {hypothesis.residual:.1e})"


def _number(value: Any, style: str = ".1e") -> str:
    return "-" if value != value else format(value, style)
