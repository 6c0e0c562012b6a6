"""Attention by tiles against its plain definition by jax.grad: masks, odd lengths, blind rows, precisions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import fnbackprop as fb
from fnbackprop.blocks import attention_tiles, tiled_attention
from fnbackprop.blocks.attention import attention
from fnbackprop.blocks.block import Block

from ..rules.checking import assert_close

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles along each axis of small arrays."""
    monkeypatch.setattr(attention_tiles, "may_be_divided", lambda q: False)
    monkeypatch.setattr(attention_tiles, "SIDE", 4)
    monkeypatch.setattr(attention_tiles, "BLOCK", 2)
    monkeypatch.setattr(attention_tiles, "PARTS", 2)


def draw(batch=(2,), queries=7, keys=7, heads=2, kv_heads=2, size=3, value_size=3):
    shapes = (queries, heads, size), (keys, kv_heads, size), (keys, kv_heads, value_size)
    rng = np.random.default_rng(queries + 10 * keys + 100 * heads)
    return [rng.normal(size=(*batch, *shape)) for shape in shapes]


def mask_of(*shape):
    return RNG.random(shape) > 0.4


SEGMENTS = RNG.integers(0, 2, (2, 7)), RNG.integers(0, 2, (2, 9))
CASES = {
    "all": (draw(), {}),
    "causal": (draw(), {"causal": True}),
    "causal, large tiles below the diagonal": (draw(queries=18, keys=16), {"causal": True}),
    "window, large tiles within": (draw((2,), 16, 18), {"window": (12, 11), "mask": mask_of(2, 1, 16, 18)}),
    "causal, cross": (draw(queries=5, keys=9), {"causal": True}),
    "causal, more queries than keys": (draw(queries=9, keys=5), {"causal": True}),
    "grouped heads": (draw(heads=4), {"causal": True, "scale": 0.3}),
    "one kv head, another size of values": (draw(heads=3, kv_heads=1, value_size=5), {}),
    "mask": (draw(keys=9), {"mask": mask_of(2, 2, 7, 9)}),
    "mask of keys": (draw(keys=9), {"mask": mask_of(2, 1, 1, 9), "causal": True}),
    "rows that see nothing": (draw(), {"mask": mask_of(2, 1, 7, 7) & (np.arange(7) % 3 > 0)[:, None], "causal": True}),
    "nothing is seen": (draw(), {"mask": np.zeros((1, 7, 7), bool)}),
    "bias": (draw(), {"bias": RNG.normal(size=(2, 2, 7, 7))}),
    "bias of heads and distances": (draw(), {"bias": RNG.normal(size=(2, 7, 7)), "causal": True}),
    "bias of keys": (draw(), {"bias": RNG.normal(size=(2, 1, 1, 7))}),
    "window": (draw(), {"window": (2, 1)}),
    "causal window, more queries than keys": (draw(queries=9, keys=5), {"window": 2, "causal": True}),
    "segments": (draw(keys=9), {"segments": SEGMENTS}),
    "softcap with bias": (draw(), {"softcap": 1.5, "bias": RNG.normal(size=(7, 7))}),
    "no batch": (draw(batch=()), {"causal": True}),
    "batches of batches": (draw(batch=(2, 3), queries=3, keys=3), {"mask": mask_of(3, 1, 3, 3)}),
    "one token": (draw(queries=1, keys=1), {"causal": True}),
    "one query": (draw(queries=1, keys=9), {"mask": mask_of(2, 1, 1, 9)}),
    "empty batch": (draw(batch=(0,)), {"causal": True}),
    "dropout": (draw(queries=5), {"dropout": 0.4, "key": jax.random.key(1), "mask": mask_of(2, 1, 5, 7)}),
}  # fmt: skip


