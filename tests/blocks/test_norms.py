"""Layer and root-mean-square normalisation against their plain definition by jax.grad."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb
from fnbackprop.blocks import norms
from fnbackprop.blocks.block import Block

from ..rules.checking import TOLERANCE, assert_close
from .planting import enlarged

RNG = np.random.default_rng(0)
CASES = {
    "layer_norm": (fb.layer_norm, True, 2),
    "layer_norm without bias": (fb.layer_norm, True, 1),
    "layer_norm alone": (fb.layer_norm, True, 0),
    "rms_norm": (fb.rms_norm, False, 1),
    "rms_norm alone": (fb.rms_norm, False, 0),
}
SHAPES = [(3, 5), (7,), (2, 1, 3), (0, 4), (4, 1)]


def operands(shape, parameters, dtype):
    return [jnp.asarray(RNG.normal(size=s) + 0.5, dtype) for s in (shape, *[shape[-1:]] * parameters)]


def plainly(centred, epsilon=1e-3):
    def plain(x, scale=None, bias=None):
        return norms.plain_norm(x, scale, bias, centred=centred, epsilon=epsilon)

    return plain


def gradients(lib, function, given):
    """Value and gradients of all operands, of a sum with random weights."""
    weights = np.random.default_rng(1).normal(size=given[0].shape)

    def loss(*given):
        y = function(*given)
        return jnp.sum(jnp.sin(y.astype(jnp.float64)) * weights), y

    return jax.jit(lib.value_and_grad(loss, tuple(range(len(given))), has_aux=True))(*given)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("lib", [fb, jax], ids=["fb", "jax"])
@pytest.mark.parametrize("norm, centred, parameters", CASES.values(), ids=CASES)
def test_it_equals_its_plain_definition(norm, centred, parameters, lib):
    for shape in SHAPES if lib is fb else SHAPES[:1]:
        given = operands(shape, parameters, jnp.float64)
        got = gradients(lib, functools.partial(norm, epsilon=1e-3), given)
        assert_close(got, gradients(jax, plainly(centred), given), 1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("norm, centred, parameters", [CASES["layer_norm"], CASES["rms_norm"]])
def test_low_precision(norm, centred, parameters, dtype):
    given = operands((6, 16), parameters, dtype)
    (_, y), slopes = gradients(fb, functools.partial(norm, epsilon=1e-3), given)
    assert all(x.dtype == dtype for x in jax.tree.leaves((y, slopes)))
    (_, *want) = jax.tree.leaves(gradients(jax, plainly(centred), [x.astype("float64") for x in given]))
    assert_close([y, *slopes], [x.astype(dtype) for x in want], TOLERANCE[dtype])


def test_sums_over_rows_are_in_float32():
    """In bfloat16, a thousand ones are 256."""
    x, scale = jnp.tile(jnp.asarray([[1, -1]], "bfloat16"), (1000, 1)), jnp.ones(2, "bfloat16")
    slope = fb.grad(lambda scale: jnp.sum(fb.layer_norm(x, scale), dtype=jnp.float32))(scale)
    np.testing.assert_allclose(np.asarray(slope, np.float32), [1000, -1000], rtol=0.01)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("norm, centred, parameters", [CASES["layer_norm"], CASES["rms_norm"]])
def test_vmap_and_second_order(norm, centred, parameters):
    x, scale, *_ = operands((2, 3, 5), 1, jnp.float64)

    def twice(lib, function):
        def slope(x, scale):
            first = lib.grad(lambda x: jnp.sum(jnp.sin(function(x, scale))))
            return jnp.sum(jnp.cos(first(x)))

        return jax.jit(jax.vmap(lib.grad(slope, (0, 1)), (0, None)))(x, scale)

    want = twice(jax, plainly(centred))
    for lib in (fb, jax):
        assert_close(twice(lib, functools.partial(norm, epsilon=1e-3)), want, 1e-11)


def test_the_backward_keeps_x_and_two_numbers_of_each_row():
    x, scale = jnp.ones((64, 32)), jnp.ones(32)
    saved = fb.residuals(lambda x: jnp.sum(fb.layer_norm(x, scale)), x).nbytes
    assert saved <= 4 * (64 * 2 + 32)  # x is an argument


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowering_for_other_platforms(platform):
    x, scale = jax.ShapeDtypeStruct((4, 8), jnp.bfloat16), jax.ShapeDtypeStruct((8,), jnp.bfloat16)
    run = jax.jit(fb.grad(lambda x, scale: jnp.sum(fb.rms_norm(x, scale), dtype=jnp.float32), (0, 1)))
    assert platform in jax.export.export(run, platforms=[platform])(x, scale).platforms


@pytest.mark.parametrize("i", [None, 0, 1, 2])
def test_compare_catches_planted_errors(monkeypatch, i):
    x, scale, bias = (jnp.asarray(RNG.normal(size=s), jnp.float32) for s in ((3, 5), (5,), (5,)))
    changed = Block(norms.norm_forward, enlarged(norms.norm_backward, i), norms.plain_norm, None, "layer_norm")
    monkeypatch.setattr(norms, "_layer_norm", changed)
    found = fb.compare(lambda *xs: jnp.sum(jnp.sin(fb.layer_norm(*xs))), x, scale, bias, argnums=(0, 1, 2))
    assert found.ok == (i is None)
    assert i is None or (found.first_difference.name, found.first_difference.operand) == ("layer_norm", i)


@pytest.mark.parametrize(
    "given, error, message",
    [
        ((np.ones((2, 3)), np.ones(2)), ValueError, r"scale of shape \(2,\) must be \(3,\), with x of shape \(2, 3\)"),
        ((np.ones(()),), ValueError, "got float32 of shape"),
        ((np.ones((2, 3), int),), TypeError, "x must be real floating numbers of .* got int32"),
        ((np.ones(3), np.ones(3) * 1j), TypeError, "scale must be real floating numbers, got complex64"),
    ],
)
def test_errors(given, error, message):
    with pytest.raises(error, match=f"layer_norm: .*{message}|layer_norm: {message}"):
        fb.layer_norm(*map(jnp.asarray, given))
