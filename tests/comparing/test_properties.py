"""What every backward pass must keep, and that breaking any of it is seen."""

import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.comparing.program import make_program
from fnbackprop.comparing.properties import check_contract
from fnbackprop.comparing.results import Verdict

X = np.float32([1.0, 2.0, 3.0])


def checks(change=lambda value, gradient, cotangent: (value, gradient), plain=14.0):
    program = make_program(lambda x: jnp.sum(x * x), (X,), 0, None)

    def function(inputs, others, cotangent):
        (x,) = inputs
        value, gradient = change(np.sum(x * x) * cotangent, 2 * x * cotangent, cotangent)
        return value, (gradient,)

    first = function(program.inputs, program.others, np.float32(1))
    found = check_contract(program, function, first, np.float32(plain), (1e-6, [1e-6]))
    return {check.name: check for check in found}


def test_a_right_backward_keeps_it():
    assert len(checks()) == 4 and {check.verdict for check in checks().values()} == {Verdict.PASS}


@pytest.mark.parametrize(
    "name, change",
    [
        ("a zero cotangent gives zeros", lambda v, g, ct: (v, g if ct else g + 1)),
        ("linear in the cotangent", lambda v, g, ct: (v, g if ct > 0 else -g)),
        ("linear in the cotangent", lambda v, g, ct: (v, g * np.abs(ct))),
    ],
)
def test_what_breaks_it_fails(name, change):
    found = checks(change)
    assert [n for n, check in found.items() if check.verdict is Verdict.FAIL] == [name] and found[name].reason


def test_another_value_than_the_primal_fails():
    found = checks(plain=14.1)["the forward's value equals the plain primal"]
    assert found.verdict is Verdict.FAIL and "is 14, without 14.1" in found.reason
    assert checks(plain=np.nan)["the forward's value equals the plain primal"].verdict is Verdict.SKIPPED


def test_calls_that_differ():
    calls = []

    def change(value, gradient, cotangent):
        calls.append(None)
        return value, gradient * np.float32(1 + 1e-6 * len(calls))

    (found,) = checks(change).values()
    assert found.verdict is Verdict.NONDETERMINISTIC and found.error > 0


def test_infinite_gradients_are_let_pass():
    found = checks(lambda v, g, ct: (v, g * np.float32(np.inf) if ct else g * np.float32(np.nan)))
    assert {check.verdict for check in found.values()} == {Verdict.PASS}
