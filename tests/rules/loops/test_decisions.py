"""A loop that depends on what is differentiated through decisions alone warns, once, and other loops do not."""

import warnings

import jax
import jax.numpy as jnp
import pytest

import fnbackprop as fb
from fnbackprop.rules.loops import decisions
from fnbackprop.rules.loops.decisions import DecidedLoopWarning


def halve(value, target, low, high):
    middle = (low + high) / 2
    return jnp.where(value(middle) < target, middle, low), jnp.where(value(middle) < target, high, middle)


def square(x):
    return x * x


def going_on(state):
    return state[1] - state[0] > 1e-6


def from_a_constant(a):
    return jax.lax.while_loop(going_on, lambda s: halve(square, a, *s), (0.0, 10.0))[0]


def from_a_bracket_that_depends(a):
    return jax.lax.while_loop(going_on, lambda s: halve(square, a, *s), (0.0 * a, a + 1))[0]


def with_the_parameter_in_the_carry(a):
    return jax.lax.while_loop(going_on, lambda s: (*halve(square, s[2], *s[:2]), s[2]), (0.0, 10.0, a))[0]


def with_the_value_in_the_carry(a):
    def step(s):
        low, high = halve(square, a, *s[:2])
        return low, high, low**2 - a

    return jax.lax.while_loop(lambda s: jnp.abs(s[2]) > 1e-3, step, (0.0, 10.0, -a))[0]


def in_a_loop(a):
    return jax.lax.fori_loop(0, 3, lambda i, x: x + jax.jit(from_a_constant)(a), 0.0)


def decided_by_the_end(a):
    return jax.lax.while_loop(lambda x: x < a, lambda x: 1.1 * x, 1.0)


def in_a_fixed_number_of_steps(a):
    return jax.lax.fori_loop(0, 40, lambda i, s: halve(square, a, *s), (0.0, jnp.maximum(a, 1.0)))[0]


def through_references(a, loop=jax.lax.while_loop):
    def step(s):
        low, high = map(jax.new_ref, s)
        low[...], high[...] = halve(square, a, *s)
        return low[...], high[...]

    return loop(going_on, step, (0.0, 10.0))[0]


def through_references_in_a_fixed_number_of_steps(a):
    return through_references(a, lambda _, step, s: jax.lax.fori_loop(0, 40, lambda i, s: step(s), s))


def by_the_sign_alone(a):
    step = lambda s, _: ((s[0] + s[1] * jnp.sign(a - s[0] ** 2), s[1] / 2), None)  # noqa: E731
    return jax.lax.scan(step, (5.0, 2.5), length=40)[0][0]


@pytest.mark.parametrize(
    "fun",
    [
        in_a_fixed_number_of_steps,
        by_the_sign_alone,
        through_references,
        through_references_in_a_fixed_number_of_steps,
        from_a_constant,
        from_a_bracket_that_depends,
        with_the_parameter_in_the_carry,
        with_the_value_in_the_carry,
        decided_by_the_end,
    ],
)
def test_a_loop_of_decisions_warns_once(fun):
    with pytest.warns(DecidedLoopWarning, match=rf"test_decisions.py:\d+.*{fun.__name__}.*fb.implicit") as caught:
        jax.eval_shape(fb.grad(fun), 2.0)
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.eval_shape(fb.grad(fun), 2.0)


def test_within_other_loops_and_batched():
    with pytest.warns(DecidedLoopWarning, match="decisions"):
        line = lambda a: jax.lax.while_loop(going_on, lambda s: halve(square, a, *s), (0.0, 9.0))[0]  # noqa: E731
        jax.eval_shape(fb.grad(lambda a: jnp.sum(jax.vmap(line)(a))), jnp.ones(3))
    with pytest.warns(DecidedLoopWarning, match="decisions"):
        line = lambda a: jax.lax.while_loop(going_on, lambda s: halve(square, a, *s), (0.0, 9.0))[0]  # noqa: E731
        jax.eval_shape(fb.grad(lambda a: jax.lax.fori_loop(0, 3, lambda i, x: x + jax.jit(line)(a), 0.0)), 1.0)


