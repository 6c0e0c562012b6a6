"""The cotangents that are recorded are those of the engine that trains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import fnbackprop as fb
from fnbackprop.tracing.pipeline import trace

OPERATIONS = [
    jnp.sin,
    jnp.tanh,
    jnp.exp2,
    jnp.square,
    lambda x: x * 0.3,
    lambda x: x[::-1],
    lambda x: lax.dot(x[None], jnp.ones((x.size, x.size)))[0] / x.size,
    lambda x: lax.cumsum(x) / 4,
    lambda x: lax.max(x, x[::-1]),
]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(OPERATIONS) - 1), st.integers(0, 5)), min_size=1, max_size=8))
def test_random_programs_have_the_gradient_to_the_bit(steps):
    """Op by op, as `fb.grad` outside of jit: values with several uses among them."""

    def program(x):
        values = [x]
        for operation, which in steps:
            y = OPERATIONS[operation](values[which % len(values)])
            values.append(lax.add(y, values[-1]))
        return lax.reduce_sum(fb.name(values[len(values) // 2], "middle"), (0,)) + lax.reduce_sum(values[-1], (0,))

    x = jnp.asarray([0.3, -0.7, 1.1, 0.2])
    found = trace(program, x, detailed=True)
    value, gradient = fb.value_and_grad(program)(x)
    np.testing.assert_array_equal(found.value, value)
    np.testing.assert_array_equal(found.gradients["args[0]"], gradient)
    assert found.ok


def composed(params, xs):
    """Every kind of body in one program."""

    @jax.checkpoint
    def block(h, w):
        return jax.nn.silu(h @ w)

    def step(h, x):
        h = lax.cond(x[0] > 0, lambda h: block(h, params["w"]), lambda h: h * params["b"], h)
        return h, fb.name(jnp.tanh(h + x), "ys")

    h, ys = lax.scan(step, jnp.zeros(3), xs)
    h = lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.sin(s[1]) + params["b"]), (0, h))[1]
    rows = jax.vmap(lambda y: lax.while_loop(lambda v: jnp.sum(v) < 2, lambda v: v + params["b"] ** 2 + 0.1, y))(ys)
    return jnp.sum(jax.nn.logsumexp(rows, axis=0)) + jnp.sum(jax.nn.relu(h))


PARAMS = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)), "float32"), "b": jnp.array([0.5, 0.7, 0.9])}
XS = jnp.asarray(np.random.default_rng(1).normal(size=(5, 3)), "float32")


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_every_kind_of_body(jitted):
    found = trace(jax.jit(composed) if jitted else composed, PARAMS, XS, detailed=True)
    value, gradient = jax.jit(fb.value_and_grad(composed))(PARAMS, XS)
    np.testing.assert_allclose(found.value, value, rtol=1e-6)
    for name in PARAMS:
        np.testing.assert_allclose(found.gradients[name], gradient[name], rtol=2e-5)
    paths = {label for record in found.records for label in record.path}
    assert {"scan", "while", "cond", "branch 0", "branch 1"} <= paths
    assert any(len(r.values) == 5 for r in found.records if "scan" in r.path)


def test_named_values_have_their_gradient():
    found = trace(composed, PARAMS, XS, detailed=True)

    def from_ys(ys):
        rows = jax.vmap(lambda y: lax.while_loop(lambda v: jnp.sum(v) < 2, lambda v: v + PARAMS["b"] ** 2 + 0.1, y))(ys)
        return jnp.sum(jax.nn.logsumexp(rows, axis=0))

    ys = found.value_of("ys")
    assert ys.shape == (5, 3)
    np.testing.assert_allclose(found.cotangent("ys"), jax.jit(fb.grad(from_ys))(ys), rtol=2e-5)
    with pytest.raises(KeyError, match="the names are: 'ys'"):
        found.cotangent("scores")


def test_bfloat16_sums_over_time_are_those_of_the_engine():
    def loss(w, xs):
        return jnp.sum(lax.scan(lambda h, x: (h * w + x, None), jnp.zeros(4, jnp.bfloat16), xs)[0].astype("float32"))

    w, xs = jnp.full(4, 0.9, jnp.bfloat16), jnp.ones((50, 4), jnp.bfloat16)
    found = trace(loss, w, xs, detailed=True).gradients["args[0]"]
    expected = jax.jit(fb.grad(loss))(w, xs)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found.astype("float32"), expected.astype("float32"), rtol=2**-7)


def test_a_function_that_needs_values():
    def loss(x):
        return jnp.sum(jnp.sqrt(x)) if x[0] > -1 else 0.0

    found = trace(loss, jnp.zeros(2))
    assert found.blame().place[:2] == (__file__, loss.__code__.co_firstlineno) and "needs values" in found.notes[0]


def test_a_program_that_is_no_scalar():
    with pytest.raises(TypeError, match="scalar-output"):
        trace(lambda x: 2 * x, jnp.ones(2))
    with pytest.raises(TypeError, match="real-valued outputs"):
        trace(lambda x: jnp.sum(lax.complex(x, x)), jnp.ones(2))
    with pytest.raises(TypeError, match="nothing to differentiate"):
        trace(lambda i: jnp.sum(i.astype(float)), jnp.arange(3))
    with pytest.raises(TypeError, match="real scalar, or .scalar, aux., but it returned 0 arrays"):
        trace(lambda x: None, jnp.ones(2))


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap])
def test_inside_a_transformation_it_has_no_numbers(transform):
    with pytest.raises(TypeError, match="inside jit, grad or vmap: call it outside"):
        transform(lambda x: trace(lambda y: jnp.sum(y * y), x).value)(jnp.ones(2))


def test_what_is_kept_must_be_there():
    def loss(x):
        return jnp.sum(jnp.tanh(fb.name(2 * x, "scores")))

    with pytest.raises(ValueError, match="keep='nonesuch' names no equation: the names are 'scores', the numbers are"):
        trace(loss, jnp.ones(2), keep="nonesuch")
    found = trace(loss, jnp.ones(2), keep=["scores", "test_recording_engine.py", 2])
    assert found.value_of(2).shape == (2,)
    with pytest.raises(KeyError, match="it is a line, of the equations 0 .mul., .* ask for one by its number"):
        found.value_of("test_recording_engine.py")
