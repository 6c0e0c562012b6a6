"""scan and while_loop: every shape of loop that we can think of, with hoisting by rule, forced and forbidden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnbackprop as fb

from ..checking import assert_close, check_vjp, random_cotangent

RNG = np.random.default_rng(0)
W = RNG.normal(size=(3, 3)) / 2
H0 = RNG.normal(size=(2, 3))
XS = RNG.normal(size=(5, 2, 3))


def cell(w, h, x):
    return jnp.tanh(h @ w + x)


def rnn(w, h, xs, **options):
    def step(h, x):
        h = cell(w, h, x)
        return h, h * 2

    return jax.lax.scan(step, h, xs, **options)


def no_xs(w, h):
    return jax.lax.scan(lambda h, _: (cell(w, h, 0.1), None), h, None, length=4)[0]


def no_ys(w, h, xs):
    return jax.lax.scan(lambda h, x: (cell(w, h, x), None), h, xs)[0]


def no_carry(w, xs):
    return jax.lax.scan(lambda _, x: (None, jnp.sin(x @ w)), None, xs)[1]


def carry_not_differentiated(w, xs):
    return jax.lax.scan(lambda i, x: (i + 1, x @ w * i.astype(x.dtype)), jnp.int32(0), xs)[1]


def dead_carry(w, h, xs):
    """The first carry never reaches the output; the second is not reached by any input."""

    def step(carry, x):
        dead, constant, h = carry
        return (dead * jnp.sum(h), constant * 0.5, cell(w, h, x) * constant), None

    one = jnp.ones((), h.dtype)
    return jax.lax.scan(step, (one, one, h), xs)[0][2]


def key_carry(w, h):
    def step(carry, _):
        h, key = carry
        key, now = jax.random.split(key)
        return (cell(w, h, jax.random.normal(now, h.shape, h.dtype)), key), None

    return jax.lax.scan(step, (h, jax.random.key(0)), None, length=3)[0][0]


def tied_weights(w, h, xs):
    def step(h, x):
        return jnp.tanh(h @ w + x @ w.T + jnp.sum(w)), None

    return jax.lax.scan(step, h, xs)[0]


def vector_products(w, h, xs):
    """Products without a contracted axis (an outer product as weight gradient), and with batch axes."""

    def step(h, x):
        return jnp.tanh(w @ h[0] + x[1])[None] + jnp.einsum("bi,bij->bj", h, jnp.stack([w, w])), jnp.dot(x[0], w)

    return jax.lax.scan(step, h, xs)


def nested(w, h, xs):
    def outer(h, x):
        def middle(h, t):
            def inner(h, _):
                return cell(w, h, x) * t, None

            return jax.lax.scan(inner, h, None, length=2)[0], jnp.sum(h)

        h, sums = jax.lax.scan(middle, h, jnp.arange(1.0, 3.0, dtype=h.dtype))
        return h, sums

    return jax.lax.scan(outer, h, xs)


def with_cond(w, h, xs):
    def step(h, x):
        return jax.lax.cond(jnp.sum(x) > 0, lambda h: cell(w, h, x), lambda h: h * jnp.sum(w), h), None

    return jax.lax.scan(step, h, xs)[0]


def with_remat(w, h, xs):
    step = jax.checkpoint(lambda h, x: (cell(w, h, x), jnp.sin(h)))
    return jax.lax.scan(step, h, xs)


def with_jit_and_custom_jvp(w, h, xs):
    layer = jax.jit(lambda h, x: jax.nn.gelu(jax.nn.silu(h @ w) + x))
    return jax.lax.scan(lambda h, x: (layer(h, x), None), h, xs)[0]


def forwarded(w, h, xs):
    """Carries that are exchanged, an x and a constant that are returned as they are."""

    def step(carry, x):
        a, b = carry
        return (b, cell(w, a, x)), (x, w, a)

    return jax.lax.scan(step, (h, h * 2), xs)


def literal_output(w, h, xs):
    return jax.lax.scan(lambda h, x: (cell(w, h, x), 1.0), h, xs)[0]


def sum_of_carry_cotangent_only(w, h, xs):
    """Only the last carry is used, through one step's output."""
    carry, ys = rnn(w, h, xs)
    return ys[2] + 0 * carry


