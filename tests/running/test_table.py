"""The table of the places where a program takes gradients."""

from fnbackprop.blocks.fusing.rewriting import Fusion
from fnbackprop.comparing.results import Verdict
from fnbackprop.running.measuring import Measured, not_compared
from fnbackprop.running.places import Place
from fnbackprop.running.table import WIDTH, text

HAND = Place("/home/somebody/train.py:12", calls=3)
JITTED = Place("/home/somebody/train.py:40", calls=2, traced=2)
FALLBACK = Place("/home/somebody/train.py:99", calls=1, fallback="no rule for the primitive `thing`")


def cells(table, line):
    """The row of the place at this line of the script, as words."""
    return next(row.split() for row in table.splitlines() if f"train.py:{line} " in row)


def test_without_places():
    assert text([], {}, 0) == "no gradient was taken"


def test_who_differentiates_without_a_comparison():
    table = text([HAND, JITTED, FALLBACK], {}, 0)
    assert table.startswith("2 places of 3 by hand-written gradients")
    assert cells(table, 12)[1:] == ["3", "hand"]
    assert cells(table, 40)[1:] == ["2", "jit", "hand"]
    assert cells(table, 99)[1:] == ["1", "jax.grad"]
    assert "by jax.grad: no rule for the primitive `thing`" in " ".join(table.split())


def test_figures_of_a_comparison():
    measured = {HAND.line: Measured(Verdict.PASS, time=0.5, memory=123.4, seconds=0.002)}
    table = text([HAND], measured, 3.0)
    assert cells(table, 12)[1:] == ["3", "PASS", "0.50", "123", "2.00"]
    assert "below 1 is better" in table


def test_what_was_not_compared_has_a_reason_and_no_figures():
    table = text([HAND], {HAND.line: not_compared("its arguments were given away")}, 3.0)
    assert cells(table, 12)[1:] == ["3", "-", "-", "-", "-"]
    assert "not compared: its arguments were given away" in " ".join(table.split())
    assert "below 1 is better" not in table


def test_a_wrong_gradient_shows_its_whole_comparison():
    measured = {HAND.line: Measured(Verdict.FAIL, "a leaf is wrong", details="leaf w: 2 times too large")}
    table = text([HAND], measured, 3.0)
    assert "FAIL" in cells(table, 12)
    lines = table.splitlines()
    assert lines[lines.index("leaf w: 2 times too large") - 1] == f"{HAND.line}:"


def test_what_ran_as_a_block_is_listed_once():
    taken = Fusion("attention", "/home/somebody/train.py:9:4 (attend)", 2**21, True)
    missed = Fusion("attention", "/home/somebody/train.py:30:4 (attend)", 0, False, "its weights are dropped")
    places = [Place("/home/somebody/train.py:12", fusions=[taken]), Place("train.py:40", fusions=[taken, missed])]
    words = " ".join(text(places, {}, 0, fuse=True).split())
    assert words.count("fuse: attention at /home/somebody/train.py:9:4 (attend): saves 2 MiB") == 1
    assert "train.py:30:4 (attend): not taken: its weights are dropped" in words
    assert "fuse: neither attention nor" in text([HAND], {}, 0, fuse=True) and "fuse" not in text([HAND], {}, 0)


def test_a_block_that_runs_at_one_place_and_not_at_another_is_told_with_the_place():
    where = "/home/somebody/net.py:9:4 (attend)"
    taken, missed = Fusion("attention", where, 2**21, True), Fusion("attention", where, 0, False, "a result is used")
    places = [Place("train.py:12", fusions=[taken]), Place("train.py:40", fusions=[missed])]
    words = " ".join(text(places, {}, 0, fuse=True).split())
    assert f"{where}: saves 2 MiB (gradient at train.py:12)" in words
    assert f"{where}: not taken: a result is used (gradient at train.py:40)" in words


def test_it_is_never_wider_than_a_terminal():
    long = Place("/" + "folder/" * 30 + "train.py:12345", calls=1)
    measured = {long.line: Measured(Verdict.NOISE_LIMITED, "word " * 60, 1.0, 1.0, 1.0)}
    for table in (text([long], {}, 0), text([long], measured, 3.0)):
        assert max(map(len, table.splitlines())) <= WIDTH
        assert "train.py:12345" in table
