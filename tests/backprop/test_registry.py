"""Rules: registered by anyone, declared by what they read, missing ones listed at once."""

import jax
import jax.experimental.sparse  # its primitives have rules
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils, xla_metadata  # noqa: F401  (they define primitives)
from jax.extend.core import Primitive, primitives
from jax.interpreters import batching, mlir

import fnbackprop as fb
from fnbackprop.backprop import registry


def new_primitive(name):
    """cos(x)·y as a primitive of its own, with an implementation and an abstract evaluation."""
    primitive = Primitive(name)
    primitive.def_impl(lambda x, y: jnp.cos(x) * y)
    primitive.def_abstract_eval(lambda x, y: jax.core.ShapedArray(x.shape, x.dtype))
    mlir.register_lowering(primitive, mlir.lower_fun(lambda x, y: jnp.cos(x) * y, multiple_results=False))
    return primitive


def test_a_user_s_rule():
    primitive = new_primitive("my_product")

    @fb.vjp_rule(primitive, "x, y -> z", wrt="x")
    def my_product_vjp_x(dz, x, y):
        return -dz * jnp.sin(x) * y

    @fb.vjp_rule(primitive, "x, y -> z", wrt="y")
    def my_product_vjp_y(dz, x):
        return dz * jnp.cos(x)

    def ours(x, y):
        return primitive.bind(x, y) * x

    def plain(x, y):
        return jnp.cos(x) * y * x

    for argnums in (0, 1, (0, 1)):
        got, want = fb.grad(ours, argnums)(0.3, 2.0), jax.grad(plain, argnums)(0.3, 2.0)
        np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(fb.grad(fb.grad(ours))(0.3, 2.0), jax.grad(jax.grad(plain))(0.3, 2.0), rtol=1e-5)


def test_a_rule_is_given_literals_as_jax_arrays():
    primitive, given = new_primitive("my_product_of_literals"), []

    @fb.vjp_rule(primitive, "x, *ys -> z")
    def my_product_vjp(dz, x, ys, active):
        given.extend([x, *ys])
        assert active == (True, False)
        return -dz * jnp.sin(x) * ys[0], None

    x = jnp.float32(0.3)
    for run in (fb.grad, lambda f: jax.jit(fb.grad(f)), lambda f: fb.grad(f, eager=True)):
        np.testing.assert_allclose(run(lambda x: primitive.bind(x, 2.0))(x), -2 * np.sin(0.3), rtol=1e-6)
    assert len(given) == 6 and all(isinstance(value, jax.Array) for value in given)


def elementwise_primitive(name, function):
    """A primitive of one operand, with an implementation, a lowering and a batching rule, and no rule."""
    primitive = Primitive(name)
    primitive.def_impl(function)
    primitive.def_abstract_eval(lambda x: jax.core.ShapedArray(x.shape, x.dtype))
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False))
    batching.defvectorized(primitive)
    return primitive


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_derivative(x64, dtype):
    """dy/dx of x³ is multiplied by the cotangent, also under jit and vmap, and in a second derivative."""
    primitive = elementwise_primitive("my_cube", lambda x: x * x * x)

    @fb.derivative(primitive)
    def my_cube_vjp(x):
        return 3.0 * x * x

    rng = np.random.default_rng(0)
    x, dy = (
        (rng.normal(size=5) + (1j * rng.normal(size=5) if dtype == np.complex128 else 0)).astype(dtype) for _ in "xy"
    )
    want = np.asarray(jax.vjp(lambda x: x * x * x, x)[1](dy)[0])
    pull = lambda x, dy: fb.vjp(primitive.bind, x)[1](dy)[0]  # noqa: E731
    for transform in (lambda f: f, jax.jit, jax.vmap):
        np.testing.assert_allclose(transform(pull)(x, dy), want, rtol=1e-14)
    twice = fb.vjp(lambda x: pull(x, dy), x)[1](dy)[0]
    np.testing.assert_allclose(twice, 6 * x * dy * dy, rtol=1e-14)