def convolution(w, images):
    """The kernel is loop-invariant; strides, groups and dilations as given."""

    def step(total, image):
        layouts = {"padding": "SAME"}, {"window_strides": (2, 1)}, {"feature_group_count": 2}, {"rhs_dilation": (1, 2)}
        for i, options in enumerate(layouts):
            kernel = w[:, :1] if "feature_group_count" in options else w
            options = {"window_strides": (1, 1), "padding": "VALID"} | options
            total += jnp.sum(jnp.sin(jax.lax.conv_general_dilated(image, kernel, **options) * (i + 1)))
        return total, None

    return jax.lax.scan(step, jnp.zeros((), w.dtype), images)[0]


def embedding(table, h, indices):
    """Rows of a loop-invariant table, some of them read several times, by gather and by dynamic_slice."""

    def step(h, i):
        h = jnp.tanh(h + table[i] + jax.lax.dynamic_index_in_dim(table, i[0], keepdims=True))
        return h, jnp.sum(h, axis=0) + jax.vmap(lambda row, j: row[j], (1, None))(table, i[1])

    return jax.lax.scan(step, h, indices)


def scale_and_shift(scale, shift, h, xs):
    """A layer norm's parameters: an elementwise product and a plain sum."""

    def step(h, x):
        h = jnp.tanh(h * scale[None] + shift[None] + x)
        return h, h

    return jax.lax.scan(step, h, xs)


def other_dtypes(w, h, xs):
    """What the backward reads is complex, of lower precision and boolean."""

    def step(h, x):
        z = jax.lax.complex(h @ w, x)
        z = z * jnp.exp(1j * z.real.astype(z.dtype))
        low = jnp.sin(z.imag.astype(jnp.float32)).astype(h.dtype)
        h = jnp.where(x > 0, jnp.tanh(z.real * low), low)
        return h, jnp.abs(z)

    return jax.lax.scan(step, h, xs)


def with_effects(w, h, xs):
    """A callback, which is neither dropped nor run twice for the backward (`test_effects_occur_once`)."""

    def step(h, x):
        jax.debug.callback(SEEN.append, jnp.sum(x))
        return cell(w, h, x), None

    return jax.lax.scan(step, h, xs)[0]


SEEN = []
INDICES = np.asarray([[0, 2], [2, 2], [1, 0]])
CASES = {
    "convolution": (convolution, (RNG.normal(size=(4, 2, 2, 2)), RNG.normal(size=(3, 2, 2, 4, 4)))),
    "embedding": (embedding, (W, H0, INDICES)),
    "scale and shift": (scale_and_shift, (W[0], W[1], H0, XS)),
    "plain": (rnn, (W, H0, XS)),
    "reverse": (lambda *a: rnn(*a, reverse=True), (W, H0, XS)),
    "unroll": (lambda *a: rnn(*a, unroll=2), (W, H0, XS)),
    "unrolled wholly": (lambda *a: rnn(*a, unroll=5), (W, H0, XS)),
    "length 0": (rnn, (W, H0, XS[:0])),
    "length 1": (rnn, (W, H0, XS[:1])),
    "no xs": (no_xs, (W, H0)),
    "no ys": (no_ys, (W, H0, XS)),
    "no carry": (no_carry, (W, XS)),
    "carry not differentiated": (carry_not_differentiated, (W, XS)),
    "dead carry": (dead_carry, (W, H0, XS)),
    "key carry": (key_carry, (W, H0)),
    "tied weights": (tied_weights, (W, H0, XS)),
    "vector products": (vector_products, (W, H0, XS)),
    "nested three deep": (nested, (W, H0, XS[:2])),
    "cond inside": (with_cond, (W, H0, XS)),
    "remat inside": (with_remat, (W, H0, XS)),
    "jit and custom_jvp inside": (with_jit_and_custom_jvp, (W, H0, XS)),
    "forwarded": (forwarded, (W, H0, XS)),
    "literal output": (literal_output, (W, H0, XS)),
    "other dtypes": (other_dtypes, (W, H0, XS)),
    "effects": (with_effects, (W, H0, XS)),
    "one output used": (sum_of_carry_cotangent_only, (W, H0, XS)),
}