@pytest.mark.parametrize("steps", ["while", "scan"])
def test_in_a_function_of_jax_each_use_warns_of_the_plan_that_is_kept(steps, monkeypatch):
    """As in `jax.scipy`: the loop has no line of the user's, and the plan of the jitted function is kept."""
    monkeypatch.setattr(decisions, "source_line", lambda equation: "")
    loop = jax.jit(from_a_constant if steps == "while" else in_a_fixed_number_of_steps)
    for use in (lambda a: loop(a), lambda a: 2 * loop(a), lambda a: jax.lax.cond(a > 1, loop, jnp.sin, a)):
        with pytest.warns(DecidedLoopWarning, match="JAX's own") as caught:
            jax.eval_shape(fb.grad(use), 2.0)
        assert len(caught) == 1


def newton(a):
    return jax.lax.while_loop(
        lambda s: jnp.abs(s[0] ** 2 - a) > s[1], lambda s: ((s[0] + a / s[0]) / 2, s[1]), (a, 1e-4 * a)
    )[0]


def ends_by_a_tolerance_of_the_input(a):
    return jax.lax.while_loop(lambda x: x > 1e-3 * a, lambda x: x / 2, a)


def stopped_then_polished(a):
    x = jax.lax.stop_gradient(from_a_constant(a))
    return x - (x * x - a) / (2 * x)


def counted(a):
    return a * jax.lax.while_loop(lambda s: s[0] < 5, lambda s: (s[0] + 1, s[1] + (a > 1).astype(int)), (0, 0))[
        1
    ].astype(float)


def counted_in_floats(a):
    return a * jax.lax.scan(lambda n, x: (n + (x > a).astype(float), None), 0.0, jnp.arange(4.0))[0]


def with_a_reference_for_an_inner_loop(a):
    def step(i, s):
        r = jax.new_ref(s[1])
        jax.lax.fori_loop(0, 2, lambda i, _: jax.ref.addupdate(r, (), a), None)
        return s[0] * 0.5 + i, r[...]

    return jax.lax.fori_loop(0, 3, step, (1.0, a))[1]


def the_smallest(a):
    return jax.lax.scan(lambda low, x: (jnp.where(a * x < low, a * x, low), None), 9.0, jnp.arange(4.0))[0]


def with_a_threshold_for_a_factor(a):
    return jax.lax.while_loop(lambda s: s[0] < 5, lambda s: (s[0] + 1, jnp.where(s[1] > a, a * s[1], s[1])), (0, 3.0))[
        1
    ]


@pytest.mark.parametrize(
    "fun",
    [
        newton,
        ends_by_a_tolerance_of_the_input,
        stopped_then_polished,
        counted,
        counted_in_floats,
        with_a_reference_for_an_inner_loop,
        the_smallest,
        with_a_threshold_for_a_factor,
    ],
)
def test_other_loops_do_not_warn(fun):
    jax.eval_shape(fb.grad(fun), 2.0)  # warnings are errors


@pytest.mark.filterwarnings("ignore::fnbackprop.rules.loops.decisions.DecidedLoopWarning")
def test_the_gradient_is_that_of_the_steps():
    """As the chain rule has it: zero, and that of the carries that have a slope beside one that has none."""

    def beside(a):
        def step(s):
            return (*halve(square, a, *s[:2]), s[2] * 0.9 + a)

        low, _, total = jax.lax.while_loop(going_on, step, (0.0, 10.0, a))
        return 3 * low + total

    def gradients(a):
        return fb.grad(from_a_constant)(a), fb.grad(beside)(a), fb.grad(lambda a: beside(a) - 3 * from_a_constant(a))(a)

    zero, one, other = jax.jit(gradients)(2.0)
    assert zero == 0 and one == other > 1
