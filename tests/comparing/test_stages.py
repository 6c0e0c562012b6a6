"""The stages of a comparison: every option is honoured, for one function and for one against another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.comparing import stages
from fnbackprop.comparing.pipeline import compare
from fnbackprop.comparing.results import Verdict

X = jnp.asarray(np.random.default_rng(0).normal(size=(4,)), jnp.float32)


@jax.custom_vjp
def damped(x):
    return jnp.sin(x)


damped.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (0.5 * ct * jnp.cos(x),))


def loss(x):
    return jnp.sum(jnp.sin(x) * x)


def same_loss(x):
    return jnp.dot(x, jnp.sin(x))


@pytest.fixture(params=[None, same_loss], ids=["one function", "two functions"])
def against(request):
    return request.param


def test_rules_are_checked_unless_not_wanted(against):
    assert compare(loss, X, against=against, directions=0).audited > 0
    assert compare(loss, X, against=against, directions=0, rules=False).audited == 0


def test_the_environments_are_checked_if_wanted(against):
    options = {"against": against, "directions": 0, "rules": False}
    assert compare(loss, X, **options).environment == ()
    checks = compare(loss, X, environment=True, **options).environment
    assert len(checks) == 6 and Verdict.PASS in {check.verdict for check in checks}


def test_the_reference_is_taken_unless_not_wanted(against, monkeypatch):
    calls = []
    reference = stages.reference_gradients
    monkeypatch.setattr(stages, "reference_gradients", lambda *args: calls.append(args) or reference(*args))
    assert compare(loss, X, against=against, directions=0, rules=False, reference=False).ok and not calls
    assert compare(loss, X, against=against, directions=0, rules=False).ok and len(calls) == 1


def test_each_leaf_has_its_direction_if_wanted(against):
    bounds = {
        wanted: compare(loss, X, against=against, rules=False, leaf_directions=wanted).leaves[0].bound
        for wanted in (True, False)
    }
    assert 0 <= bounds[True] < 1e-3 and np.isnan(bounds[False])


def test_progress_is_told_if_wanted(against, monkeypatch):
    said = []
    monkeypatch.setattr("rich.status.Status.update", lambda self, text: said.append(text))
    compare(loss, X, against=against, directions=0, rules=False, progress=True)
    assert any("the manual gradient" in line for line in said)


@pytest.mark.parametrize("two", [False, True])
def test_a_rule_that_differs_on_purpose_is_declared(two):
    def fun(x):
        return jnp.sum(damped(x))

    options = {"against": (lambda x: fun(x) * 1) if two else None, "directions": 0}
    assert compare(fun, X, **options).verdict is Verdict.FAIL
    result = compare(fun, X, intended=("damped",), **options)
    assert result.ok and any("as declared" in line for line in result.intended)
    with pytest.raises(TypeError, match="must be a sequence of names"):
        compare(fun, X, intended="damped", **options)


def test_the_noise_of_the_manual_gradient_is_measured_once(monkeypatch):
    """Also where the automatic gradient is not finite at one leaf, and another is wrong."""

    measured, measure = [], stages.measured_noise
    monkeypatch.setattr(stages, "measured_noise", lambda *args: measured.append(args[2]) or measure(*args))
    gradients = {"manual": (0.5, 1.0), "automatic": (1.0, jnp.nan)}
    real = stages.gradient_function

    def gradient_function(program, source):
        scales = gradients[source]

        def function(*args):
            value, leaves = real(program, "manual")(*args)
            return value, tuple(scale * leaf for scale, leaf in zip(scales, leaves, strict=True))

        return function

    monkeypatch.setattr(stages, "gradient_function", gradient_function)
    found = compare(lambda x, y: jnp.sum(x**2 + jnp.sin(y)), X, X, argnums=(0, 1), directions=0, rules=False)
    assert [leaf.verdict for leaf in found.leaves] == [Verdict.FAIL, Verdict.NON_FINITE]
    assert len(measured) == len({id(function) for function in measured}) == 2
