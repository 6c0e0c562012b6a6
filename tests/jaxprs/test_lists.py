"""Splitting, partitioning and merging flat lists."""

import pytest

from fnbackprop.jaxprs.lists import merge, partition, present, select, split


def test_split():
    assert split("abcde", 2, 0, 1) == [["a", "b"], [], ["c"], ["d", "e"]]
    assert split("ab", 2) == [["a", "b"], []]


def test_partition_and_merge_are_inverse():
    flags = [True, False, False, True]
    chosen, others = partition("abcd", flags)
    assert (chosen, others) == (["a", "d"], ["b", "c"])
    assert merge(flags, chosen, others) == list("abcd")


def test_merge_without_others_fills_with_none():
    assert merge([False, True, False], ["x"]) == [None, "x", None]
    assert merge([True, True], [None, 1]) == [None, 1]


@pytest.mark.parametrize(
    ("flags", "chosen", "others"),
    [([True, True], "a", None), ([True], "ab", None), ([True, False], "a", ""), ([True], "a", "b")],
)
def test_merge_refuses_other_counts(flags, chosen, others):
    with pytest.raises(ValueError, match="merge: (fewer|more) values"):
        merge(flags, chosen, others)


def test_select_and_present():
    assert select("abc", (1, 0, 1)) == ["a", "c"]
    assert present([None, 0, "a", None]) == [0, "a"]
    with pytest.raises(ValueError, match="zip"):
        select("abc", (True, False))
