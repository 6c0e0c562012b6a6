"""scan and while_loop: every shape of loop that we can think of, with hoisting by rule, forced and forbidden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb

from .checking import assert_close, check_vjp, random_cotangent

RNG = np.random.default_rng(0)
W = RNG.normal(size=(3, 3)) / 2
H0 = RNG.normal(size=(2, 3))
XS = RNG.normal(size=(5, 2, 3))
HOISTING = ("plain", "tied weights", "vector products", "nested three deep")  # also forced and forbidden


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


CASES = {
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
    "one output used": (sum_of_carry_cotangent_only, (W, H0, XS)),
}


def gradients(lib, fun, args, **options):
    def run(*args):
        value, pullback = lib.vjp(fun, *args, **options)
        return value, pullback(random_cotangent(value, 3))

    return jax.jit(run)(*args)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CASES)
def test_scan_vjp(name):
    fun, args = CASES[name]
    args = [jnp.asarray(x, jnp.float64) for x in args]
    want = gradients(jax, fun, args)
    for hoist in (None, True, False) if name in HOISTING else (None,):
        assert_close(gradients(fb, fun, args, hoist=hoist), want, 1e-12, f"hoist={hoist}")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["plain", "nested three deep", "cond inside", "forwarded"])
def test_scan_second_order_and_vmap(name):
    fun, args = CASES[name]
    check_vjp(jax.jit(fun), *args, dtypes=("float64",), batched=name != "nested three deep")


def equation_names(closed):
    return [e.primitive.name for e in closed.jaxpr.eqns]


def scan_bodies(fun, *args):
    """The bodies of the scans of a program, in order."""
    return [e.params["jaxpr"] for e in jax.make_jaxpr(fun)(*args).jaxpr.eqns if e.primitive.name == "scan"]


def test_dead_work_is_not_done():
    """A carry that no output needs, or no input reaches, adds no equation to the reverse body."""

    def lean(w, h, xs):
        def step(carry, x):
            constant, h = carry
            return (constant * 0.5, cell(w, h, x) * constant), None

        return jax.lax.scan(step, (jnp.float32(1.0), h), xs)[0][1]

    def reverse_body(fun):
        args = [jnp.asarray(x, jnp.float32) for x in (W, H0, XS)]
        return scan_bodies(fb.grad(lambda *a: fun(*a).sum()), *args)[-1]

    wasteful, necessary = reverse_body(dead_carry), reverse_body(lean)
    assert equation_names(wasteful) == equation_names(necessary)


def test_hoisting_takes_the_product_out_of_the_loop():
    args = [jnp.asarray(x, jnp.float32) for x in (W, H0, XS)]

    def products(hoist):
        def gradient(*args):
            value, pullback = fb.vjp(no_ys, *args, hoist=hoist)
            return pullback(jnp.ones_like(value))

        closed = jax.make_jaxpr(gradient)(*args)
        inside = equation_names(scan_bodies(gradient, *args)[-1]).count("dot_general")
        return inside, equation_names(closed).count("dot_general")

    assert products(True) == (1, 1)  # the carry's cotangent stays, the weight's leaves
    assert products(False) == (2, 0)


def stacked_floats(fun, *args):
    """Floats stacked by the forward scan beside its own outputs, per step."""
    forward = [e for e in jax.make_jaxpr(fb.grad(fun))(*args).jaxpr.eqns if e.primitive.name == "scan"][0]
    return sum(v.aval.size // v.aval.shape[0] for v in forward.outvars if v.aval.ndim and v.aval.shape[0] == len(XS))


def test_elementwise_chains_are_computed_again():
    """Of a chain of elementwise functions one array is stacked, whatever its length."""

    def chain(w, h, xs):
        def step(h, x):
            z = h @ w + x
            for _ in range(5):
                z = jnp.sin(z) * jnp.cos(z) + jnp.tanh(z)
            return z, None

        return jax.lax.scan(step, h, xs)[0].sum()

    args = [jnp.asarray(x, jnp.float32) for x in (W, H0, XS)]
    assert stacked_floats(chain, *args) == 2 * H0.size  # the carry, for the product, and the product


def chains(w, h, xs):
    """Three products and the elementwise functions between them."""

    def step(h, x):
        z = jnp.tanh(jnp.sin(h @ w + x) * h)
        return jnp.sin(jnp.tanh(z @ w) @ w) + jnp.cos(h), jnp.sum(z)

    return jax.lax.scan(step, h, xs)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("budget", [1.0, 0.5, 0.2, 5 * 6 * 8 * 2])
def test_budget(budget):
    """Within any budget that can be kept, the same gradient, and no more stacked than allowed."""
    args = [jnp.asarray(x, jnp.float64) for x in (W, H0, XS)]
    assert_close(gradients(fb, chains, args, budget=budget), gradients(jax, chains, args), 1e-12)

    def stacked(budget):
        def loss(*args):
            return sum(map(jnp.sum, chains(*args)))

        gradient = fb.grad(loss, budget=budget)
        forward = [e for e in jax.make_jaxpr(gradient)(*args).jaxpr.eqns if e.primitive.name == "scan"][0]
        residuals = forward.outvars[2:]  # after the carry and the ys
        return 8 * sum(v.aval.size for v in residuals)

    everything = stacked(1.0)
    allowed = budget * everything if budget <= 1 else budget
    assert stacked(budget) <= allowed and stacked(None) < everything


def test_a_budget_that_cannot_be_kept():
    args = [jnp.asarray(x, jnp.float32) for x in (W, H0, XS)]
    with pytest.raises(ValueError, match=r"must save at least 120 bytes .* but the budget is 100"):
        fb.vjp(chains, *args, budget=100)
    with pytest.raises(ValueError, match="budget must be bytes"):
        fb.vjp(chains, *args, budget=-1)
    with pytest.raises(TypeError, match="unexpected option 'bugdet'; the options are"):
        fb.vjp(chains, *args, bugdet=100)


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


# ---------------------------------------------------------------- while


def while_rnn(w, h, steps):
    def step(state):
        i, h = state
        return i + 1, cell(w, h, 0.1)

    return jax.lax.while_loop(lambda state: state[0] < steps, step, (0, h))[1]


def scan_rnn(w, h, steps):
    return jax.lax.scan(lambda h, _: (cell(w, h, 0.1), None), h, None, length=steps)[0]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("checkpoints", [1, 2, 5, 64])
def test_while_vjp(checkpoints):
    """Any trip count, with any number of checkpoints, by one compiled function."""

    @jax.jit
    def gradient(w, h, steps):
        value, pullback = fb.vjp(lambda w, h: while_rnn(w, h, steps), w, h, checkpoints=checkpoints)
        return value, pullback(jnp.cos(value))

    for steps in (0, 1, 2, 3, 7, 20):
        value, pullback = jax.vjp(lambda w, h: scan_rnn(w, h, steps), W, H0)  # noqa: B023
        assert_close(gradient(W, H0, steps), (value, pullback(jnp.cos(value))), 1e-12, f"{steps} steps")
    assert gradient._cache_size() == 1


@pytest.mark.usefixtures("x64")
def test_while_under_vmap_scan_and_itself():
    def loss(h, steps):
        return jnp.sum(while_rnn(W, h, steps))

    steps = jnp.array([3, 0, 6])
    got = jax.jit(jax.vmap(fb.grad(loss), in_axes=(None, 0)))(H0, steps)
    want = [jax.grad(lambda h: jnp.sum(scan_rnn(W, h, int(n))))(H0) for n in steps]  # noqa: B023
    assert_close(got, jnp.stack(want), 1e-12)

    def scanned(h, inner):
        return jnp.sum(jax.lax.scan(lambda h, _: (inner(W, h, 3), None), h, None, length=2)[0])

    got, want = (f(H0) for f in (fb.grad(lambda h: scanned(h, while_rnn)), jax.grad(lambda h: scanned(h, scan_rnn))))
    assert_close(got, want, 1e-12)

    def nested(h, inner, outer):
        return jnp.sum(outer(lambda h: inner(W, h, 2), h))

    def twice_while(f, h):
        return jax.lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, f(s[1])), (0, h))[1]

    got = fb.grad(lambda h: nested(h, while_rnn, twice_while))(H0)
    want = jax.grad(lambda h: nested(h, scan_rnn, lambda f, h: f(f(h))))(H0)
    assert_close(got, want, 1e-12)
    got = fb.grad(lambda h: jnp.sum(fb.grad(lambda h: jnp.sum(while_rnn(W, h, 3) ** 2))(h) ** 2))(H0)
    want = jax.grad(lambda h: jnp.sum(jax.grad(lambda h: jnp.sum(scan_rnn(W, h, 3) ** 2))(h) ** 2))(H0)
    assert_close(got, want, 1e-11)


@pytest.mark.usefixtures("x64")
def test_fori_loop_with_a_dynamic_bound():
    def power(x, n):
        return jax.lax.fori_loop(0, n, lambda i, y: y * x + i.astype(x.dtype), jnp.ones_like(x))

    def unrolled(x):
        y = jnp.ones_like(x)
        for i in range(6):
            y = y * x + i
        return y

    got = jax.jit(fb.grad(power))(1.1, 6)
    assert_close(got, jax.grad(unrolled)(1.1), 1e-12)
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.grad(power)(1.1, 6)


@pytest.mark.usefixtures("x64")
def test_newton_until_convergence():
    """d sqrt(a)/da through the iterations of Newton's method."""

    def root(a):
        def step(state):
            x, _ = state
            new = 0.5 * (x + a / x)
            return new, jnp.abs(new - x)

        return jax.lax.while_loop(lambda s: s[1] > 1e-12, step, (a, jnp.ones_like(a)))[0]

    assert_close(fb.grad(root)(7.0), jnp.asarray(0.5 / np.sqrt(7.0)), 1e-9)
