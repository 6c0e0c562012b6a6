"""The user's own derivative rules: custom_jvp, custom_vjp, custom_lin, linear_call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.custom_derivatives import linear_call

import fnbackprop as fb

from ..checking import assert_close, check_agreement, check_numeric, check_vjp, random_cotangent

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(3,)), RNG.normal(size=(3,))
pytestmark = pytest.mark.usefixtures("x64")


# ---------------------------------------------------------------- custom_jvp


@jax.custom_jvp
def twisted(x, y):
    """Its derivative is on purpose not the function's own."""
    return x * y, jnp.sin(x)


@twisted.defjvp
def twisted_jvp(primals, tangents):
    x, y = primals
    dx, dy = tangents
    return twisted(x, y), (7 * dx * jnp.cos(y) + 5 * dy, dx / 3 - dy * x)


def test_custom_jvp_vjp():
    check_agreement(twisted, X, Y)
    check_agreement(lambda x: twisted(x, jnp.ones(3)), X)
    check_agreement(jax.vmap(twisted), X, Y)
    check_agreement(lambda x, y: jax.grad(lambda x: twisted(x, y)[0].sum())(x), X, Y)
    check_vjp(lambda x, y: twisted(x, y)[0], X, Y, dtypes=("float64", "float32"))


def test_custom_jvp_with_symbolic_zeros():
    @jax.custom_jvp
    def fun(x, y):
        return x * y

    def fun_jvp(primals, tangents):
        assert type(tangents[1]) is jax.custom_derivatives.SymbolicZero
        return fun(*primals), tangents[0] * primals[1] * 11

    fun.defjvp(fun_jvp, symbolic_zeros=True)
    check_agreement(lambda x: fun(x, jnp.full(3, 2.0)), X)


def test_custom_jvp_of_integers_and_closures():
    scale = jnp.asarray(2.0)

    @jax.custom_jvp
    def fun(x, n):
        return x * n * scale, n + 1

    @fun.defjvp
    def fun_jvp(primals, tangents):
        x, n = primals
        return fun(x, n), (3 * n * tangents[0], np.zeros((), jax.dtypes.float0))

    check_agreement(lambda x: fun(x, 4)[0], X)


@jax.custom_jvp
def rounded_by_jvp(x):
    """A straight-through estimator: a derivative by the user's word, of a function that has none."""
    return jnp.round(x), jnp.ones_like(x)


rounded_by_jvp.defjvp(lambda primals, tangents: (rounded_by_jvp(*primals), (3 * tangents[0], 2 * tangents[0])))


@pytest.mark.parametrize("name", ["jvp", "vjp"])
def test_straight_through_estimators(name):
    rounded = {"jvp": rounded_by_jvp, "vjp": rounded_by_vjp}[name]
    check_agreement(rounded, X)
    check_agreement(lambda x: rounded(rounded(x)[0] * x)[1] * x, X)
    check_agreement(lambda x: jax.lax.scan(lambda c, x: (c + rounded(x * c)[0], None), 1.3, x)[0], X)


def test_custom_jvp_of_zero():
    """Its outputs are those that the JVP computes, and have the second derivative of these, as in JAX."""
    fun = jax.custom_jvp(lambda x: x * x)
    fun.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), jnp.zeros_like(tangents[0])))
    got, want = (lib.grad(lib.grad(lambda x: fun(x) * x))(0.4) for lib in (fb, jax))
    assert got == want == pytest.approx(np.cos(0.4))


@jax.custom_jvp
def triple(x):
    return 3 * x


triple.defjvp(lambda primals, tangents: (triple(*primals), triple(*tangents)))


@jax.custom_jvp
def fourfold(x):
    return 4 * x


fourfold.defjvp(lambda primals, tangents: (fourfold(*primals), 5 * tangents[0]))


@jax.custom_jvp
def by_fourfold(x):
    return 3 * x


by_fourfold.defjvp(lambda primals, tangents: (by_fourfold(*primals), 3 * jax.jit(fourfold)(*tangents)))


@pytest.mark.parametrize("fun", [triple, by_fourfold])
def test_a_jvp_that_applies_a_custom_jvp_function_to_tangents(fun):
    """Such a function is linear, and itself transposed: its rule has no say."""
    check_agreement(fun, X)
    check_agreement(jax.vmap(fun), X)
    check_agreement(jax.checkpoint(lambda x: fun(jnp.sin(x))), X)
    check_agreement(lambda x: jax.lax.scan(lambda c, x: (fun(x * c), None), 1.3, x)[0], X)
    check_agreement(lambda x: fb.grad(lambda x: (fun(x) ** 3).sum())(x), X)
    assert fb.grad(by_fourfold)(1.0) == 12


def test_custom_lin_vjp():
    """A user's JVP that calls `jax.jvp` on a custom_vjp function: the transpose of that JVP is the user's backward."""

    def both(x, y):
        once = clipped(x, jnp.sin(y))
        return clipped(once[0], x)[0] * once[1]

    fun = jax.custom_jvp(both)
    fun.defjvp(lambda primals, tangents: jax.jvp(jax.jit(both), primals, tangents))
    check_agreement(fun, X, Y)
    check_agreement(lambda x: fun(x, Y), X)
    check_agreement(lambda x, y: fb.grad(lambda x: fun(x, y).sum())(x), X, Y)
    with pytest.raises(TypeError, match="can't apply forward-mode"):
        fb.vjp(lambda x: jax.jvp(lambda x: clipped(x, x)[0], (x,), (x,))[1], jnp.asarray(X))


