"""The arguments of grad and its kin: each refusal in JAX's own words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb


def same_refusal(call):
    """Both libraries refuse, with messages that start alike; returns ours."""
    messages = []
    for library in (fb, jax):
        with pytest.raises((TypeError, ValueError)) as found:
            call(library)
        messages.append((found.type, str(found.value)))
    assert messages[0][0] is messages[1][0]
    ours, theirs = (message for _, message in messages)
    assert ours.split(".")[0] == theirs.split(".")[0]
    return ours


@pytest.mark.parametrize(
    "call",
    [
        lambda lib: lib.grad(3),
        lambda lib: lib.grad(jnp.sin, argnums=1)(1.0),
        lambda lib: lib.grad(jnp.sin, argnums=-2)(1.0),
        lambda lib: lib.grad(jnp.sin, argnums="x"),
        lambda lib: lib.jacrev(jnp.sin, argnums=1)(1.0),
        lambda lib: lib.hessian(jnp.sin, argnums=(0, 5))(1.0),
        lambda lib: lib.jacrev(jnp.sin, argnums=-2)(1.0),
        lambda lib: lib.grad(jnp.sin)(1),
        lambda lib: lib.grad(jnp.sin)(jnp.ones(2)),
        lambda lib: lib.grad(lambda x: 1j * x)(1.0),
        lambda lib: lib.grad(lambda x: jnp.int32(3))(1.0),
        lambda lib: lib.grad(jnp.sin, holomorphic=True)(1.0),
        lambda lib: lib.grad(lambda x: "loss")(1.0),
        lambda lib: lib.grad(lambda x: x)("a string"),
    ],
)
def test_refusals_are_those_of_jax(call):
    same_refusal(call)


@pytest.mark.parametrize("transform", ["grad", "value_and_grad", "jacrev", "hessian"])
def test_an_argument_is_named_once(transform):
    """JAX fails with a TypeError in the function, which it hands None in the place of an argument."""
    for argnums in ((0, 0), (1, -1), [0, 1, -2]):
        for lib in (fb, jax):
            with pytest.raises(TypeError) as found:
                getattr(lib, transform)(lambda x, y: x * y, argnums)(1.0, 2.0)
            assert lib is jax or "more than once" in str(found.value)


def test_allow_int():
    gradient = fb.grad(lambda x: x * 2.0, allow_int=True)(3)
    assert gradient.dtype == jax.dtypes.float0


def test_argnums_may_count_from_the_end_and_be_numpy_integers():
    def fun(x, y):
        return x * y

    assert fb.grad(fun, argnums=-1)(2.0, 3.0) == 2 and fb.grad(fun, argnums=np.int64(0))(2.0, 3.0) == 3
    assert fb.grad(fun, argnums=(1, -2))(2.0, 3.0) == (2, 3)


def test_cotangents_of_another_tree_name_the_place():
    _, pullback = fb.vjp(lambda x: {"a": x, "b": [x, x]}, 1.0)
    with pytest.raises(ValueError, match=r"out\['b'\]"):
        pullback({"a": 1.0, "b": (1.0, 1.0)})


def test_cotangents_of_another_shape_name_the_leaf():
    _, pullback = fb.vjp(lambda x: {"a": x, "b": x[:2]}, jnp.ones(3))
    with pytest.raises(ValueError, match=r"float32\[2\].*\(out\['b'\]\)"):
        pullback({"a": jnp.ones(3), "b": jnp.ones(3)})


def test_a_reference_at_two_places_is_refused_by_their_names():
    def fun(x_ref, others):
        return x_ref[...] * others["w"][...]

    ref = jax.new_ref(2.0)
    with pytest.raises(ValueError, match=r"fun got the same mutable array reference .* at x_ref and others\['w'\]\."):
        fb.vjp(fun, ref, {"w": ref})
    assert fb.vjp(lambda x, y: x * y, 2.0, 3.0)[0] == 6.0
