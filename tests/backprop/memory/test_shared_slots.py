"""Slots that the branches of a cond share: few, each value found again, every branch of the same types."""

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.backprop.memory.shared_slots import SharedSlots


def slot(value, lead=()):
    return jax.typeof(value), lead


VECTOR, MATRIX = jnp.arange(3.0), jnp.ones((2, 2))


def test_there_are_as_many_slots_as_the_branch_that_needs_most():
    shared = SharedSlots.of([[slot(VECTOR)] * 2, [], [slot(MATRIX), slot(VECTOR)]])
    assert shared.slots == (slot(VECTOR), slot(VECTOR), slot(MATRIX))
    assert shared.places == ((0, 1), (), (2, 0))


def test_each_branch_finds_its_own_values_again():
    shared = SharedSlots.of([[slot(VECTOR), slot(VECTOR)], [slot(MATRIX), slot(VECTOR)]])
    for branch, values in enumerate([[VECTOR, 2 * VECTOR], [MATRIX, 3 * VECTOR]]):
        found = shared.own(branch, shared.fill(branch, values))
        for value, again in zip(values, found, strict=True):
            np.testing.assert_array_equal(value, again)


def test_what_a_branch_does_not_need_is_zero():
    shared = SharedSlots.of([[slot(VECTOR)], [slot(MATRIX)]])
    vector, matrix = shared.fill(0, [VECTOR])
    np.testing.assert_array_equal(vector, VECTOR)
    np.testing.assert_array_equal(matrix, jnp.zeros((2, 2)))


def test_dtypes_and_stacks_have_slots_of_their_own():
    half = VECTOR.astype(jnp.float16)
    shared = SharedSlots.of([[slot(VECTOR)], [slot(half)], [slot(VECTOR, (4,))]])
    assert len(shared.slots) == 3
    assert [(x.shape, x.dtype) for x in shared.fill(1, [half])] == [
        ((3,), "float32"),
        ((3,), "float16"),
        ((4, 3), "float32"),
    ]


def test_all_branches_return_the_same_types_for_weakly_typed_values():
    def types(branch, number):
        """Of the filled slots, where the branch saves what a Python number computes."""
        weak = jax.make_jaxpr(lambda x: x * 2)(number).jaxpr.outvars[0].aval
        assert weak.weak_type
        shared = SharedSlots.of([[(weak, ())], []])
        return [v.aval for v in jax.make_jaxpr(lambda x: shared.fill(branch, [x * 2][branch:]))(number).jaxpr.outvars]

    assert types(0, 1.5) == types(1, 1.5)
