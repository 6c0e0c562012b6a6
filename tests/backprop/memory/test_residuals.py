"""A loop body's forward and backward traced as one, and split in two: on h' = tanh(h·w)·c."""

import jax
import jax.numpy as jnp
import pytest

from fnbackprop.backprop.engine import Engine
from fnbackprop.backprop.memory import residuals
from fnbackprop.backprop.memory.save_policy import save_all, save_nothing
from fnbackprop.backprop.plan import make_plan


def body(h, w, c):
    return jnp.tanh(h * w) * c


OPERANDS = jnp.float32(0.3), jnp.float32(0.7), jnp.float32(2.0)
CLOSED = jax.make_jaxpr(body)(*OPERANDS)


def joint():
    engine = Engine()
    plan = make_plan(engine, CLOSED, (True, True, False), (True,), None)
    return residuals.trace_joint(engine, plan, (True,), (True, False, False))


def test_joint_parts():
    both = joint()
    assert len(both.operands) == 3 and len(both.cotangents) == 1 and len(both.outputs) == 1
    assert [atom is not None for atom in both.found] == [True, True, False]


@pytest.mark.parametrize("choose", [save_all, save_nothing])
def test_the_two_parts_together_are_the_gradient(choose):
    both = joint()
    split = residuals.split(both, available=both.operands, invariant=both.operands[1:], choose=choose)
    known = dict(zip(both.operands, OPERANDS, strict=True))
    (y, *saved), inner = split.run_forward(known.items(), [*both.outputs, *split.saved])
    known.update(zip(split.saved, saved, strict=True))
    known[both.cotangents[0]] = jnp.float32(1.5)
    found = split.run_backward(known.items(), inner, both.found[:2])
    want, pullback = jax.vjp(body, *OPERANDS)
    assert jnp.allclose(y, want) and jnp.allclose(jnp.stack(found), jnp.stack(pullback(jnp.float32(1.5))[:2]))
    names = [equation.primitive.name for equation in split.recomputed]
    assert names == ([] if choose is save_all else ["mul", "tanh"]) and bool(saved) is (choose is save_all)


def test_values_of_loop_invariants_are_not_saved():
    """sin(w) depends on what does not change from step to step."""
    engine = Engine()
    closed = jax.make_jaxpr(lambda h, w: h * jnp.sin(w))(1.0, 2.0)
    both = residuals.trace_joint(
        engine, make_plan(engine, closed, (True, False), (True,), None), (True,), (True, False)
    )
    w = both.operands[1]
    assert residuals.split(both, available=[w], invariant=[w], choose=save_all).saved == ()
    assert len(residuals.split(both, available=[w], invariant=[], choose=save_all).saved) == 1
