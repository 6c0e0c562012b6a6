"""`aligned`: rows in columns."""

import pytest

from fnbackprop.columns import aligned


def test_words_stand_left_and_numbers_right_without_trailing_spaces():
    assert aligned([("name", "count", "by"), ("tanh", "12", "")], right={1}) == ["name  count  by", "tanh     12"]


def test_no_rows_are_no_lines():
    assert aligned([]) == []


def test_rows_of_unequal_length_are_refused():
    with pytest.raises(ValueError):
        aligned([("a", "b"), ("c",)])