def smallest_budget(fun, args):
    """About the smallest fraction that can be kept."""
    for budget in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7):
        try:
            fb.residuals(fun, *args, budget=budget)
            return budget
        except ValueError as error:
            assert "must save at least" in str(error)
    return 1.0


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CASES)
def test_scan_vjp(name):
    """By default, with hoisting forced and forbidden, and with the smallest budget."""
    fun, args = CASES[name]
    assert_every_choice(fun, [jnp.asarray(x) for x in args])


def assert_every_choice(fun, args):
    """The same gradient as JAX's, by one compiled program."""

    def gradients(lib, options, args):
        value, pullback = lib.vjp(fun, *args, **options)
        found = pullback(random_cotangent(value, 3))
        return value, [ct for ct in found if ct.dtype != jax.dtypes.float0]

    least = smallest_budget(fun, args)
    choices = ({}, {"hoist": True}, {"hoist": False}, {"budget": least}, {"budget": least, "hoist": True})
    want, *found = jax.jit(lambda *a: [gradients(jax, {}, a), *(gradients(fb, o, a) for o in choices)])(*args)
    for options, got in zip(choices, found, strict=True):
        assert_close(got, want, 1e-12, f"{options}")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["plain", "nested three deep", "cond inside", "forwarded"])
def test_scan_second_order_and_vmap(name):
    fun, args = CASES[name]
    check_vjp(jax.jit(fun), *args, dtypes=("float64",), batched=name != "nested three deep")


def test_effects_occur_once():
    """An effect belongs to the forward: one for each step, whatever is computed again."""
    args = [jnp.asarray(x, jnp.float32) for x in (W, H0, XS)]
    SEEN.clear()
    jax.block_until_ready(jax.jit(fb.grad(lambda *a: with_effects(*a).sum()))(*args))
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(map(float, SEEN)), sorted(XS.sum((1, 2))), rtol=1e-5)


STEPS = {
    "product": lambda w, h, x: h @ w,
    "tanh": lambda w, h, x: jnp.tanh(h),
    "scale": lambda w, h, x: h * w[:1],
    "gate": lambda w, h, x: jax.nn.sigmoid(h) * x,
    "norm": lambda w, h, x: h / (1 + jnp.sum(h * h, axis=-1, keepdims=True)),
    "softmax": lambda w, h, x: jax.nn.softmax(h + x, axis=-1),
    "cond": lambda w, h, x: jax.lax.cond(jnp.sum(x) > 0, lambda h: jnp.sin(h) @ w, lambda h: h * 2, h),
    "scan": lambda w, h, x: jax.lax.scan(lambda h, _: (jnp.sin(h @ w), None), h, None, length=2)[0],
    "transposed": lambda w, h, x: x @ w.T + h,
}


@pytest.mark.usefixtures("x64")
@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=5), st.booleans())
def test_random_bodies(names, reverse):
    """Bodies of a few random steps, under every choice."""

    def fun(w, h, xs):
        def step(h, x):
            for name in names:
                h = h + STEPS[name](w, h, x)
            return h, jnp.sum(h)

        return jax.lax.scan(step, h, xs, reverse=reverse)

    assert_every_choice(fun, [jnp.asarray(x) for x in (W, H0, XS[:3])])


def test_low_precision_sums_over_time_accumulate_in_float32():
    """The weight gradient of a long bfloat16 loop, against float64, beside JAX's."""
    rng = np.random.default_rng(1)
    steps = 1024
    w, h, xs = rng.normal(size=(8, 8)) / 4, rng.normal(size=(4, 8)), rng.normal(size=(steps, 4, 8))

    def loss(w, h, xs):
        return jnp.sum(rnn(w, h, xs)[1].astype(jnp.float32))

    low = [jnp.asarray(x, jnp.bfloat16) for x in (w, h, xs)]

    def error(lib, **options):
        def gradient(*args):
            value, pullback = lib.vjp(loss, *args, **options)
            return pullback(jnp.ones_like(value))[0]

        got = np.asarray(jax.jit(gradient)(*low), np.float64)
        return np.linalg.norm(got - exact) / np.linalg.norm(exact)

    with jax.enable_x64(True):
        exact = np.asarray(jax.jit(jax.grad(loss))(*(jnp.asarray(x, jnp.float64) for x in low)))
    for hoist in (True, False):
        assert error(fb, hoist=hoist) < 0.01 < 0.02 < error(jax)
