"""The gradient with respect to values that have a name."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import fnbackprop as fb

W = jnp.array([0.5, -1.0, 2.0])


def layer(x, w):
    return jnp.sin(fb.name(x * w, "product"))


def loss(x, w):
    return jnp.sum(layer(x, w) ** 2)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda f: f,
        jax.jit,
        jax.checkpoint,
        lambda f: jax.checkpoint(f, policy=jax.checkpoint_policies.save_only_these_names("product")),
        lambda f: lambda x, w: lax.cond(True, f, lambda x, w: jnp.sum(fb.name(x, "product")), x, w),
    ],
    ids=["plain", "jit", "checkpoint", "policy", "cond"],
)
@pytest.mark.parametrize("jit", [False, True])
def test_one_value(wrap, jit):
    """d sin²(p) / dp = sin(2p); of the branch that is not taken, zero."""
    gradient = fb.named_grad(wrap(loss), "product")
    found = (jax.jit(gradient) if jit else gradient)(W, W)["product"]
    first, rest = (found[0], found[1:]) if isinstance(found, tuple) else (found, ())
    other = [jnp.zeros(3)] if rest else []
    if rest and not jnp.any(first):  # JAX puts the branch of False first
        first, rest = rest[0], [first]
    assert jnp.allclose(first, jnp.sin(2 * W * W), rtol=1e-6)
    assert all(jnp.array_equal(a, b) for a, b in zip(rest, other, strict=True))


def test_steps_of_a_scan_and_several_values_of_one_name():
    """h_{t+1} = w h_t: the cotangent of the product of step t is w^(n-1-t)."""

    def fun(w):
        h, _ = lax.scan(lambda h, _: (fb.name(w * h, "state"), None), 1.0, None, length=4)
        return checkpoint_name(3 * checkpoint_name(2 * h, "scaled"), "scaled")

    found = jax.jit(fb.named_grad(fun, ("state", "scaled")))(2.0)
    assert jnp.array_equal(found["state"], jnp.array([48.0, 24.0, 12.0, 6.0]))
    assert [float(ct) for ct in found["scaled"]] == [3.0, 1.0]


def test_it_agrees_with_a_trace_and_composes_with_vmap():
    traced = fb.trace(loss, W, W).cotangent("product")
    assert jnp.allclose(fb.named_grad(loss, "product")(W, W)["product"], traced, rtol=1e-6)
    rows = jnp.stack([W, 2 * W])
    mapped = jax.vmap(fb.named_grad(loss, "product"), (0, None))(rows, W)["product"]
    assert jnp.allclose(mapped, jnp.sin(2 * rows * W[None]), rtol=1e-5)
    second = fb.grad(lambda w: jnp.sum(fb.named_grad(loss, "product")(W, w)["product"]))(W)
    assert jnp.allclose(second, 2 * W * jnp.cos(2 * W * W), rtol=1e-5)


def test_bfloat16_and_options():
    def fun(x):
        return jnp.sum(jnp.where(x > 0, jnp.sqrt(fb.name(x, "x")), 0)).astype(jnp.float32)

    found = fb.named_grad(fun, "x", safe_select=True)(jnp.zeros(2, jnp.bfloat16))["x"]
    assert found.dtype == jnp.bfloat16 and not jnp.any(found)


def test_what_cannot_be_named():
    with pytest.raises(ValueError, match="no value is named 'q'; the names are 'product'"):
        fb.named_grad(loss, "q")(W, W)
    with pytest.raises(ValueError, match="'n' is int32.*, which has no gradient"):
        fb.named_grad(lambda x: jnp.sum(x * fb.name(jnp.arange(3), "n").astype(x.dtype)), "n")(W)

    with pytest.raises(TypeError, match="a real scalar alone, but it returned 2 arrays"):
        fb.named_grad(lambda a, b: (loss(a, b), a), "product")(W, W)

    def looped(x):
        return lax.while_loop(lambda x: x < 9, lambda x: fb.name(x * 2, "inside"), x)

    with pytest.raises(ValueError, match="lies in while, at .*test_named_grad.py"):
        fb.named_grad(looped, "inside")(1.0)
