"""Signatures of rules: what a rule reads, by the names of its parameters."""

import pytest

from fnbackprop.backprop.signatures import Argument, parse, positions


def test_positions():
    assert positions("x, y") == {"x": 0, "y": 1} and positions("x, *rest") == {"x": 0, "rest": slice(1, None)}


@pytest.mark.parametrize("side", ["*x, y", "*x, *y"])
def test_a_starred_name_comes_last_and_once(side):
    with pytest.raises(TypeError, match="comes last and once"):
        positions(side)


def test_what_a_rule_reads():
    def rule(dz, y, x_aval, *, axis, **params): ...

    parsed = parse(rule, "x, y -> z", "x", None)
    assert parsed.reads == {
        "dz": Argument("cotangent", where=0),
        "y": Argument("value", "invars", 1),
        "x_aval": Argument("aval", "invars", 0),
    }
    assert (parsed.target, parsed.params, parsed.takes_all_params) == (0, ("axis",), True)
    assert parsed.saved == (Argument("value", "invars", 1),)


def test_unknown_names_are_refused():
    with pytest.raises(TypeError, match=r"_reads_w has a parameter 'w' .* It may read active, "):
        parse(_reads_w, "x -> z", None, None)
    with pytest.raises(TypeError, match="for wrt='w', no operand"):
        parse(_reads_nothing, "x -> z", "w", None)


def _reads_w(dz, w): ...


def _reads_nothing(dz): ...
