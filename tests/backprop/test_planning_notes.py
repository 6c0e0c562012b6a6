"""What is noted while a plan is made is said when it is used: each time, once, by the plan around it too."""

import pytest

from fnbackprop.backprop.planning_notes import cached_plan, note


def test_notes_are_said_at_each_use_and_once():
    said, made = [], []

    @cached_plan
    def inner(x):
        made.append(x)
        note(said.append, x)
        note(said.append, x)
        return 2 * x

    @cached_plan
    def outer(x):
        return inner(x) + inner(x)

    assert [outer(3), outer(3), inner(3)] == [12, 12, 6]
    assert made == [3] and said == [3, 3, 3]


def test_a_plan_that_fails_leaves_no_notes_behind():
    said = []

    @cached_plan
    def fails(x):
        note(said.append, x)
        raise ValueError("no rule")

    with pytest.raises(ValueError, match="no rule"):
        fails(1)
    note(said.append, 2)
    assert said == [2]
