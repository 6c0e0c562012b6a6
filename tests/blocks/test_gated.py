"""Gated linear units against `jax.nn` by jax.grad."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb
from fnbackprop.blocks import gated
from fnbackprop.blocks.block import Block

from ..rules.checking import TOLERANCE, assert_close
from .planting import enlarged

RNG = np.random.default_rng(0)
exact_gelu = functools.partial(jax.nn.gelu, approximate=False)
CASES = {
    "swiglu": (fb.swiglu, jax.nn.silu),
    "geglu": (fb.geglu, jax.nn.gelu),
    "exact geglu": (functools.partial(fb.geglu, approximate=False), exact_gelu),
}


def operands(shape, dtype):
    """With gates far out, where an activation is flat."""
    gate, x = (jnp.asarray(RNG.normal(size=shape), dtype) for _ in range(2))
    return gate.at[..., :1].mul(20), x


def gradients(lib, function, given):
    weights = np.random.default_rng(1).normal(size=given[0].shape)

    def loss(gate, x):
        y = function(gate, x)
        return jnp.sum(jnp.sin(y.astype(jnp.float64)) * weights), y

    return jax.jit(lib.value_and_grad(loss, (0, 1), has_aux=True))(*given)


def plainly(activation):
    return lambda gate, x: activation(gate) * x


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("function, activation", CASES.values(), ids=CASES)
def test_it_equals_jax_nn(function, activation):
    for shape, lib in (((3, 5), fb), ((3, 5), jax), ((7,), fb), ((0, 3), fb)):
        given = operands(shape, jnp.float64)
        assert_close(gradients(lib, function, given), gradients(jax, plainly(activation), given), 1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("function, activation", CASES.values(), ids=CASES)
def test_low_precision(function, activation, dtype):
    given = operands((6, 16), dtype)
    (_, y), slopes = gradients(fb, function, given)
    assert all(x.dtype == dtype for x in jax.tree.leaves((y, slopes)))
    (_, *want) = jax.tree.leaves(gradients(jax, plainly(activation), [x.astype("float64") for x in given]))
    assert_close([y, *slopes], [x.astype(dtype) for x in want], TOLERANCE[dtype])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("function, activation", CASES.values(), ids=CASES)
def test_vmap_and_second_order(function, activation):
    gate, x = operands((2, 4), jnp.float64)

    def twice(lib, function):
        def slope(gate, x):
            first = lib.grad(lambda gate: jnp.sum(jnp.sin(function(gate, x))))
            return jnp.sum(jnp.cos(first(gate)))

        return jax.jit(jax.vmap(lib.grad(slope, (0, 1))))(gate, x)

    assert_close(twice(fb, function), twice(jax, plainly(activation)), 1e-11)


def test_the_backward_keeps_the_operands_alone():
    def kept(multiply):
        def loss(x, w, v):
            return jnp.sum(jnp.sin(multiply(x @ w, x @ v)))

        x = jnp.ones((64, 8))
        return fb.residuals(loss, x, jnp.ones((8, 8)), jnp.ones((8, 8))).nbytes

    assert kept(fb.swiglu) <= 3 * 4 * 64 * 8 and kept(fb.geglu) <= 3 * 4 * 64 * 8


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowering_for_other_platforms(platform):
    x = jax.ShapeDtypeStruct((4, 8), jnp.bfloat16)
    run = jax.jit(fb.grad(lambda gate, x: jnp.sum(fb.geglu(gate, x), dtype=jnp.float32), (0, 1)))
    assert platform in jax.export.export(run, platforms=[platform])(x, x).platforms


@pytest.mark.parametrize("i", [None, 0, 1])
def test_compare_catches_planted_errors(monkeypatch, i):
    given = operands((3, 5), jnp.float32)
    changed = Block(gated.gated_forward, enlarged(gated.gated_backward, i), gated.plain_gated, None, "swiglu")
    monkeypatch.setattr(gated, "_swiglu", changed)
    found = fb.compare(lambda *xs: jnp.sum(jnp.sin(fb.swiglu(*xs))), *given, argnums=(0, 1))
    assert found.ok == (i is None)
    assert i is None or (found.first_difference.name, found.first_difference.operand) == ("swiglu", i)


def test_errors():
    with pytest.raises(ValueError, match=r"geglu: the gate of shape \(2,\) must have the shape \(3,\) of x"):
        fb.geglu(jnp.ones(2), jnp.ones(3))
    with pytest.raises(TypeError, match="swiglu: gate and x must be real floating numbers, got int32 and float32"):
        fb.swiglu(jnp.ones(2, int), jnp.ones(2))
