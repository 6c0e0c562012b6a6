"""What every backward pass must keep, in every environment, and that breaking any of it is seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.comparing import gradient_sources
from fnbackprop.comparing.pipeline import compare
from fnbackprop.comparing.program import make_program, trace_program
from fnbackprop.comparing.properties import check_contract, check_environment
from fnbackprop.comparing.results import Property, Verdict

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
    found = checks(plain=14.1)["the value is the same with a backward pass and without"]
    assert found.verdict is Verdict.FAIL and "is 14, without 14.1" in found.reason
    assert checks(plain=np.nan)["the value is the same with a backward pass and without"].verdict is Verdict.SKIPPED


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


DATA = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)), jnp.float32)
OPTIONS = {"environment": True, "directions": 0, "rules": False, "reference": False}


def looped(w, x):
    return jnp.sum(jax.lax.scan(lambda c, t: (jnp.tanh(c * w + t), None), x[0], x)[0])


def verdicts(result):
    return {check.name: check.verdict for check in result.environment}


def test_all_environments_pass():
    result = compare(looped, DATA[0], DATA, **OPTIONS)
    assert set(verdicts(result).values()) == {Verdict.PASS} and len(result.environment) == 6
    assert "environment PASS: without jit, under vmap" in str(result).replace("\n", " ")


def test_what_does_not_apply_is_skipped_with_a_reason():
    def host(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    result = compare(lambda w, x: jnp.sum(w * host(x[0])), DATA[0], DATA, **OPTIONS)
    assert verdicts(result)["with loops unrolled"] is Verdict.SKIPPED
    assert verdicts(result)["under vmap"] is Verdict.SKIPPED  # JAX cannot batch the callback either


def test_a_gradient_that_depends_on_the_environments_fails(monkeypatch):
    def planted(fun, **options):
        def value_and_changed(*args):
            value, gradients = jax.value_and_grad(fun, **options)(*args)
            traced = isinstance(jax.tree.leaves(args)[0], jax.core.Tracer)
            return value, gradients if traced else jax.tree.map(lambda g: 1.01 * g, gradients)

        return value_and_changed

    monkeypatch.setitem(gradient_sources.BACKWARDS, "manual", planted)
    result = compare(looped, DATA[0], DATA, **OPTIONS)
    wrong = [check for check in result.environment if check.verdict is Verdict.FAIL]
    assert [check.name for check in wrong] == ["without jit"] and abs(wrong[0].error - 0.01) < 1e-4
    assert not result.ok and "environment FAIL: without jit" in str(result)


def test_each_leaf_has_its_own_bound_beside_one_that_is_not_finite():
    """The gradient at b is off by 1e-6; only a's bound, and a's gradient is NaN, would let that pass."""
    p = {"a": jnp.zeros(2), "b": jnp.ones(3)}
    program = make_program(lambda p: jnp.sum(jnp.sqrt(p["a"]) * 0) + jnp.sum(p["b"]), (p,), 0, None)
    usual = ({"a": jnp.full(2, jnp.nan), "b": jnp.full(3, 1 + 1e-6, jnp.float32)},)
    for bounds, expected in (([1e-2, 1e-9], Verdict.FAIL), ([1e-9, 1e-2], Verdict.PASS)):
        checks = check_environment(program, trace_program(program), usual, bounds, lambda text: None)
        assert {check.name: check.verdict for check in checks}[Property.WITHOUT_JIT] is expected
