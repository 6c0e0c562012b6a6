"""The text of a comparison fits a terminal and leaves nothing important out."""

import pytest
from rich.console import Console

from fnbackprop.comparing.comparison import Comparison
from fnbackprop.comparing.results import LeafComparison, NumericComparison, Verdict
from fnbackprop.comparing.show.text import TERMINAL, shown_leaves


def leaf(path, error=1e-7, verdict=Verdict.PASS, **more):
    return LeafComparison(path, (512, 2048), "float32", verdict, "", 1.5, error, 3e-6, 2e-7, 1.0, 1.0, **more)


def comparison(leaves, **more):
    numeric = NumericComparison(Verdict.PASS, "", 4, 1e-4, 1e-4, 1e-3)
    return Comparison("loss", leaf("(value)"), tuple(leaves), numeric, (), "allowed: what rounding explains", 3, **more)


@pytest.mark.parametrize("path", ["w", "blocks/11/attention/output_projection/kernel/w"])
def test_text_fits_eighty_columns(path):
    result = comparison([leaf(path, 2.0, Verdict.FAIL), leaf("b", verdict=Verdict.NOISE_LIMITED)])
    assert max(map(len, str(result).splitlines())) <= 80
    assert path in str(result).replace("\n", "").replace(" ", "") or path[:10] in str(result)
    assert result.table().splitlines()[0].split() == "leaf shape norm error allowed ratio cos".split()


def test_text_has_headline_rows_and_witnesses():
    lines = str(comparison([leaf("w"), leaf("b", 2.0, Verdict.FAIL)])).splitlines()
    assert lines[0] == "FAIL  loss: 2 leaves (float32), manual against automatic"
    assert lines[1] == "FAIL  b  (f32[512,2048])  rel 2.0e+00  ratio 1  cos 1.0000 = 1.0e+07 x noise"
    assert lines[2].startswith("  ulps: median")
    assert [line.split()[:2] for line in lines[3:7]] == [
        ["leaf", "shape"],
        ["PASS", "(value)"],
        ["PASS", "w"],
        ["FAIL", "b"],
    ]
    assert lines[7].startswith("numeric PASS: in 4 directions (seed 3) manual is off by 1.0e-04")
    assert lines[-1] == "allowed: what rounding explains"


def test_a_large_tree_shows_the_worst_in_the_order_of_the_tree():
    leaves = [leaf(f"layer{i}/w", i * 1e-9) for i in range(200)]
    leaves[3] = leaf("layer3/w", 5.0, Verdict.FAIL)
    shown = [found.path for found in shown_leaves(comparison(leaves))]
    assert shown == ["layer3/w", *(f"layer{i}/w" for i in range(200 - TERMINAL.rows + 1, 200))]
    assert f"... and {200 - TERMINAL.rows} more leaves" in str(comparison(leaves))


def test_rich_prints_the_same_text(capsys):
    result = comparison([leaf("w")])
    Console(width=80).print(result)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == str(result).splitlines()
