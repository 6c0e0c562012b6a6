"""A trace by the compiled program: the numbers of `fb.grad` under jit, the statistics of a walk on numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import fnbackprop as fb
from fnbackprop.tracing import pipeline
from fnbackprop.tracing.blame import Kind

from .helpers import line_of
from .test_recording_engine import OPERATIONS, PARAMS, XS


def assert_same_bits(fun, *args, found=None):
    """The value, the gradient, and the cotangents of an argument under a name of its own."""
    found = fb.trace(fun, *args) if found is None else found
    value, gradient = jax.jit(fb.value_and_grad(fun))(*args)
    np.testing.assert_array_equal(found.value, value)
    for mine, theirs in zip(found.gradients.values(), jax.tree.leaves(gradient), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    return found


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(OPERATIONS) - 1), st.integers(0, 5)), min_size=1, max_size=8))
def test_random_programs_have_the_gradient_to_the_bit(steps):
    """Values with several uses among them; a named value's cotangent is the sum over all."""

    def program(x):
        x = fb.name(x, "input")
        values = [x]
        for operation, which in steps:
            y = OPERATIONS[operation](values[which % len(values)])
            values.append(lax.add(y, values[-1]))
        return lax.reduce_sum(values[len(values) // 2], (0,)) + lax.reduce_sum(values[-1], (0,))

    found = assert_same_bits(program, jnp.asarray([0.3, -0.7, 1.1, 0.2]))
    np.testing.assert_array_equal(found.cotangent("input"), found.gradients["args[0]"])


def in_scan(params, xs):
    def step(h, x):
        h = jax.nn.sigmoid(h @ params["w"] + x) * params["b"]
        return h, jnp.sum(h**2)

    return jnp.sum(lax.scan(step, jnp.zeros_like(xs[0]), xs)[1])


def in_reverse_scan(params, xs):
    return jnp.sum(lax.scan(lambda h, x: (jnp.tanh(h * params["b"] + x @ params["w"]), h), xs[0], xs, reverse=True)[1])


def with_condition(params, xs):
    def step(h, x):
        branches = (lambda h: jnp.tanh(h @ params["w"]), lambda h: h * params["b"], lambda h: h - 1)
        return lax.switch(jnp.int32(x[0] > 0) + jnp.int32(x[1] > 0), branches, h) + x, None

    return jnp.sum(lax.scan(step, xs[0], xs)[0])


def with_checkpoint(params, xs):
    @jax.checkpoint
    def block(x):
        return jax.nn.silu(jnp.sin(x @ params["w"]) * params["b"][None])

    return jnp.sum(block(block(xs)))


@jax.custom_vjp
def doubled(x):
    return 2 * x


doubled.defvjp(lambda x: (2 * x, jnp.cos(x)), lambda c, dy: (2 * dy + 0 * c,))


def with_own_rule(params, xs):
    return jnp.sum(doubled(xs @ params["w"]) * params["b"][None])


def mapped(params, xs):
    return jnp.sum(jax.vmap(lambda x: jax.nn.logsumexp(x @ params["w"]) * params["b"])(xs))


def second_order(params, xs):
    return jnp.sum(fb.grad(lambda p: in_scan(p, xs))(params)["w"] ** 2) + jnp.sum(params["b"])


def in_bfloat16(params, xs):
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, xs))
    return in_scan(*low).astype("float32")


FORMS = (
    in_scan, in_reverse_scan, with_condition, with_checkpoint, with_own_rule, mapped, second_order, in_bfloat16
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
def test_forms(form):
    """Of each equation that both record, the same statistics at the same iterations in the same order."""
    found = assert_same_bits(jax.jit(form), PARAMS, XS)
    detailed = fb.trace(form, PARAMS, XS, detailed=True)
    pairs = [
        (mine, theirs)
        for key, group in _by_place(found.records).items()
        if len(others := _by_place(detailed.records).get(key, [])) == len(group)
        for mine, theirs in zip(group, others, strict=True)
    ]
    kinds = ("values", "cotangents", "passed_on")
    compared = [_compare(getattr(a, k), getattr(b, k), form is in_bfloat16) for a, b in pairs for k in kinds]
    assert sum(compared) > 8


def _by_place(records):
    groups = {}
    for record in records:
        if not record.entered:
            path = tuple(label for label in record.path if not label.startswith("jit"))
            groups.setdefault((record.place, record.primitive, path, record.shapes), []).append(record)
    return groups


def _compare(mine, theirs, narrow):
    """How many statistics are the same. A cotangent that is zero, the walk on numbers leaves out."""
    known = {seen.iteration for seen in theirs}
    assert all(s.zero == s.size for seen in mine if seen.iteration not in known for s in seen.of if s is not None)
    mine = [seen for seen in mine if seen.iteration in known]
    assert [seen.iteration for seen in mine] == [seen.iteration for seen in theirs]
    compared = 0
    for one, other in zip(mine, theirs, strict=True):
        for a, b in zip(one.of, other.of, strict=False):
            if a is not None and b is not None:
                assert (a.size, a.nan, a.infinite) == (b.size, b.nan, b.infinite)
                rtol, atol = (0.1, 1e-2) if narrow else (1e-4, 1e-6)
                np.testing.assert_allclose((a.low, a.high, a.rms), (b.low, b.high, b.rms), rtol, atol)
                compared += 1
    return compared


def test_a_loop_of_an_unknown_number_of_steps_is_walked_on_numbers():
    def loss(x):
        return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.sin(s[1])), (0, x))[1]

    found = fb.trace(loss, 0.7)
    assert [s.iteration for r in found.records if r.primitive == "sin" for s in r.values] == [(0,), (1,), (2,)]
    np.testing.assert_allclose(found.gradients["args[0]"], jax.jit(fb.grad(loss))(0.7), rtol=1e-6)


