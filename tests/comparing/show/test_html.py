"""The page of a comparison: one file, well formed, nothing of the user's text taken for markup."""

import html.parser
import math

import pytest

from fnbackprop.comparing.comparison import Comparison
from fnbackprop.comparing.results import (
    Agreement,
    Cause,
    Check,
    Cotangent,
    EquationComparison,
    Hypothesis,
    LeafComparison,
    NumericComparison,
    Property,
    Verdict,
)

CAUSE = Hypothesis("a factor 1/2 is missing", Cause.SCALE, 3e-8, 2.0)
EQUATION = EquationComparison(
    "rsqrt", "rsqrt_vjp", "model.py:76:17 (<lambda>)", "scan[12]", 0, Cotangent.GAUSSIAN, Verdict.FAIL, "", 1.0,
    2e-7, 2.0, CAUSE, Agreement.AUTOMATIC, 3,
)  # fmt: skip


def leaf(path, error=1e-7, verdict=Verdict.PASS, **more):
    return LeafComparison(path, (512, 8), "float32", verdict, "", 1.5, error, 3e-6, 2e-7, 1.04, 1.0, **more)


def comparison(leaves, **more):
    numeric = NumericComparison(Verdict.PASS, "", 4, 1e-4, 1e-4, 1e-3, 2.0)
    return Comparison("<lambda>", leaf("(value)"), tuple(leaves), numeric, (), "allowed: a < b", 3, **more)


class Reader(html.parser.HTMLParser):
    """Collects the text, and sees that every tag is closed by its own end."""

    VOID = ("meta", "br")

    def __init__(self, page):
        super().__init__()
        self.open, self.words, self.references = [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.references += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


FULL = comparison(
    [leaf("norm/<g>", 6.4e-2, Verdict.FAIL, ulps=(1e4, 4e5)), leaf("w")],
    equations=(EQUATION,), audited=58, contract=(Check(Property.LINEAR, Verdict.PASS, "", 1e-8, 1e-6),),
    intended=("stop_gradient at model.py:12:3",), notes=("leaf w: unused",),
)  # fmt: skip


@pytest.mark.parametrize("result", [FULL, comparison([]), comparison([leaf("w", math.nan, Verdict.SKIPPED)])])
def test_the_page_is_well_formed_and_needs_nothing_else(result, tmp_path):
    result.html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    reader = Reader(page)
    assert reader.references == [] and "url(" not in page and "@import" not in page
    assert page.startswith("<!doctype html>") and result.verdict in reader.text


SAID = [
    "FAIL", "<lambda>: 2 leaves (float32), manual against automatic", "rsqrt_vjp, operand 0: manual is 1.0e+00 off",
    "first wrong equation: rsqrt  model.py:76:17 (<lambda>) in scan[12]", "a factor 1/2 is missing (residual 3e-08)",
    "norm/<g>", "6.4e-02", "differences of this equation agree with automatic", "1e+04", "4e+05",
    "3 of 58 equations are wrong", "intended: stop_gradient at model.py:12:3", "leaf w: unused",
    "contract PASS: linear in the cotangent", "allowed: a < b", "(seed 3)",
]  # fmt: skip


def test_it_says_what_is_wrong_where_and_why():
    text = Reader(FULL._repr_html_()).text
    for part in SAID:
        assert part in text, part


def test_every_leaf_and_every_wrong_equation_is_on_the_page():
    leaves = [leaf(f"layer{i}/w", 1.0, Verdict.FAIL) for i in range(60)]
    text = Reader(comparison(leaves, equations=(EQUATION,) * 9)._repr_html_()).text
    assert all(text.count(f"layer{i}/w") == 2 for i in (0, 59)) and text.count("wrong equation: rsqrt") == 9
    assert "more" not in text


def test_the_bar_reaches_further_with_a_larger_error():
    def width(error):
        (row,) = (
            line for line in Reader(comparison([leaf("w", error)])._repr_html_()).text.splitlines() if " w " in line
        )
        return row.count("=")

    assert 0 == width(0.0) < width(1e-12) < width(1e-3) < width(1.0) < width(1e9) == 18