def value_and_gradients(lib, q, k, v, options, dtype):
    """Of a sum with random weights: ((value, output), gradients with respect to q, k, v and bias)."""
    weights = np.random.default_rng(1).normal(size=(*q.shape[:-1], v.shape[-1]))
    options = {name: jnp.asarray(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
    if "segments" in options:
        options["segments"] = tuple(map(jnp.asarray, options["segments"]))
    bias = {"bias": jnp.asarray(options.pop("bias"), dtype)} if "bias" in options else {}

    def loss(q, k, v, bias):
        out = attention(q, k, v, **bias, **options)
        return jnp.sum(out.astype(jnp.float64) * weights), out

    return lib.value_and_grad(loss, (0, 1, 2, 3), has_aux=True)(*(jnp.asarray(x, dtype) for x in (q, k, v)), bias)


def plainly(q, k, v, options):
    """By jax.grad of the plain definition, in float64."""
    block, attention.__globals__["tiled_attention"] = tiled_attention.tiled_attention, tiled_attention.plain_attention
    try:
        return value_and_gradients(jax, q, k, v, options, jnp.float64)
    finally:
        attention.__globals__["tiled_attention"] = block


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("operands, options", CASES.values(), ids=CASES)
def test_attention_equals_its_plain_definition(operands, options):
    want = jax.jit(lambda *xs: plainly(*xs, options))(*operands)
    got = jax.jit(lambda *xs: value_and_gradients(fb, *xs, options, jnp.float64))(*operands)
    assert_close(got, want, 1e-12)


LOW = {jnp.float32: 1e-5, jnp.bfloat16: 0.02, jnp.float16: 0.004}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", LOW, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("lib", [fb, jax], ids=["fb", "jax"])
def test_low_precision(dtype, lib):
    operands = [np.asarray(jnp.asarray(x, dtype), np.float64) for x in draw(heads=4)]
    options = {"causal": True, "mask": mask_of(2, 1, 7, 7)}
    (_, out), gradients = value_and_gradients(lib, *operands, options, dtype)
    assert all(g.dtype == dtype for g in jax.tree.leaves((out, gradients)))
    got = jax.tree.map(lambda x: np.asarray(x, np.float64), (out, gradients))
    (_, out), gradients = plainly(*operands, options)
    assert_close(got, jax.tree.map(np.asarray, (out, gradients)), LOW[dtype])


@pytest.mark.usefixtures("x64")
def test_vmap_and_second_order():
    q, k, v = map(jnp.asarray, draw(batch=(), queries=5, keys=5, heads=1, kv_heads=1))

    def twice(lib, q, k, v):
        def inner(q):
            return jnp.sum(jnp.sin(lib.grad(lambda q: jnp.sum(attention(q, k, v, causal=True) ** 2))(q)))

        return lib.grad(inner)(q)

    batch = jnp.stack([q, 2 * q])
    got = [jax.jit(jax.vmap(lambda q, lib=lib: twice(lib, q, k, v)))(batch) for lib in (fb, jax)]

    def plain(q, k, v, causal):
        s = jnp.einsum("qhd,khd->hqk", q, k) / np.sqrt(3)
        weights = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((1, 5, 5), bool)), s, -1e30), -1)
        return jnp.einsum("hqk,khd->qhd", weights, v)

    def by_jax(q):
        return jnp.sum(jnp.sin(jax.grad(lambda q: jnp.sum(plain(q, k, v, True) ** 2))(q)))

    want = jax.jit(jax.vmap(jax.grad(by_jax)))(batch)
    for one in got:
        assert_close(one, want, 1e-11)


def test_as_jax_and_positions_far_apart():
    q, k, v = (jnp.asarray(x, jnp.float32) for x in draw(heads=4, queries=9, keys=9))
    for options in ({"is_causal": True}, {"local_window_size": (3, 1)}, {"is_causal": True, "local_window_size": 2}):
        window, causal = options.get("local_window_size"), options.get("is_causal", False)
        want = jax.nn.dot_product_attention(q, k, v, **options)
        assert_close(attention(q, k, v, window=window, causal=causal), want, 1e-6)


def test_without_keys_there_is_nothing_to_average():
    q, k, v = map(jnp.asarray, draw(keys=0))
    assert not np.any(fb.grad(lambda q: jnp.sum(attention(q, k, v)))(q)) and not np.any(attention(q, k, v))


def test_tiles_that_are_not_seen_are_not_visited():
    q, k = np.zeros((1, 16, 1, 1, 2), np.float32), np.zeros((1, 16, 1, 2), np.float32)

    def count(*visible):
        tiling = attention_tiles.Tiling.of(q, k, attention_tiles.Visible.of(*visible), 0.0)
        return len(tiling.large.steps), len(tiling.small.steps)

    assert [count(False, None), count(True, None), count(True, (2, 0))] == [(4, 0), (1, 6), (0, 7)]


