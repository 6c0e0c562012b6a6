"""Recurrent layers over a sequence, against their plain definitions by jax.grad in float64, and planted errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb
from fnbackprop.blocks import lstm as lstm_file
from fnbackprop.blocks import recurrence
from fnbackprop.blocks.gru import gru
from fnbackprop.blocks.lstm import lstm
from fnbackprop.blocks.rnn import rnn
from fnbackprop.jaxprs.graph import all_equations

from ..rules.checking import TOLERANCE, assert_close

pytestmark = pytest.mark.usefixtures("x64")
BLOCKS = {"lstm": (lstm, 4, 2), "gru": (gru, 3, 1), "rnn": (rnn, 1, 1)}


def operands(name, time=6, rows=2, bias=True, dtype="float64", inputs=3, hidden=4):
    _, gates, parts = BLOCKS[name]
    rng = np.random.default_rng(0)
    shapes = [(time, rows, inputs), (inputs, gates * hidden), (gates * hidden,), (hidden, gates * hidden)]
    x, w, b, r, other = (jnp.asarray(rng.normal(size=shape) / 2, dtype) for shape in (*shapes, shapes[2]))
    state = tuple(jnp.asarray(rng.normal(size=(rows, hidden)), dtype) for _ in range(parts))
    return (x, w, b, r, other, state) if bias else (x, w, None, r, None, state)


def loss(function):
    """All outputs weighed by random numbers."""

    def weighed(*args):
        leaves = jax.tree.leaves(function(*args))
        rng = np.random.default_rng(1)
        return sum(jnp.sum(jnp.sin(y) * jnp.asarray(rng.normal(size=y.shape), y.dtype)) for y in leaves)

    return weighed


def gradients(lib, function, args):
    return jax.jit(lib.value_and_grad(loss(function), tuple(range(6))))(*args)


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(recurrence, "ROWS", 6)


@pytest.mark.parametrize("lib", [fb, jax], ids=["fb", "jax"])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_layer_equals_its_plain_definition(name, lib):
    function, args = BLOCKS[name][0], operands(name)
    assert_close(gradients(lib, function, args), gradients(jax, function.plain, args), 1e-12)


@pytest.mark.parametrize("lib", [fb, jax], ids=["fb", "jax"])
def test_a_state_that_is_not_used(lib):
    """Its cotangent is zero without an array of zeros."""
    args = operands("lstm")
    got, want = (
        jax.jit(of.grad(lambda r, f=f: jnp.sum(jnp.sin(f(*args[:3], r, *args[4:])[0]))))(args[3])
        for of, f in ((lib, lstm), (jax, lstm.plain))
    )
    assert_close(got, want, 1e-12)


@pytest.mark.parametrize("time, rows", [(1, 2), (7, 2), (6, 9), (4, 0), (0, 2)])
def test_other_lengths(time, rows):
    args = operands("gru", time, rows, bias=False)
    assert_close(gradients(fb, gru, args), gradients(jax, gru.plain, args), 1e-12)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_low_precision(name, dtype):
    function, args = BLOCKS[name][0], operands(name, dtype=dtype)
    got = gradients(fb, function, args)
    wide = jax.tree.map(lambda a: a.astype("float64"), args)
    want = jax.tree.map(lambda a, like: a.astype(like.dtype), gradients(jax, function.plain, wide), got)
    assert_close(got, want, TOLERANCE[dtype])


def test_complex_numbers():
    args = jax.tree.map(lambda a: a.astype("complex128") * (1 + 0.5j), operands("rnn"))
    got, want = (
        jax.jit(jax.grad(lambda *a, f=f: jnp.real(loss(f)(*a)), tuple(range(6))))(*args) for f in (rnn, rnn.plain)
    )
    assert_close(got, want, 1e-12)


def test_vmap_and_second_order():
    args = operands("lstm")
    several = (jnp.stack([args[0], 2 * args[0]]), *args[1:])
    axes = (0, *(None,) * 5)
    got, want = (
        jax.jit(jax.vmap(jax.grad(loss(f), (0, 3)) if lib is jax else fb.grad(loss(f), (0, 3)), axes))(*several)
        for lib, f in ((fb, lstm), (jax, lstm.plain))
    )
    assert_close(got, want, 1e-12)

    def slope(lib, function):
        first = lib.grad(loss(function), 3)
        return jax.jit(lib.grad(lambda r: jnp.sum(jnp.sin(first(*args[:3], r, *args[4:])))))(args[3])

    assert_close(slope(fb, lstm), slope(jax, lstm.plain), 1e-12)


@pytest.mark.parametrize("name, kept", [("lstm", 1), ("gru", 2), ("rnn", 1)])
def test_cotangents_of_z_and_q_that_are_the_same_are_kept_once(name, kept):
    """A reverse loop over the steps of a chunk stacks arrays of (steps, rows, gates), and sums them as they lie."""
    (function, gates, _), args = BLOCKS[name], operands(name)
    found = list(all_equations(jax.make_jaxpr(fb.grad(loss(function), 3))(*args)))
    stacked = [var.aval.shape for eqn in found if eqn.params.get("reverse") for var in eqn.outvars]
    assert stacked.count((3, 2, gates * 4)) == kept
    sums = [eqn.params["dimension_numbers"][0] for eqn in found if eqn.primitive.name == "dot_general"]
    assert [axes for axes in sums if len(axes[0]) == 2] == 2 * [((0, 1), (0, 1))]


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_it_lowers_for(platform):
    args = operands("gru", dtype="float32")
    traced = jax.jit(fb.grad(loss(gru), 1)).trace(*args)
    assert "stablehlo.while" in traced.lower(lowering_platforms=(platform,)).as_text()


def test_compare_finds_an_error_in_a_cell():
    def backward(*args):
        dz, dq, (dh, dc) = lstm_file.backward(*args)
        return dz, dq, (dh, 2 * dc)

    wrong = recurrence.over_a_sequence("wrong", recurrence.Cell(lstm_file.forward, backward, lstm_file.plain))
    assert not fb.compare(loss(wrong), *operands("lstm", time=3), argnums=3).ok


def test_steps_at_once(monkeypatch):
    monkeypatch.setattr(recurrence, "ROWS", 1024)
    assert [recurrence.steps_at_once(*shape) for shape in ((128, 32), (256, 4), (1031, 32), (1, 1), (90, 64))] == [
        32, 256, 1031, 1, 15,
    ]  # fmt: skip