@pytest.mark.parametrize(
    "name",
    "relu relu6 gelu silu softplus sigmoid log_sigmoid elu celu selu mish leaky_relu hard_tanh logsumexp softmax "
    "log_softmax standardize squareplus sparse_plus glu".split()
)  # fmt: skip
def test_jax_nn(name):
    check_agreement(getattr(jax.nn, name), RNG.normal(size=(4,)))


def test_custom_jvp_of_no_use_of_what_is_mapped():
    """JAX records such a function under vmap as one of another shape; it runs on values instead, under jit too."""

    @jax.custom_jvp
    def second(x, y):
        return y

    second.defjvps(lambda t, z, x, y: 2.0 * t * z, None)
    fun = jax.vmap(second, in_axes=(0, None))
    x, ct = jnp.ones((2, 3)), jnp.arange(6.0).reshape(2, 3)
    expected = jax.vjp(fun, x, Y)[1](ct)
    assert_close(fb.vjp(fun, x, Y)[1](ct), expected, 1e-12)
    assert_close(jax.jit(lambda x, y: fb.vjp(fun, x, y)[1](ct))(x, Y), expected, 1e-12)


# ---------------------------------------------------------------- custom_vjp


@jax.custom_vjp
def clipped(x, y):
    return x * y, jnp.cos(y)


clipped.defvjp(
    lambda x, y: (clipped(x, y), (x, y)),
    lambda saved, cts: (jnp.clip(cts[0] * saved[1], -0.1, 0.1), cts[1] * saved[0] * 13),
)


@jax.custom_vjp
def rounded_by_vjp(x):
    return jnp.round(x), jnp.ones_like(x)


rounded_by_vjp.defvjp(lambda x: (rounded_by_vjp(x), None), lambda _, cts: (3 * cts[0] + 2 * cts[1],))


def test_custom_vjp_vjp():
    check_agreement(clipped, X, Y)
    check_agreement(lambda x, y: clipped(x, y)[1], X, Y)
    check_agreement(jax.vmap(clipped), X, Y)
    check_agreement(jax.jit(lambda x, y: clipped(x * y, y)[0]), X, Y)
    check_agreement(lambda x, y: fb.grad(lambda x: clipped(x, y)[0].sum())(x) * x, X, Y)
    check_agreement(lambda x: jax.lax.scan(lambda c, _: (clipped(c, jnp.ones(3))[0], None), x, None, length=3)[0], X)


def test_custom_vjp_of_integers_none_and_nondiff_argnums():
    def fun(kind, x, n):
        return x * 3, n

    fun = jax.custom_vjp(fun, nondiff_argnums=(0,))
    fun.defvjp(lambda kind, x, n: ((x * 3, n), None), lambda kind, saved, cts: (cts[0] * 3 * kind, None))
    check_agreement(lambda x: fun(5.0, x, 3)[0], X)


def test_a_backward_may_return_numbers_and_is_given_arrays():
    """A constant of the function reaches the user's rules as a jax array, with `.at`; 0.0 is a cotangent."""

    @jax.custom_vjp
    def scaled(x, times, y):
        return x * times.sum() * y

    def backward(residuals, ct):
        x, times, y = residuals
        return ct * times.at[0].set(3.0).sum(), jnp.zeros_like(times), 0.0

    scaled.defvjp(lambda x, times, y: (scaled(x, times, y), (x, times, y)), backward)
    fun = lambda x, y: scaled(x, jnp.array([1.0, 2.0]), y)  # noqa: E731
    for grad in (fb.grad(fun, (0, 1)), jax.jit(fb.grad(fun, (0, 1))), fb.grad(fun, (0, 1), eager=True)):
        assert tuple(map(float, grad(2.0, 3.0))) == (5.0, 0.0)


def test_custom_vjp_with_symbolic_zeros():
    @jax.custom_vjp
    def fun(x, y):
        return x * y, x + y

    def forward(x, y):
        assert x.perturbed and not y.perturbed
        return (x.value * y.value, x.value + y.value), y.value

    def backward(y, cts):
        assert type(cts[1]) is jax.custom_derivatives.SymbolicZero
        return cts[0] * y * 17, None

    fun.defvjp(forward, backward, symbolic_zeros=True)
    assert_close(fb.grad(lambda x: fun(x, jnp.asarray(Y))[0].sum())(X), 17 * jnp.asarray(Y), 1e-12)


# ---------------------------------------------------------------- linear_call


def product(factor, x):
    return linear_call(lambda r, x: x * r, lambda r, ct: 3 * ct * r, factor, x)  # a transpose that is not the true one


def test_linear_call_vjp():
    x, y = jnp.asarray(X), jnp.asarray(Y)
    for fun in (lambda x: product(y, x), jax.jit(lambda x: product(y, x))):
        ct = random_cotangent(fun(x))
        assert_close(fb.vjp(fun, x)[1](ct), jax.vjp(fun, x)[1](ct), 1e-14)
    first = lambda lib: lambda x: lib.vjp(lambda x: product(y, x), x)[1](x * x)[0]  # noqa: E731
    assert_close(fb.vjp(first(fb), x)[1](y), jax.vjp(first(jax), x)[1](y), 1e-14)


def test_linear_call_vjp_of_its_residual_arguments():
    """JAX refuses these: numerically."""

    def fun(r, x):
        return linear_call(lambda r, x: x * jnp.sin(r), lambda r, ct: ct * jnp.sin(r), r, x)

    check_numeric(fun, X, Y)
    check_numeric(lambda r: fun(r, 2.0), X)
