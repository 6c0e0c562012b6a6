"""Renamed names and parameters work for a while, and warn at the line that uses them."""

import warnings

import pytest

import fnbackprop as fb
from fnbackprop.deprecation import RENAMED, Renamed, renamed_parameters

THEN = Renamed("grad", since="0.2", gone_in="0.3")


def test_an_old_name_is_the_new_one_and_warns_where_it_is_used(monkeypatch):
    monkeypatch.setitem(RENAMED, "gradient", THEN)
    with pytest.warns(
        DeprecationWarning, match=r"fnbackprop.gradient is fnbackprop.grad since .* 0.2; .* in 0.3"
    ) as seen:
        assert fb.gradient is fb.grad
    assert seen[0].filename == __file__


def test_an_old_parameter_is_the_new_one_and_warns_where_it_is_used():
    @renamed_parameters(rate=Renamed("learning_rate", since="0.2", gone_in="0.3"))
    def step(x, *, learning_rate=1.0):
        return x - learning_rate

    with pytest.warns(DeprecationWarning, match=r"step\(rate=\) is learning_rate=") as seen:
        assert step(3.0, rate=0.5) == 2.5
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert step(3.0, learning_rate=0.5) == 2.5
    with pytest.raises(TypeError, match="both 'learning_rate' and 'rate'"):
        step(3.0, rate=0.5, learning_rate=0.5)


def test_what_is_due_is_gone():
    """The release that an old name was promised to be gone in does not have it."""

    def number(version: str) -> tuple[int, ...]:
        return tuple(map(int, version.split(".")))

    assert [old for old, renamed in RENAMED.items() if number(renamed.gone_in) <= number(fb.__version__)] == []
    assert not RENAMED.keys() & set(fb.__all__)
