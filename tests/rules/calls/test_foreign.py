"""Primitives of other packages, by the derivatives that their authors registered with JAX."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

import fnbackprop as fb
from fnbackprop.jaxprs.graph import all_equations
from fnbackprop.rules.calls import foreign

from ..checking import check_agreement

X = np.random.default_rng(0).normal(size=(3,))
pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.filterwarnings("ignore:.*no hand-written rule")]


def new_primitive(name, function, multiple_results=False):
    primitive = Primitive(name)
    primitive.multiple_results = multiple_results
    primitive.def_impl(function)
    primitive.def_abstract_eval(lambda *avals: [avals[0]] * 2 if multiple_results else avals[0])
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=multiple_results))
    batching.primitive_batchers[primitive] = lambda xs, dims: (
        primitive.bind(*(jnp.moveaxis(x, d, 0) for x, d in zip(xs, dims, strict=True))),
        [0, 0] if multiple_results else 0,
    )
    return primitive


cube = new_primitive("foreign_cube", lambda x: x**3)
scaled = new_primitive("foreign_scaled", lambda x: 2 * x)
pair = new_primitive("foreign_pair", lambda x, y: [x * y, jnp.sin(x)], multiple_results=True)
ad.defjvp(cube, lambda t, x: 1.5 * scaled.bind(t) * x**2)
ad.deflinear2(scaled, lambda ct, x: [scaled.bind(ct)])


def pair_jvp(primals, tangents):
    (x, y), (tx, ty) = primals, map(ad.instantiate_zeros, tangents)
    return pair.bind(x, y), [tx * y + 5 * x * ty, ad.Zero(jax.typeof(x)) if type(tangents[0]) is ad.Zero else tx]


ad.primitive_jvps[pair] = pair_jvp


def both(x):
    return scaled.bind(cube.bind(x)) * x


PROGRAMS = {
    "JVP and transpose": both,
    "jit": jax.jit(lambda x: both(jnp.sin(both(x)))),
    "vmap": lambda x: jax.vmap(both)(jnp.stack([x, 2 * x])),
    "checkpoint": jax.checkpoint(lambda x: both(jnp.sin(x))),
    "scan": lambda x: jax.lax.scan(lambda c, x: (cube.bind(c * x), scaled.bind(x)), 1.1, x),
    "cond": lambda x: jax.lax.cond(x[0] > 0, cube.bind, scaled.bind, x),
    "two results": lambda x: pair.bind(x, x * x),
    "one active operand": lambda x: (pair.bind(x, jnp.ones(3))[1], pair.bind(jnp.ones(3), x)[0]),
    "second order": lambda x: fb.grad(lambda x: both(x).sum())(x),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_foreign_vjp(name):
    check_agreement(PROGRAMS[name], X)


def test_on_the_tape():
    fun = lambda x: both(x).sum() if x[0] > -9 else 0.0  # noqa: E731
    np.testing.assert_allclose(fb.grad(fun)(X), jax.grad(fun)(X), rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(fb.grad(cube.bind))(X), 3 * X**2, rtol=1e-12)


def test_it_is_said_once_with_name_and_line(monkeypatch):
    monkeypatch.setattr(foreign, "_warned", set())
    with pytest.warns(foreign.ForeignDerivativeWarning, match=r"foreign_cube has no .*test_foreign\.py:\d+") as caught:
        fb.grad(lambda x: cube.bind(x).sum())(X)
    assert {w.filename for w in caught} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fb.grad(lambda x: cube.bind(x).sum() * 2)(X)


def test_it_can_be_refused():
    with pytest.raises(fb.MissingRule, match="foreign_cube"):
        fb.grad(lambda x: cube.bind(x).sum(), foreign=False)(X)


def test_a_rule_goes_before_it():
    own = new_primitive("foreign_with_a_rule", lambda x: x * x)
    ad.defjvp(own, lambda t, x: 0 * t)
    fb.vjp_rule(own)(lambda dy, x: 2 * dy * x)
    np.testing.assert_allclose(fb.grad(own.bind)(3.0), 6.0)


def test_coverage_and_compare_name_it():
    fun = lambda x: both(x).sum()  # noqa: E731
    assert {row.primitive for row in fb.coverage(fun, X).of("foreign")} == {"foreign_cube", "foreign_scaled"}
    result = fb.compare(fun, X).require()
    assert [note.split()[0] for note in result.notes if "registered with JAX" in note] == [
        "foreign_cube",
        "foreign_scaled",
    ]


def test_a_primitive_without_any_derivative_is_missing():
    bare = new_primitive("foreign_bare", lambda x: x)
    with pytest.raises(fb.MissingRule, match="foreign_bare"):
        fb.grad(lambda x: bare.bind(x).sum())(X)


def test_a_branch_for_another_platform():
    """It needs no rule here; the branch of this platform does."""
    bare = new_primitive("foreign_kernel", lambda x: x)
    fun = lambda x: jax.lax.platform_dependent(x, tpu=bare.bind, default=jnp.sin)  # noqa: E731
    np.testing.assert_allclose(fb.grad(lambda x: fun(x).sum())(X), np.cos(X), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(fb.grad(lambda x: fun(x).sum()))(X), np.cos(X), rtol=1e-12)
    with pytest.raises(fb.MissingRule, match="foreign_kernel"):
        fb.grad(lambda x: jax.lax.platform_dependent(x, tpu=jnp.sin, default=bare.bind).sum())(X)


def test_it_is_not_evaluated_again_of_itself():
    """Nothing is known of its cost, so a loop saves its result."""

    def loop(x):
        return jax.lax.scan(lambda c, _: (jnp.sin(cube.bind(c)), None), x, None, length=3)[0]

    names = [e.primitive.name for e in all_equations(jax.make_jaxpr(fb.grad(loop))(1.0))]
    assert names.count("foreign_cube") == 1
