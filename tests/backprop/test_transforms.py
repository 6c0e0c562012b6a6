"""`fb.vjp` and its kin against JAX's: values, structures, composition and error messages."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb

from ..rules.checking import assert_close

X = jnp.linspace(0.1, 1.0, 6).reshape(2, 3)


def quadratic(x, y):
    return jnp.sum(jnp.sin(x) * y) + jnp.sum(x * x * x)


def tree_loss(params, scale=1.0):
    return scale * sum(jnp.sum(jnp.tanh(leaf)) for leaf in jax.tree.leaves(params))


TREE = {"w": [X, (X[0],)], "none": None, "b": jnp.float32(2.0)}


@pytest.mark.parametrize("argnums", [0, 1, -1, (0,), (0, 1), (1, 0), (0, -1)])
def test_argnums(argnums):
    args = X, X + 1
    got, want = (lib.value_and_grad(quadratic, argnums)(*args) for lib in (fb, jax))
    assert_close(got, want, 1e-6)


def test_pytrees_keyword_arguments_and_static_arguments():
    got, want = (lib.grad(tree_loss)(TREE, scale=3.0) for lib in (fb, jax))
    assert_close(got, want, 1e-6)

    def power(x, n):  # n stays a Python int
        for _ in range(n):
            x = x * x
        return x.sum()

    assert_close(fb.grad(power)(X, 3), jax.grad(power)(X, 3), 1e-6)


def test_has_aux_may_hold_anything():
    def fun(x):
        return jnp.sum(x * x), {"y": x + 1, "name": "aux", "none": None, "number": 3}

    for transform in ("grad", "value_and_grad"):
        got, want = (getattr(lib, transform)(fun, has_aux=True)(X) for lib in (fb, jax))
        arrays = [[x for x in jax.tree.leaves(t) if isinstance(x, jax.Array)] for t in (got, want)]
        assert_close(*arrays, 1e-6)
        assert str(jax.tree.structure(got)) == str(jax.tree.structure(want))
    value, pullback, aux = fb.vjp(fun, X, has_aux=True)
    assert aux["name"] == "aux"
    assert_close(pullback(jnp.ones_like(value))[0], 2 * X, 1e-6)


def test_python_scalars_and_numpy_arrays():
    for x in (2.0, np.float32(2.0), np.array([1.0, 2.0], np.float32)):
        assert_close(fb.grad(lambda x: jnp.sum(x * x * x))(x), jax.grad(lambda x: jnp.sum(x * x * x))(x), 1e-6)


def test_integers_get_float0():
    def fun(x, i):
        return x * jnp.asarray(i, x.dtype)

    got, want = (lib.vjp(fun, jnp.float32(3.0), 2)[1](jnp.float32(1.0)) for lib in (fb, jax))
    assert got[1].dtype == jax.dtypes.float0 == want[1].dtype
    assert got[0] == want[0]
    got, want = (lib.grad(fun, argnums=1, allow_int=True)(jnp.float32(3.0), 2) for lib in (fb, jax))
    assert got.dtype == want.dtype == jax.dtypes.float0


def test_integer_output_takes_a_float0_cotangent():
    def fun(x):
        return x * 2, jnp.int32(3)

    cotangent = (jnp.float32(1.5), np.zeros((), jax.dtypes.float0))
    got, want = (lib.vjp(fun, jnp.float32(1.0))[1](cotangent) for lib in (fb, jax))
    assert_close(got, want, 1e-6)


def test_prng_keys_pass_through():
    def fun(x, key):
        return jnp.sum(x * jax.random.normal(key, x.shape))

    key = jax.random.key(3)
    assert_close(fb.grad(fun)(X, key), jax.grad(fun)(X, key), 1e-6)


def test_holomorphic():
    z = jnp.asarray(0.3 + 0.7j)
    for transform in ("grad", "jacrev"):
        got, want = (getattr(lib, transform)(lambda z: jnp.sin(z) * z, holomorphic=True)(z) for lib in (fb, jax))
        assert_close(got, want, 1e-6)


def test_output_that_does_not_depend_on_the_input():
    assert_close(fb.grad(lambda x: jnp.float32(3.0))(X), jnp.zeros_like(X), 1e-6)
    assert_close(fb.grad(lambda x: jax.lax.stop_gradient(x).sum())(X), jnp.zeros_like(X), 1e-6)


def test_output_that_is_an_input_twice():
    ct = (X, 2 * X)
    assert_close(fb.vjp(lambda x: (x, x), X)[1](ct), (3 * X,), 1e-6)


def test_empty_outputs_and_inputs():
    value, pullback = fb.vjp(lambda x: (), X)
    assert value == ()
    assert_close(pullback(()), (jnp.zeros_like(X),), 1e-6)
    assert fb.grad(lambda p: jnp.float32(1.0))({}) == {}


# ---------------------------------------------------------------- jacobians


@pytest.mark.usefixtures("x64")
def test_jacrev_and_hessian():
    def fun(p):
        return {"a": jnp.sin(p["w"]) * p["b"], "c": jnp.sum(p["w"] ** 2) * p["b"]}

    p = {"w": jnp.asarray(X, jnp.float64), "b": jnp.float64(1.5)}
    assert_close(fb.jacrev(fun)(p), jax.jit(jax.jacrev(fun))(p), 1e-12)
    assert_close(jax.jit(fb.hessian(fun))(p), jax.jit(jax.hessian(fun))(p), 1e-12)

    def two(x, y):
        return jnp.outer(jnp.sin(x), y * y)

    x, y = jnp.linspace(0.0, 1.0, 3), jnp.linspace(1.0, 2.0, 2)
    for argnums in (0, 1, (0, 1)):
        ours, theirs = (
            jax.jit(lambda x, y, lib=lib, i=argnums: (lib.jacrev(two, i)(x, y), lib.hessian(two, i)(x, y)))(x, y)
            for lib in (fb, jax)
        )
        assert_close(ours, theirs, 1e-12)
    with_aux = fb.jacrev(lambda x: (jnp.sin(x), x + 1), has_aux=True)(x)
    assert_close(with_aux, jax.jacrev(lambda x: (jnp.sin(x), x + 1), has_aux=True)(x), 1e-12)

    def scaled(x, i):
        return x * i.astype(x.dtype)

    got, want = (lib.jacrev(scaled, (0, 1), allow_int=True)(x, jnp.arange(3)) for lib in (fb, jax))
    assert_close(got[0], want[0], 1e-12)


def test_jacobians_of_integers_are_integer_zeros():
    def fun(x, i):
        return {"a": x * i.sum().astype(x.dtype), "b": jnp.sum(x)}

    x = jnp.linspace(0.0, 1.0, 3)
    for i in (jnp.arange(3), jnp.arange(3, dtype=jnp.uint8), np.arange(2), jnp.asarray(2)):
        for form in (lambda f: f, jax.jit, lambda f: lambda *args: jax.vmap(f)(*(a[None] for a in args))):
            got, want = (form(lib.jacrev(fun, (0, 1), allow_int=True))(x, i) for lib in (fb, jax))
            assert typed(got) == typed(want)
            jax.tree.map(np.testing.assert_array_equal, got, want)
    got, want = (lib.jacrev(lambda x, i: x * i, (0, 1), allow_int=True)(2.0, 3) for lib in (fb, jax))
    assert typed(got) == typed(want)
    keys = fb.jacrev(lambda k, x: x * jax.random.normal(k), allow_int=True)(jax.random.key(0), x)  # refused by JAX
    assert keys.dtype == jax.dtypes.float0 and keys.shape == (3,)


# ---------------------------------------------------------------- composition


def scalar(x):
    return jnp.sin(x) * x * x


def nested(x):
    def step(c, t):
        return jnp.tanh(c * x) + t, c * t

    carry, ys = jax.lax.scan(jax.checkpoint(step), x, jnp.linspace(0.0, 1.0, 4, dtype=jnp.result_type(x)))
    return jax.jit(scalar)(carry) + ys.sum() + jax.lax.cond(x > 0.2, jnp.sin, jnp.cos, x)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("fun", [scalar, nested])
def test_composes_with_jax(fun):
    """Inside and around jit, vmap, scan, checkpoint, jvp, and itself."""
    x, xs = jnp.float64(0.7), jnp.linspace(0.1, 1.0, 3)

    def scanned(lib):
        return lambda x: jax.lax.scan(lambda c, _: (c - 0.1 * lib.grad(fun)(c), c), x, None, length=3)

    programs = {
        "grad": lambda lib: lib.grad(fun)(x),
        "jit": lambda lib: jax.jit(lib.grad(fun))(x),
        "grad of jit": lambda lib: lib.grad(jax.jit(fun))(x),
        "vmap": lambda lib: jax.vmap(lib.grad(fun))(xs),
        "grad of vmap": lambda lib: lib.grad(lambda x: jax.vmap(fun)(x).sum())(xs),
        "scan": lambda lib: scanned(lib)(x),
        "checkpoint": lambda lib: lib.grad(jax.checkpoint(fun))(x),
        "twice": lambda lib: lib.grad(lib.grad(fun))(x),
        "three times": lambda lib: lib.grad(lib.grad(lib.grad(fun)))(x),
        "grad of scanned": lambda lib: lib.grad(lambda x: scanned(lib)(x)[0])(x),
        "forward over reverse": lambda lib: jax.jvp(lib.grad(fun), (x,), (jnp.float64(1.0),)),
        "jit vmap jit": lambda lib: jax.jit(jax.vmap(jax.jit(lib.value_and_grad(fun))))(xs),
        "hessian under vmap": lambda lib: jax.vmap(lib.hessian(fun))(xs),
    }
    ours, theirs = (
        jax.jit(lambda lib=lib: {name: program(lib) for name, program in programs.items()})() for lib in (fb, jax)
    )
    assert_close(ours, theirs, 1e-11)
    # Eager; JAX's reverse mode over ours, and ours over JAX's: either may differentiate the other's program.
    assert_close(fb.grad(fun)(x), theirs["grad"], 1e-11)
    assert_close(jax.jit(jax.grad(fb.grad(fun)))(x), theirs["twice"], 1e-11)
    assert_close(jax.jit(fb.grad(jax.grad(fun)))(x), theirs["twice"], 1e-11)


def test_closed_over_tracers():
    def outer(w, x):
        return fb.grad(lambda x: jnp.sum(jnp.tanh(x * w)))(x)

    def theirs(w, x):
        return jax.grad(lambda x: jnp.sum(jnp.tanh(x * w)))(x)

    w = X + 1
    assert_close(jax.jit(outer)(w, X), theirs(w, X), 1e-6)
    assert_close(jax.vmap(outer)(w, X), jax.vmap(theirs)(w, X), 1e-6)
    got, want = fb.grad(lambda w: outer(w, X).sum())(w), fb.grad(lambda w: theirs(w, X).sum())(w)
    assert_close(got, want, 1e-5)


def test_pullback_is_a_pytree_and_crosses_jit():
    value, pullback = jax.jit(lambda x: fb.vjp(jnp.sin, x))(X)
    assert_close(pullback(X)[0], X * jnp.cos(X), 1e-6)
    assert_close(jax.jit(lambda p, ct: p(ct))(pullback, X)[0], X * jnp.cos(X), 1e-6)
    assert_close(value, jnp.sin(X), 1e-6)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(pullback))


def test_equal_layers_are_traced_once():
    """24 calls of one jitted layer: its rules run once in the forward and once in the backward."""
    calls = []

    @jax.custom_jvp
    def probe(x):
        return jnp.sin(x)

    @probe.defjvp
    def probe_jvp(primals, tangents):
        calls.append(1)
        return probe(*primals), jnp.cos(primals[0]) * tangents[0]

    @jax.jit
    def layer(x):
        for _ in range(3):
            x = probe(x) * x + 1
        return x

    def deep(depth):
        def fun(x):
            for _ in range(depth):
                x = layer(x)
            return x.sum()

        return fun

    jax.make_jaxpr(fb.grad(deep(1)))(X)
    once = len(calls)
    jax.make_jaxpr(fb.grad(deep(24)))(X)
    assert len(calls) == once > 0


@chex.assert_max_traces(n=1)
def _traced_once(x):
    return jnp.sum(jnp.tanh(x) * x)


def test_one_compilation():
    step = jax.jit(fb.value_and_grad(_traced_once))
    for scale in (1.0, 2.0, 3.0):
        step(X * scale)


# ---------------------------------------------------------------- errors


def both_raise(call, *, match=None):
    """Our error has JAX's type, and JAX's words unless others are given."""
    with pytest.raises(Exception) as theirs:
        call(jax)
    with pytest.raises(type(theirs.value)) as ours:
        call(fb)
    if match is None:  # JAX's later version says more, and so do we
        said, expected = (str(error.value).split("\n")[0].rstrip(".") for error in (ours, theirs))
        assert said.startswith(expected)
    else:
        assert match in str(ours.value)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda lib: lib.grad(jnp.sin)(X), id="loss with a shape"),
        pytest.param(lambda lib: lib.grad(lambda x: x)(1), id="integer input"),
        pytest.param(lambda lib: lib.grad(lambda x: x)(True), id="boolean input"),
        pytest.param(lambda lib: lib.grad(lambda x: x)(jax.random.key(0)), id="key input"),
        pytest.param(lambda lib: lib.grad(lambda x: jnp.int32(1))(1.0), id="integer loss"),
        pytest.param(lambda lib: lib.grad(lambda x: x * (1 + 1j))(jnp.complex64(1.0)), id="complex loss"),
        pytest.param(lambda lib: lib.grad(lambda x: x, holomorphic=True)(1.0), id="holomorphic of real"),
        pytest.param(lambda lib: lib.grad(jnp.real, holomorphic=True)(1j), id="holomorphic to real"),
        pytest.param(lambda lib: lib.grad(scalar, argnums=1)(1.0), id="argnums out of range"),
        pytest.param(lambda lib: lib.grad(scalar, argnums=(0, 2))(1.0), id="argnums tuple out of range"),
        pytest.param(lambda lib: lib.grad(scalar, argnums=-2)(1.0), id="negative argnums out of range"),
        pytest.param(lambda lib: lib.grad(3), id="not callable"),
        pytest.param(lambda lib: lib.jacrev(lambda x: x)(1), id="jacrev integer input"),
        pytest.param(lambda lib: lib.jacrev(lambda x: jnp.int32(1))(1.0), id="jacrev integer output"),
        pytest.param(lambda lib: lib.vjp(jnp.sin, 1.0)[1](jnp.ones(3)), id="cotangent of another shape"),
        pytest.param(lambda lib: lib.vjp(jnp.sin, X)[1](jnp.ones((2, 3), jnp.int32)), id="cotangent of another dtype"),
        pytest.param(lambda lib: lib.vjp(jnp.sin, 1.0)[1]((1.0, 2.0)), id="cotangent of another structure"),
    ],
)
def test_errors_are_jax_s(call):
    both_raise(call)


def test_errors_with_our_words():
    both_raise(lambda lib: lib.grad(lambda x: (x, x))(1.0), match="scalar-output functions. Output was (")
    both_raise(
        lambda lib: lib.grad(lambda x: x, has_aux=True)(1.0), match="must return a two-element tuple (output, aux)"
    )
    both_raise(lambda lib: lib.vjp(lambda x: (x, x), 1.0)[1](1.0, 2.0), match="takes one argument")
    both_raise(lambda lib: lib.grad(lambda x: x)("text"), match="not a valid JAX type")


# ---------------------------------------------------------------- Python control flow on values


def converge(x):
    while jnp.abs(x * x - 2.0) > 1e-3:
        x = x - (x * x - 2.0) / (2.0 * x)
    return x


def branch(x):
    return jnp.sin(x) * 2 if x > 0 else jax.nn.softplus(-x)


def index(x):
    table = [jnp.sin, jnp.cos, jnp.tanh]
    return table[int(x * 2)](x)


@jax.custom_vjp
def tripled(x):
    return 3 * x


tripled.defvjp(lambda x: (3 * x, None), lambda _, ct: (3 * ct,))


@jax.custom_jvp
def doubled(x, n):
    return 2 * x


doubled.defjvp(lambda primals, tangents: (2 * primals[0], 2 * tangents[0]))


def custom(x):
    return tripled(x) * doubled(x, 3) if tripled(x) > 1 else jax.nn.relu(x) * jax.jit(jnp.sin)(doubled(x, 2))


def constants(x):
    """Numbers and keys that are made in the function, and `jnp.asarray` of the value itself."""
    noise = jax.random.normal(jax.random.key(int(x)), (3,))
    scale = jnp.asarray([np.float64(0.5), 2.0, jnp.asarray(x)])
    return jnp.sum(jnp.sin(scale * jnp.asarray(x)) * noise) if x > 0.5 else x * scale[1]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("fun", [converge, branch, index, custom, constants], ids=lambda f: f.__name__)
@pytest.mark.parametrize("x", [1.2, 0.3])
def test_python_control_flow(fun, x):
    assert_close(fb.grad(fun)(x), jax.grad(fun)(x), 1e-12)
    assert_close(fb.value_and_grad(fun)(x), jax.value_and_grad(fun)(x), 1e-12)
    assert_close(fb.grad(fb.grad(fun))(x), jax.grad(jax.grad(fun))(x), 1e-12)


def test_printing_shows_numbers(capsys):
    """With `eager=True`, and once: what a print or a debugger in the function sees are the values."""

    def fun(x, params):
        print(x, params["w"])
        return jnp.sum(jnp.sin(x) * params["w"])

    w = {"w": jnp.asarray([2.0, 3.0])}
    got = fb.grad(fun, argnums=(0, 1), eager=True)(0.5, w)
    printed = capsys.readouterr().out.strip().split("\n")
    assert len(printed) == 1 and "0.5" in printed[0] and "[2. 3.]" in printed[0]
    assert_close(got, jax.grad(fun, argnums=(0, 1))(0.5, w), 1e-6)


def test_a_boolean_mask_by_value():
    def fun(x):
        return jnp.sum(x[x > 0.5] ** 2)

    assert_close(fb.grad(fun)(X), jax.grad(fun)(X), 1e-6)


def test_eager_pullback_is_a_pytree():
    pullback = fb.vjp(branch, 0.3)[1]
    assert_close(jax.jit(lambda p: p(1.0))(pullback), pullback(1.0), 1e-6)


def test_values_inside_jit_stay_an_error():
    with pytest.raises(jax.errors.TracerBoolConversionError, match="branch"):
        jax.jit(fb.grad(branch))(0.3)


# ---------------------------------------------------------------- types as JAX's


def typed(tree):
    return jax.tree.map(lambda x: (type(x) if not isinstance(x, jax.Array) else jax.Array, str(jax.typeof(x))), tree)


def test_constants_are_arrays_and_numbers_stay_numbers():
    """Among outputs and aux: what JAX gives back, `jnp.array(...)` of the function as a jax array."""

    def fun(x):
        return (jnp.array([1.0, 2.0]), 3.0, 5, np.ones(2, np.float32), x * 2), (jnp.array([1, 2]), 4.0, "name", x)

    got, want = (lib.vjp(fun, jnp.asarray(2.0), has_aux=True) for lib in (fb, jax))
    names = lambda tree: jax.tree.map(lambda x: x if isinstance(x, str) else typed(x), tree)  # noqa: E731
    assert names((got[0], got[2])) == names((want[0], want[2]))
    assert typed(fb.jacrev(lambda x: jnp.array([1.0, 2.0]))(1.0)) == typed(jax.jacrev(lambda x: jnp.ones(2))(1.0))


def test_a_function_without_a_differentiable_path():
    for name in ("grad", "value_and_grad", "jacrev", "hessian"):
        for fun in (lambda x: 3.0, lambda x: jnp.float32(2), lambda x: x.astype(int).astype(x.dtype)):
            for x in (jnp.float32(1.0), jnp.asarray(1.0)):
                got, want = (getattr(lib, name)(fun)(x) for lib in (fb, jax))
                assert got == want and typed(got) == typed(want), name


@pytest.mark.parametrize("ct", [1, np.zeros((), jax.dtypes.float0), jnp.int32(1), jnp.float32(1)], ids=str)
def test_cotangents_of_integer_outputs(ct):
    """JAX takes them in any dtype, and leaves them aside."""
    fun = lambda x: (x * 2, x.astype(int))  # noqa: E731
    got, want = (lib.vjp(fun, jnp.float32(2.0))[1]((jnp.float32(3.0), ct)) for lib in (fb, jax))
    assert got == want
    with pytest.raises(ValueError, match="expected float0"):
        fb.vjp(fun, jnp.float32(2.0))[1]((jnp.float32(3.0), jnp.ones(2, int)))
