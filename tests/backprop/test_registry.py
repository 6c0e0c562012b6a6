"""Rules: registered by anyone, declared by what they read, missing ones listed at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils, xla_metadata  # noqa: F401  (they define primitives)
from jax.extend.core import Primitive, primitives
from jax.interpreters import mlir

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