def test_the_walk_on_numbers_is_left_out_where_all_is_sound(monkeypatch):
    monkeypatch.setattr(pipeline, "run_walk", None)
    masked = jnp.array([0.0, -jnp.inf, 0.0])  # an infinity that is used rightly
    found = fb.trace(lambda x: jax.nn.softmax(x + masked)[0], jnp.arange(3.0))
    assert found.ok and any(s.infinite for r in found.records for one in r.values for s in one.of if s is not None)


def test_a_long_program_is_walked_on_numbers(monkeypatch):
    """It would take long to compile."""
    compiled = []
    monkeypatch.setattr(pipeline, "compiled_walk", lambda *args: compiled.append(args))

    def program(x):
        for _ in range(pipeline.MOST_COMPILED // 2):
            x = jnp.sin(x)
        return x

    assert fb.trace(program, 0.5).ok and compiled
    compiled.clear()
    found = fb.trace(lambda x: program(program(program(x))), 0.5)
    assert len(found.records) > pipeline.MOST_COMPILED and not compiled


def test_findings_are_those_of_the_statistics():
    def loss(h, keys):
        def step(h, key):
            kept = jax.random.bernoulli(key, 0.5, h.shape) & jax.random.bernoulli(key, 0.9, h.shape)
            return 0.1 * h * kept.astype(h.dtype) + 0.1 * h + (1 + 1e-9 - 1), None

        return jnp.sum(lax.scan(step, h, keys)[0]) + jnp.sum(jax.nn.relu(-1 - h**2))

    keys = jax.random.split(jax.random.key(0), 16)
    both = [fb.trace(loss, jnp.ones(64), keys, detailed=detailed).findings for detailed in (False, True)]
    kinds, detailed = ({f.concern.value for f in found} for found in both)
    assert kinds == detailed >= {"vanishing", "same key twice", "dead units"}


def test_what_is_not_finite_only_as_it_is_compiled():
    """A number that is NaN in the compiled run alone, where rounding may do it on some processors; here, a callback."""
    results = iter([np.nan, 1.0])

    def loss(x):
        y = jax.pure_callback(lambda: np.float32(next(results, 1.0)), jax.ShapeDtypeStruct((), jnp.float32))  # HERE
        return jnp.sum(x * y)

    blame = fb.trace(loss, jnp.ones(4)).blame()
    assert (blame.kind, blame.place.line, blame.reaches) == (Kind.COMPILED, line_of(loss), ("args[0]",))
    assert "only when compiled" in blame.sentence and fb.trace(loss, jnp.ones(4)).ok


def test_what_is_not_finite_only_as_it_is_called():
    """The compiler may take two constant factors for one, which is 1."""

    def loss(x):
        return jnp.sum(x * np.float32(1e30) * np.float32(1e-30))  # HERE

    args = (jnp.full(4, 1e10),)
    assert np.isinf(loss(*args))
    if np.isinf(jax.jit(loss)(*args)):
        pytest.skip("this compiler keeps the two factors apart")
    found = fb.trace(loss, *args)
    blame = found.blame()
    assert (blame.kind, blame.place.line, blame.value) == (Kind.OVERFLOW, line_of(loss), True)
    assert not found.compiled and "called as it stands, gives inf" in found.notes[0]


def test_a_function_that_depends_on_more_than_its_arguments():
    """It is finite where it is traced, and not where it is called."""
    traced = []

    def loss(x):
        traced.append(isinstance(x, jax.core.Tracer))
        return x if traced[-1] else jnp.nan * x

    found = fb.trace(loss, 2.0)
    assert found.ok and found.compiled and "does it depend on more than its arguments?" in found.notes[0]


def test_a_value_that_is_finite_only_as_it_is_compiled():
    """A mask that is multiplied with, of which the compiler makes a selection; the gradient is NaN both ways."""

    def loss(x):
        return jnp.sum(jnp.sqrt(x) * (x >= 0).astype("float32"))  # HERE

    x = jnp.array([-1.0, 4.0])
    assert jax.jit(loss)(x) == 2 and np.isnan(loss(x))
    found = fb.trace(loss, x)
    blame = found.blame()
    assert (blame.kind, blame.place.line, blame.element) == (Kind.POLE, line_of(loss), (0,))
    assert found.notes[0].startswith("compiled as one program the value is 2.0, operation by operation it is nan")