def test_derivative_returns_a_number_or_none():
    slope = elementwise_primitive("my_half", lambda x: x / 2)
    fb.derivative(slope)(lambda: 0.5)
    flat = elementwise_primitive("my_step", jnp.round)
    fb.derivative(flat)(lambda: None)
    gradient = fb.grad(lambda x: jnp.sum(jnp.sin(slope.bind(x)) + flat.bind(x)))(jnp.arange(3.0, dtype=jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient.astype(float), 0.5 * np.cos(np.arange(3) / 2), rtol=2**-7)
    np.testing.assert_array_equal(fb.grad(lambda x: flat.bind(x) * 2)(1.3), 0)


def test_derivative_with_respect_to_each_operand():
    primitive = new_primitive("my_other_product")
    fb.derivative(primitive, "x, y -> z", wrt="x")(lambda x, y: -jnp.sin(x) * y)
    fb.derivative(primitive, "x, y -> z", wrt="y")(lambda x: jnp.cos(x))
    got = fb.grad(lambda x, y: 3 * primitive.bind(x, y), (0, 1))(0.3, 2.0)
    np.testing.assert_allclose(got, (-6 * np.sin(0.3), 3 * np.cos(0.3)), rtol=1e-6)


def test_derivative_that_cannot_be_registered():
    with pytest.raises(TypeError, match="needs wrt="):
        fb.derivative("never_used", "x, y -> z")(lambda x, y: x)
    with pytest.raises(TypeError, match="one output"):
        fb.derivative("never_used", "x -> y, z")(lambda x: x)
    with pytest.raises(TypeError, match="reads dy: a rule that reads a cotangent is a `vjp_rule`"):
        fb.derivative("never_used")(lambda dy, x: x)
    assert "never_used" not in registry.registered()


def test_a_rule_for_one_operand_beside_a_joint_rule():
    """The joint rule goes on serving the other operand, and what it returns for the first is not added."""
    primitive = new_primitive("jointly_ruled")
    fb.vjp_rule(primitive, "x, y -> z")(lambda dz, x, y: (-dz * jnp.sin(x) * y, dz * jnp.cos(x)))
    fb.vjp_rule(primitive, "a, b -> c", wrt="a")(lambda dc: 100 * dc)
    got = fb.grad(primitive.bind, (0, 1))(0.3, 2.0)
    np.testing.assert_allclose(got, (100.0, np.cos(0.3)), rtol=1e-6)
    np.testing.assert_allclose(fb.grad(primitive.bind, 1)(0.3, 2.0), np.cos(0.3), rtol=1e-6)


def test_a_later_rule_for_the_same_operand_replaces_the_first():
    """Under other names of the operands too."""
    primitive = new_primitive("ruled_twice")
    fb.vjp_rule(primitive, "x, y -> z", wrt="x")(lambda dz: 1 * dz)
    fb.vjp_rule(primitive, "a, b -> c", wrt="a")(lambda dc: 2 * dc)
    assert fb.grad(primitive.bind)(0.3, 2.0) == 2
    fb.vjp_rule(primitive, "x, y -> z")(lambda dz: (3 * dz, 4 * dz))
    assert fb.grad(primitive.bind, (0, 1))(0.3, 2.0) == (3, 4)


def test_a_rule_given_a_parameter():
    """It serves the equations that have it, for one operand or all; a later rule without it replaces both."""
    primitive = new_primitive("ruled_by_a_parameter")
    primitive.def_abstract_eval(lambda x, y, sharp=None: jax.core.ShapedArray(x.shape, x.dtype))
    fb.vjp_rule(primitive, "x, y -> z")(lambda dz: (dz, dz))
    fb.vjp_rule(primitive, "x, y -> z", wrt="y", given="sharp")(lambda dz, *, sharp: dz * sharp)
    assert gradient_of(primitive) == gradient_of(primitive, sharp=None) == (1, 1)
    assert gradient_of(primitive, sharp=5.0) == (1, 5)
    fb.vjp_rule(primitive, "x, y -> z")(lambda dz: (2 * dz, 2 * dz))
    assert gradient_of(primitive, sharp=5.0) == (2, 2)


def gradient_of(primitive, **params):
    """Traced alone: the primitive has no implementation with parameters."""
    jaxpr = jax.make_jaxpr(lambda dz: fb.vjp(lambda x, y: primitive.bind(x, y, **params), 0.3, 2.0)[1](dz))(1.0)
    backward = [e for e in jaxpr.eqns if e.primitive is not primitive]
    return tuple(jax.core.eval_jaxpr(jaxpr.jaxpr.replace(eqns=backward), jaxpr.consts, 1.0))


@pytest.mark.parametrize("around", ["jit", "scan", "while", "remat", "cond"])
def test_a_rule_registered_anew_holds_in_what_was_already_differentiated(around):
    """Plans and compiled backward passes of inner jaxprs are cached, and JAX hands over the same jaxpr again."""
    primitive = elementwise_primitive(f"changing_in_{around}", lambda x: x * 1)
    layers = {
        "jit": jax.jit(lambda x: primitive.bind(jnp.sin(x * x) + jnp.cos(x) * 3 + x)),
        "scan": jax.jit(lambda x: jax.lax.scan(lambda h, _: (primitive.bind(h), None), x, length=1)[0]),
        "while": jax.jit(lambda x: jax.lax.fori_loop(0, jnp.int32(1), lambda i, h: primitive.bind(h), x)),
        "remat": jax.jit(jax.checkpoint(lambda x: primitive.bind(x))),
        "cond": jax.jit(lambda x: jax.lax.cond(x > 0, primitive.bind, lambda x: x, x)),
    }
    fb.vjp_rule(primitive)(lambda dy: dy)
    before = fb.grad(layers[around])(0.3)
    fb.vjp_rule(primitive)(lambda dy: 5 * dy)
    np.testing.assert_allclose(fb.grad(layers[around])(0.3), 5 * before, rtol=1e-6)
    fb.nondifferentiable(primitive, reason="for this test")
    assert fb.grad(layers[around])(0.3) == 0


def test_missing_rules_are_listed_all_at_once():
    primitive, other = new_primitive("unruled"), new_primitive("unruled-too")

    def fun(x):
        x = primitive.bind(x, 2.0 * x)  # first
        return jax.jit(lambda x: other.bind(x, x))(x)  # second

    with pytest.raises(fb.MissingRule) as error:
        fb.grad(fun)(1.0)
    message = str(error.value)
    assert [e.primitive.name for e in error.value.equations] == ["unruled", "unruled-too"]
    line = fun.__code__.co_firstlineno
    assert f"test_registry.py:{line + 1}" in message and f"test_registry.py:{line + 2}" in message
    assert '@fb.vjp_rule("unruled", "x0, x1 -> y0")' in message and "def unruled_vjp(dy0, x0, x1):" in message
    assert fb.grad(lambda x: x * jax.lax.stop_gradient(primitive.bind(x, x)))(1.0) == jnp.cos(1.0)


def test_a_primitive_is_declared_without_gradient():
    primitive = new_primitive("constant_like")
    fb.nondifferentiable(primitive, reason="for this test")
    assert fb.grad(lambda x: primitive.bind(x, x) + 3 * x)(1.0) == 3.0
    row = {row.primitive: row for row in fb.coverage(lambda x: primitive.bind(x, x), 1.0).rows}["constant_like"]
    assert (row.kind, row.by, row.count) == ("no derivative", "for this test", 1)


def test_a_rule_that_reads_what_it_does_not_name():
    with pytest.raises(TypeError, match="parameter 'z' that its signature 'x -> y' does not name"):
        fb.vjp_rule("never_used")(lambda dy, z: dy)
    with pytest.raises(TypeError, match="wrt='z', no operand"):
        fb.vjp_rule("never_used", "x, y -> w", wrt="z")(lambda dw: dw)
    with pytest.raises(TypeError, match="comes last"):
        fb.vjp_rule("never_used", "*xs, y -> w")(lambda dw: dw)
    assert "never_used" not in registry.registered()


def test_rules_read_avals_params_and_masks():
    primitive = new_primitive("reader")
    seen = []

    @fb.vjp_rule(primitive, "x, y -> z")
    def reader_vjp(dz, x_aval, active, wanted, *, missing=7, **params):
        seen.append((x_aval.shape, active, wanted, missing, params))
        return dz, None

    fb.grad(lambda x: primitive.bind(x, jnp.float32(2.0)))(1.0)
    assert seen == [((), (True, False), (True,), 7, {})]


def test_nothing_is_computed_for_an_inactive_operand():
    """Of a product with a constant only the other operand's rule is called, and only the constant is saved."""
    constant = jnp.full((5,), 3.0)
    pullback = fb.vjp(lambda x: x * constant, jnp.ones(5))[1]
    (saved,) = jax.tree.leaves(pullback)
    np.testing.assert_array_equal(saved, constant)


# Primitives of one of the two supported JAX versions alone.
ONE_VERSION = set(
    """call closed_call eval_jaxpr log2 one_minus_square polynomial nextafter pbroadcast_dynamic
    reduced_vary_cast reduced_vary_cast_p vary_unreduced_cast vary_unreduced_cast_p relayout
    shard_alike xla_metadata_call""".split()
)


def test_every_registered_name_exists():
    """A rule by a name that no supported JAX has would never be used."""
    known = {p.name for p in vars(primitives).values() if isinstance(p, Primitive)}
    known |= {row.primitive for row in fb.coverage().rows}
    entries = registry.registered().items()
    ruled = {name for name, entry in entries if isinstance(name, str) and (entry.rules or entry.structured)}
    assert ruled - known - ONE_VERSION == set()


def test_coverage_of_a_function():
    @jax.jit
    def fun(x):
        return jax.lax.scan(lambda c, x: (jnp.tanh(c * x), None), x, jnp.arange(3.0))[0]

    report = fb.coverage(fun, 1.0)
    rows = {row.primitive: row for row in report.rows}
    assert rows["tanh"].by == "tanh_vjp" and rows["tanh"].count == 1 and "test_registry.py" in rows["tanh"].where
    assert rows["scan"].kind == "rule" and report.ok and not report.missing
    assert "tanh" in str(report) and "tanh_vjp" in str(report)


def test_coverage_of_the_installed_jax():
    kinds = {row.primitive: row.kind for row in fb.coverage().rows}
    assert kinds["sin"] == kinds["scan"] == "rule" and kinds["eq"] == "no derivative"


def test_a_derivative_of_another_shape_than_the_output_is_named():
    cube = Primitive("cube_of_another_shape")
    cube.def_impl(lambda x: x**3)
    cube.def_abstract_eval(lambda x: x)

    @fb.derivative(cube)
    def cube_vjp(x):
        return jnp.ones(7)

    with pytest.raises(TypeError, match=r"cube_vjp returned shape \(7,\) for an output of \(3,\)"):
        fb.grad(lambda x: jnp.sum(cube.bind(x)))(jnp.ones(3))
