"""The pullback object: its residuals, its targets, and what it says of a wrong cotangent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb

from ..rules.checking import assert_close

RNG = np.random.default_rng(0)
X, W, CT = RNG.normal(size=(2, 3)), RNG.normal(size=(3, 4)), RNG.normal(size=(2, 4))
pytestmark = pytest.mark.usefixtures("x64")


def product(x, w):
    return x @ w["w"]


def is_not_needed(leaf):
    return type(leaf).__name__ == "NotNeeded"


def test_an_argument_that_is_a_residual_may_be_taken_out_and_put_back():
    x, w = jnp.asarray(X), jnp.asarray(W)
    pullback = fb.vjp(product, x, {"w": w})[1]
    assert pullback.args_res[0] is x and pullback.args_res[1]["w"] is w
    assert pullback.opaque_residuals == []
    pullback.args_res[1] = None
    with pytest.raises(ValueError, match="put back"):
        pullback(CT)
    pullback.args_res[1] = {"w": 2 * W}
    assert_close(pullback(CT), (CT @ (2 * W).T, {"w": X.T @ CT}), 1e-14)


def test_arguments_that_are_no_residuals_are_not_kept():
    pullback = fb.vjp(lambda x, y: jnp.exp(x) + y, X, X)[1]
    assert all(map(is_not_needed, pullback.args_res))
    assert len(pullback.opaque_residuals) == 1
    assert jax.tree.structure(pullback).num_leaves == 1


def test_a_pullback_without_an_argument_passes_through_jit():
    @jax.jit
    def forward(x, w):
        pullback = fb.vjp(product, x, w)[1]
        pullback.args_res[1] = None
        return pullback

    @jax.jit
    def backward(pullback, w):
        pullback.args_res[1] = w
        return pullback(CT)

    pullback = forward(X, {"w": W})
    assert len(jax.tree.leaves(pullback)) == 1
    assert_close(backward(pullback, {"w": W}), (CT @ W.T, {"w": X.T @ CT}), 1e-14)


@pytest.mark.parametrize("jit", [False, True])
def test_with_refs_adds_to_references(jit):
    def run(start):
        ref = jax.new_ref(start)
        pullback = fb.vjp(lambda x, w, i: x @ w * i, X, W, 3)[1]
        found = pullback.with_refs(jax.ad.GradValue(), ref, jax.ad.GradValue())(CT)
        assert found[1] == jax.ad.GradRef() and found[2].dtype == jax.dtypes.float0
        return found[0], jax.freeze(ref)

    start = jnp.ones_like(W)
    assert_close((jax.jit(run) if jit else run)(start), (3 * CT @ W.T, start + 3 * X.T @ CT), 1e-14)


def test_with_refs_computes_only_what_is_wanted():
    pullback = fb.vjp(jnp.multiply, X, X + 1)[1].with_refs(jax.ad.DontWant(), jax.ad.GradValue())
    found = pullback(X)
    assert found[0] == jax.ad.DidntWant()
    assert_close(found[1], X * X, 1e-14)
    assert len(jax.make_jaxpr(lambda: pullback(X)[1])().eqns) == 1


def test_with_refs_in_vmap_and_scan():
    """Gradients of several batches, added up in place."""

    def step(total, x):
        def one(x):
            ref = jax.new_ref(jnp.zeros_like(W))
            fb.vjp(lambda w: jnp.tanh(x @ w), W)[1].with_refs(ref)(CT[0])
            return jax.freeze(ref)

        accumulated = jax.new_ref(total)
        fb.vjp(lambda w: jnp.tanh(x @ w), W)[1].with_refs(accumulated)(CT)
        return jax.freeze(accumulated), jax.vmap(one)(x)

    total, each = lax.scan(step, jnp.zeros_like(W), jnp.stack([X, 2 * X]))
    expected = jax.vjp(lambda w: jnp.tanh(jnp.stack([X, 2 * X]) @ w), W)[1](jnp.stack([CT, CT]))[0]
    assert_close(total, expected, 1e-13)
    one = jax.vjp(lambda w: jnp.tanh(2 * X[1] @ w), W)[1](CT[0])[0]
    assert_close(each[1, 1], one, 1e-13)


def named(x):
    return {"a": x, "b": [x]}


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda p: p({"a": X, "c": X}), ValueError, r"(?s)function named.*out.*'a', 'b'.*'a', 'c'"),
        (lambda p: p({"a": X, "b": (X,)}), ValueError, r"out\['b'\] was a .*list.* in the original.*tuple"),
        (
            lambda p: p({"a": X, "b": [X[:1]]}),
            ValueError,
            r"got float64\[1,3\], but .*float64\[2,3\] \(out\['b'\]\[0\]\)",
        ),
        (lambda p: p(X, X), TypeError, "applied to named was called with 2 arguments"),
        (lambda p: p.with_refs(X, X), ValueError, r"(?s)arguments of named.*length 1.*length 2"),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error, match=message):
        call(fb.vjp(named, X)[1])


@pytest.mark.parametrize("out", [1.0, (1.0,), (1.0, 2.0, 3.0)])
def test_aux_is_one_of_a_pair(out):
    with pytest.raises(TypeError, match="two-element tuple"):
        fb.grad(lambda x: out, has_aux=True)(1.0)


def test_python_numbers_may_be_put_in_the_place_of_arguments():
    pullback = fb.vjp(lambda x, y: x["a"] * x["b"] * y, {"a": 2.0, "b": 3.0}, 4.0)[1]
    pullback.args_res = [{"a": 5.0, "b": np.float64(3.0)}, 4.0]
    assert pullback(1.0) == ({"a": 12, "b": 20}, 6)


def names(jaxpr):
    return [(e.primitive.name, str(e.source_info.name_stack)) for e in jaxpr.eqns]


def test_equations_have_the_names_by_which_profiles_tell_forward_and_backward_apart():
    def scoped(x):
        with jax.named_scope("layer"):
            return jnp.sin(x) * 2

    jaxpr = jax.make_jaxpr(fb.grad(scoped))(1.0).jaxpr
    assert names(jaxpr)[0] == ("sin", "jvp(layer)")
    assert ("cos", "transpose(jvp(layer))") in names(jaxpr)
    with jax.named_scope("loss"):
        text = jax.jit(fb.grad(lambda x: lax.scan(lambda h, _: (scoped(h), None), x, None, length=3)[0])).lower(1.0)
    assert "transpose(jvp())/while/body/" in text.as_text(debug_info=True)
    assert "layer/cos" in text.as_text(debug_info=True)


def test_numpy_arguments_compile_nothing_of_their_own(caplog):
    """An argument of a new shape needs no program to become an array."""
    with jax.log_compiles():
        gradient = fb.vjp(lambda x: x, np.ones((1, 2, 3)))[1](np.ones((1, 2, 3)))[0]
    assert isinstance(gradient, jax.Array)
    assert not [record for record in caplog.records if "Compiling" in record.message]


def test_every_member_of_jaxs_pullback_is_there_or_explained():
    theirs, ours = jax.vjp(jnp.sin, 1.0)[1], fb.vjp(jnp.sin, 1.0)[1]
    for name in (name for name in dir(theirs) if not name.startswith("_") and not hasattr(ours, name)):
        with pytest.raises(AttributeError, match=f"no attribute '{name}': .{{10}}"):
            getattr(ours, name)
    with pytest.raises(AttributeError, match="no attribute 'unknown'$"):
        ours.unknown  # noqa: B018


def test_it_says_what_it_is():
    pullback = fb.vjp(product, jnp.asarray(X), {"w": jnp.asarray(W)})[1]
    assert repr(pullback) == "<pullback of product: (float64[2,3], float64[3,4]) -> (float64[2,4])>"
