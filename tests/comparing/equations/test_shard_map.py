"""The rules in a `shard_map`'s body are checked on each device, on the values that it holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import fnbackprop as fb
from fnbackprop.backprop import registry
from fnbackprop.backprop.engine import Engine
from fnbackprop.comparing.equations.shard_map import check_body
from fnbackprop.comparing.equations.walk import Location, Visit
from fnbackprop.comparing.program import make_program, trace_program
from fnbackprop.comparing.results import Cotangent, EquationKind, Verdict

SPEC = PartitionSpec("i")
X = np.array([0.3, -1.2, 2.0, 0.7], np.float32)


@jax.custom_vjp
def square(x):
    return x * x


square.defvjp(lambda x: (x * x, x), lambda x, dy: (5 * x * dy,))


def checked(body):
    """What is found in the body of a `shard_map` over two devices, if there are two."""
    devices = np.array(jax.devices()[:2])
    mesh = Mesh(devices, ("i",))
    fun = jax.shard_map(body, mesh=mesh, in_specs=SPEC, out_specs=SPEC)
    traced = trace_program(make_program(lambda x: jnp.sum(fun(x)), (X,), 0, None))
    plan = Engine().new_plan(traced.closed, traced.active, (True,))
    (step,) = [s for s in plan.steps.values() if s.equation.primitive.name == "shard_map"]
    visit = Visit(step, [X], Location("a.py:1", ""))
    return check_body(visit, [np.array([1.0, 2.0, 3.0, 4.0], np.float32)], traced.users_mode, [])


@pytest.fixture
def wrong_sin():
    """A rule of sin that is twice too large above 1, as one device has it, and after the test the right one again."""
    entry = registry._entries["sin"]
    fb.vjp_rule("sin")(lambda dy, x: jnp.where(x > 1, 2 * dy, dy) * jnp.cos(x))
    yield
    registry._put("sin", entry)


def test_right_rules():
    found = checked(lambda x: jnp.sin(x) * jax.lax.psum(x, "i"))
    assert (found.wrong, found.notes) == ([], [])
    assert len(found.checked) >= 3  # sin, psum and the product, each once
    assert {within for _, _, within in found.checked} == {"shard_map"}


def test_a_wrong_rule_is_found_on_the_device_that_shows_it(wrong_sin):
    found = checked(lambda x: jnp.sin(x) + jnp.cos(x))
    assert {one.primitive for one in found.wrong} == {"sin"}
    first = found.wrong[0]
    assert (first.verdict, first.kind, first.cotangent) == (Verdict.FAIL, EquationKind.RULE, Cotangent.ACTUAL)
    assert first.error > first.allowed


def test_a_users_rule_is_held_against_its_primal():
    found = checked(square)
    (one,) = found.wrong
    assert (one.kind, one.cotangent) == (EquationKind.CUSTOM_RULE, Cotangent.GAUSSIAN)
    assert one.ratio == pytest.approx(2.5, rel=1e-5) and "square" in one.name


def test_a_loop_that_does_not_end_beside_the_point_is_ended():
    """It takes no step at the point, and beside it as many as an integer can count."""
    mesh = Mesh(np.array(jax.devices()[:2]), ("i",))

    def body(x):
        moved = lambda state: jnp.any(state[0] != 1) & (state[1] < 2**31 - 2)  # noqa: E731
        steps = jax.lax.pcast(0, "i", to="varying")
        return 2 * jax.lax.while_loop(moved, lambda state: (state[0], state[1] + 1), (x, steps))[0]

    fun = jax.shard_map(body, mesh=mesh, in_specs=SPEC, out_specs=SPEC)
    result = fb.compare(lambda x: jnp.sum(fun(x)), np.ones(4, np.float32))
    assert result.verdict is Verdict.PASS, str(result)
    assert any("does not end within" in note and "test_shard_map.py" in note for note in result.notes)
