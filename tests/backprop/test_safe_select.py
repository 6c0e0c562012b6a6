"""The option `safe_select`: on finite programs it changes nothing, whichever rules they meet and in every form; where a
derivative is infinite, a zero cotangent stays zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import fnbackprop as fb
from fnbackprop.backprop import registry
from fnbackprop.jaxprs.primitives import Trait, having

from ..campaigns.mutants.programs import EXISTING, PROGRAMS
from ..rules.checking import assert_close, random_cotangent

ELEMENTWISE = having(Trait.ELEMENTWISE)
RNG = np.random.default_rng(0)
X, S = jnp.asarray(RNG.normal(size=(3, 3)), "float32"), jnp.asarray(RNG.normal(size=(3, 3)), "float32")
DEFINITE = S @ S.T + 3 * jnp.eye(3)


def test_every_derivative_is_of_an_elementwise_primitive():
    named = {name: entry for name, entry in registry.registered().items() if isinstance(name, str)}
    derivatives = {name for name in named.keys() & EXISTING if any(rule.is_derivative for rule in named[name].rules)}
    assert len(derivatives) > 25 and derivatives - ELEMENTWISE == set()


def with_zeros(cotangent):
    """Every second number set to zero."""

    def of_leaf(x):
        keep = np.arange(np.size(x)).reshape(np.shape(x)) % 2 == 0
        return x if x.dtype == jax.dtypes.float0 else jnp.where(keep, x, jnp.zeros_like(x))

    return jax.tree.map(of_leaf, cotangent)


def pulled(function, operands, safe):
    """The cotangents of the floating operands for a cotangent that is zero here and there."""
    floating = [i for i, x in enumerate(operands) if jnp.issubdtype(x.dtype, np.inexact)]

    def of_floating(*xs):
        found = dict(zip(floating, xs, strict=True))
        return function(*[found.get(i, x) for i, x in enumerate(operands)])

    y, pullback = fb.vjp(of_floating, *[operands[i] for i in floating], safe_select=safe)
    return pullback(with_zeros(random_cotangent(y)))


def test_elementwise_rules():
    """Their gradients are zero where the cotangent is: nothing is masked that was not zero anyway."""
    heavy = {"igammac", "regularized_incomplete_beta", "zeta", "polygamma"}  # to compile
    names = [name for name in sorted(ELEMENTWISE - heavy) if written_with_a_cotangent(name)]
    programs = [PROGRAMS[name][0] for name in names if name in PROGRAMS]

    @jax.jit
    def both():
        return [[pulled(p.function, p.operands, safe) for p in programs] for safe in (True, False)]

    assert len(programs) > 15
    for program, got, want in zip(programs, *both(), strict=True):
        assert_close(got, want, 1e-6, str(program))


def written_with_a_cotangent(name):
    entry = registry.registered().get(name)
    return entry is not None and any(rule.saved and not rule.is_derivative for rule in entry.rules)


SQUARE = {  # not elementwise, with a cotangent of the operand's shape
    "cumsum": jnp.cumsum,
    "flip": jnp.flip,
    "transpose": jnp.transpose,
    "gather": lambda x: x[jnp.array([2, 0, 0])],
    "pad": lambda x: lax.pad(x, jnp.float32(0), ((1, -1, 0), (0, 0, 0))),
    "product": lambda x: S @ x,
    "triangular solve": lambda x: lax.linalg.triangular_solve(S, x, left_side=True),
    "inv": jnp.linalg.inv,
    "fft": lambda x: jnp.fft.fft(lax.complex(x, x)),
    "convolve": lambda x: jnp.convolve(x[0], S[0], mode="same"),
    "window": lambda x: lax.reduce_window(x, 0.0, lax.add, (2, 2), (1, 1), "SAME"),
    "sort": lambda x: jnp.sort(x, axis=0),
}


@pytest.mark.parametrize("name", SQUARE)
def test_other_rules(name):
    """No mask is laid on them: cotangents move from where they are not zero to where they were."""
    safe, plain = (str(jax.make_jaxpr(lambda x, s=s: pulled(SQUARE[name], [x], s))(X)) for s in (True, False))
    assert safe == plain


def double_where(x):
    """What users write without the option, and what `unguarded` must be with it."""
    positive = jnp.where(x > 0, x, 1)
    return jnp.where(x > 0, jnp.sqrt(positive) * jnp.log(positive), x * x)


def unguarded(x):
    return jnp.where(x > 0, jnp.sqrt(x) * jnp.log(x), x * x)


def sharded(f):
    mesh = jax.make_mesh((2,), ("i",), devices=jax.devices()[:2], axis_types=(AxisType.Auto,))
    body = lambda x: lax.psum(jnp.sum(jnp.cumsum(f(x))), "i")  # noqa: E731
    return jax.shard_map(body, mesh=mesh, in_specs=P("i"), out_specs=P())


FORMS = {
    "scan": lambda f, x: lax.scan(lambda c, v: (f(v) + jnp.sin(c), None), x[:1], x[:, None])[0].sum(),
    "vmap": lambda f, x: jax.vmap(lambda v: jnp.cumsum(f(x * v))[-1])(jnp.arange(1.0, 3.0)).sum(),
    "shard_map": lambda f, x: sharded(f)(x),
}


def test_forms_to_second_order():
    """A zero cotangent stays zero in both orders: derivatives are those of the double where."""

    def second(lib, f, **option):
        gradients = {k: lib.grad(lambda x, form=form: form(f, x), **option) for k, form in FORMS.items()}
        return {k: lambda x, g=g: lib.grad(lambda x: jnp.sum(g(x) ** 2), **option)(x) for k, g in gradients.items()}

    ours, theirs = second(fb, unguarded, safe_select=True), second(jax, double_where)
    run = jax.jit(lambda x: [{k: g(x) for k, g in gradients.items()} for gradients in (ours, theirs)])
    got, want = run(jnp.asarray([0.0, 4.0, -1.0, 2.0]))
    assert_close(got, want, 1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(want))


def test_a_cotangent_that_passes_through_zero_has_a_derivative():
    """dy = 2·y·3 is 0 at x = 0 and changes with x: only the NaN of 0·inf is set to zero, not its derivative."""
    hessian = fb.grad(fb.grad(lambda x: (3 * x) ** 2, safe_select=True), safe_select=True)
    assert hessian(0.0) == 18 == jax.jvp(fb.grad(lambda x: (3 * x) ** 2, safe_select=True), (0.0,), (1.0,))[1]


def test_explicit_mesh():
    mesh = jax.make_mesh((2,), ("i",), devices=jax.devices()[:2], axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x = jax.device_put(jnp.asarray([0.0, 4.0, -1.0, 2.0]), P("i"))
        got = jax.jit(fb.grad(lambda x: jnp.sum(jnp.flip(unguarded(x)) * x), safe_select=True))(x)
        want = jax.grad(lambda x: jnp.sum(jnp.flip(double_where(x)) * x))(x)
    assert_close(got, want, 1e-6)
