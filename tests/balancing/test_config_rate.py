"""Which option is the learning rate."""

import dataclasses

import fnbackprop as fb
from fnbackprop.balancing.config_rate import find_rate, with_rate


@dataclasses.dataclass(frozen=True)
class Nested:
    optimizer: fb.Optimizer = fb.Optimizer(learning_rate=0.3)
    rate: int = 3


@dataclasses.dataclass(frozen=True)
class Two:
    one: fb.Optimizer = fb.Optimizer()
    two: fb.Optimizer = fb.Optimizer()


def test_it_is_found_and_changed():
    assert find_rate(Nested()) == (("optimizer", "learning_rate"), 0.3)
    assert with_rate(Nested(), ("optimizer", "learning_rate"), 0.1).optimizer == fb.Optimizer(learning_rate=0.1)


def test_none_or_several_are_none():
    assert find_rate(Two()) is None and find_rate(None) is None