def test_memory_does_not_grow_with_the_square_of_the_length(monkeypatch):
    monkeypatch.undo()

    def temp(length):
        q = jax.ShapeDtypeStruct((1, length, 4, 64), jnp.float32)
        run = jax.jit(jax.grad(lambda q, k, v: jnp.sum(attention(q, k, v, causal=True)), (0, 1, 2)))
        return run.lower(q, q, q).compile().memory_analysis().temp_size_in_bytes

    assert temp(4096) < 16 * 2**20 and temp(4096) < 4.5 * temp(1024)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowering_for_other_platforms(platform):
    q = jax.ShapeDtypeStruct((1, 8, 2, 4), jnp.bfloat16)
    run = jax.jit(fb.grad(lambda q, k, v: jnp.sum(attention(q, k, v, causal=True).astype(jnp.float32))))
    assert platform in jax.export.export(run, platforms=[platform])(q, q, q).platforms


@pytest.mark.parametrize("kind", ["shard_map", "explicit"])
def test_on_a_mesh(kind, monkeypatch):
    auto = AxisType.Auto if kind == "shard_map" else AxisType.Explicit
    monkeypatch.undo()
    mesh = jax.make_mesh((2,), ("data",), axis_types=(auto,), devices=jax.devices()[:2])
    q, k, v = (jnp.asarray(x, jnp.float32) for x in draw(batch=(4,)))
    run = fb.grad(lambda q, k, v: jnp.sum(attention(q, k, v, causal=True) ** 2), (0, 1, 2))
    want = run(q, k, v)
    if kind == "shard_map":
        run = jax.shard_map(run, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
        got = jax.jit(run)(q, k, v)
    else:
        with jax.set_mesh(mesh):
            got = jax.jit(run)(*(jax.device_put(x, NamedSharding(mesh, P("data"))) for x in (q, k, v)))
    assert_close(jax.tree.map(np.asarray, got), jax.tree.map(np.asarray, want), 1e-5)


# ---------------------------------------------------------------- planted errors


def test_compare_catches_planted_errors(monkeypatch):
    """In the forward, in the mask of a tile, and in each cotangent."""
    q, k, v = (jnp.asarray(x, jnp.float32) for x in draw())
    right = tiled_attention.tiled_attention

    def verdict(forward=right.forward, backward=right.backward):
        monkeypatch.setitem(
            attention.__globals__, "tiled_attention", Block(forward, backward, right.plain, None, "attention")
        )
        return fb.compare(lambda q, k, v: jnp.sum(attention(q, k, v, causal=True) ** 2), q, k, v, argnums=(0, 1, 2))

    assert verdict().ok

    for i in range(3):

        @functools.wraps(right.backward)
        def wrong(residuals, dout, i=i, **options):
            found = list(right.backward(residuals, dout, **options))
            found[i] = found[i].at[:, 3, ..., 0].multiply(1.01)
            return tuple(found)

        found = verdict(backward=wrong)
        assert not found.ok and found.first_difference.operand == i
        assert found.first_difference.name == "attention" and "test_attention.py" in found.first_difference.where

    @functools.wraps(right.forward)
    def too_large(*operands, **options):
        out, residuals = right.forward(*operands, **options)
        return out * 1.001, residuals

    assert not verdict(forward=too_large).ok


ERRORS = {
    "shapes": ((draw()[0], *draw(keys=5, size=4)[1:]), {}, ValueError, "q must be .* got q"),
    "heads": (draw(heads=3, kv_heads=2), {}, ValueError, "3 query heads are no multiple of 2"),
    "mask": (draw(), {"mask": mask_of(3, 7)}, ValueError, r"mask of shape \(3, 7\) is not broadcast .*\(2, 2, 7, 7\)"),
    "mask of numbers": (draw(), {"mask": np.ones((7, 7))}, TypeError, "mask must be boolean"),
    "segments": (draw(), {"segments": np.zeros((2, 5), int)}, ValueError, r"segments of shape \(2, 5\)"),
    "dropout": (draw(), {"dropout": 1.0}, ValueError, "dropout"),
    "complex": ((draw()[0] * 1j, *draw()[1:]), {}, TypeError, "real floating numbers, got q complex"),
}


@pytest.mark.parametrize("operands, options, error, message", ERRORS.values(), ids=ERRORS)
def test_errors(operands, options, error, message):
    options = {name: jnp.asarray(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
    with pytest.raises(error, match=message):
        attention(*map(jnp.asarray, operands), **options)
