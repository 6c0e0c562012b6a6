"""Every spelling of attention and cross-entropy runs as the block, with the plain code's gradient, or says why not."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb
from fnbackprop.blocks.fusing import attention_call
from fnbackprop.blocks.fusing.rewriting import fused

from ...rules.checking import assert_close
from . import lookalikes, spellings


@pytest.fixture(autouse=True)
def lenient():
    """As users have it: these programs are theirs."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.enable_x64(True):
        yield


def loss_of(function):
    return lambda *operands: jnp.sum(jnp.sin(function(*operands)))


@pytest.mark.parametrize("function, operands", spellings.TAKEN, ids=lambda x: getattr(x, "__name__", ""))
def test_a_spelling_that_is_taken(function, operands, monkeypatch):
    windows, block = [], attention_call.tiled_attention

    def called(*args, **options):
        windows.append(options["window"])
        return block(*args, **options)

    monkeypatch.setattr(attention_call, "tiled_attention", called)
    found = fb.fusions(function, *operands)
    assert [(fusion.block, fusion.taken) for fusion in found] == [("attention", True)], found
    assert "spellings.py" in found[0].where and found[0].saves > 0
    operands = tuple(map(jnp.asarray, operands))
    single = function.__name__.startswith(("jax_", "nnx_"))  # their softmax is in float32
    got = jax.jit(fb.value_and_grad(loss_of(function), (0, 1, 2), fuse=True))(*operands)
    assert_close(
        got,
        jax.jit(jax.value_and_grad(loss_of(function), (0, 1, 2)))(*operands),
        1e-6 if single else 1e-11,
    )
    assert windows and (windows[0] is not None) == (function.__name__ in spellings.BANDS)


@pytest.mark.parametrize("function", spellings.LOSSES, ids=lambda x: x.__name__)
def test_a_loss_that_is_taken(function):
    found = fb.fusions(function, *spellings.LAYER)
    assert [(fusion.block, fusion.taken) for fusion in found] == [("linear_cross_entropy", True)], found
    assert found[0].where and found[0].saves == 2 * 8 * 30
    operands = tuple(map(jnp.asarray, spellings.LAYER))
    got = jax.jit(fb.value_and_grad(function, (0, 1, 2), fuse=True))(*operands)
    assert_close(got, jax.jit(jax.value_and_grad(function, (0, 1, 2)))(*operands), 1e-11)


@pytest.mark.parametrize("function, operands, reason", lookalikes.MISSED, ids=lambda x: getattr(x, "__name__", ""))
def test_a_near_miss_says_why(function, operands, reason):
    (fusion,) = fb.fusions(function, *operands)
    assert not fusion.taken and fusion.saves == 0
    assert re.search(reason, fusion.reason), fusion.reason
    assert ".py" in str(fusion)
    operands = tuple(map(jnp.asarray, operands))
    assert_close(fb.grad(loss_of(function), fuse=True)(*operands), jax.grad(loss_of(function))(*operands), 1e-11)


@pytest.mark.parametrize("function, operands", lookalikes.LOOKALIKES, ids=lambda x: getattr(x, "__name__", ""))
def test_what_only_looks_like_a_block_is_left_as_it_is(function, operands):
    closed = jax.make_jaxpr(function)(*operands)
    assert fused(closed) is closed


def test_what_is_no_attention_is_not_mentioned():
    w = np.ones((3, 3))
    assert fb.fusions(lambda w: jnp.sum(jnp.tanh(w @ w) @ w), w) == []
    assert fb.fusions(lambda w: jnp.sum(jax.nn.softmax(w)), w) == []


def test_residuals_are_those_of_the_fused_program():
    """What is saved grows with the length, and not with its square."""
    q, k, v = (np.zeros((1, 512, 1, 4), np.float32) for _ in range(3))
    plain, fused = (fb.residuals(loss_of(spellings.unscaled), q, k, v, fuse=fuse).nbytes for fuse in (False, True))
    assert plain >= 4 * 512**2 and fused < plain / 10
