"""The gradient in other surroundings."""

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.comparing import gradient_sources
from fnbackprop.comparing.pipeline import compare
from fnbackprop.comparing.results import Verdict

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)), jnp.float32)
OPTIONS = {"environment": True, "directions": 0, "rules": False, "reference": False}


def looped(w, x):
    return jnp.sum(jax.lax.scan(lambda c, t: (jnp.tanh(c * w + t), None), x[0], x)[0])


def verdicts(result):
    return {check.name: check.verdict for check in result.environment}


def test_all_surroundings_pass():
    result = compare(looped, X[0], X, **OPTIONS)
    assert set(verdicts(result).values()) == {Verdict.PASS} and len(result.environment) == 6
    assert "environment PASS: without jit, under vmap" in str(result).replace("\n", " ")


def test_what_does_not_apply_is_skipped_with_a_reason():
    def host(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    result = compare(lambda w, x: jnp.sum(w * host(x[0])), X[0], X, **OPTIONS)
    assert verdicts(result)["with loops unrolled"] is Verdict.SKIPPED
    assert verdicts(result)["under vmap"] is Verdict.SKIPPED  # JAX cannot batch the callback either


def test_a_gradient_that_depends_on_the_surroundings_fails(monkeypatch):
    def planted(fun, **options):
        def value_and_changed(*args):
            value, gradients = jax.value_and_grad(fun, **options)(*args)
            traced = isinstance(jax.tree.leaves(args)[0], jax.core.Tracer)
            return value, gradients if traced else jax.tree.map(lambda g: 1.01 * g, gradients)

        return value_and_changed

    monkeypatch.setitem(gradient_sources.BACKWARDS, "manual", planted)
    result = compare(looped, X[0], X, **OPTIONS)
    wrong = [check for check in result.environment if check.verdict is Verdict.FAIL]
    assert [check.name for check in wrong] == ["without jit"] and abs(wrong[0].error - 0.01) < 1e-4
    assert not result.ok and "environment FAIL: without jit" in str(result)
