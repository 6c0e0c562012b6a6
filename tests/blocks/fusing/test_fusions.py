"""Every spelling of attention and cross-entropy runs as the block, with the plain code's gradient, or says why not."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import fnbackprop as fb
from fnbackprop import losses
from fnbackprop.blocks import tiled_logits
from fnbackprop.blocks.fusing import attention_call
from fnbackprop.blocks.fusing.rewriting import fused

from ...campaigns import fusions as campaign
from ...rules.checking import assert_close
from . import families, language_models, lookalikes, loss_spellings, other_models, spellings


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


@pytest.mark.parametrize("family", families.MODELS)
def test_a_family_of_models(family):
    for spelling in families.MODELS[family]:
        function, operands = spelling.function, tuple(map(jnp.asarray, spelling.operands))
        found = fb.fusions(function, *operands)
        assert campaign.is_as_expected(spelling, found), found
        every = tuple(range(len(operands)))
        got = jax.jit(fb.value_and_grad(loss_of(function), every, fuse=True))(*operands)
        want = jax.jit(jax.value_and_grad(loss_of(function), every))(*operands)
        single = function in (language_models.qwen, other_models.clip_text)  # their softmax is in float32
        assert_close(got, want, 1e-6 if single else 1e-11)


def test_the_table_holds_every_spelling():
    lines, right = campaign.table()
    assert right and len(families.MODELS) >= 31
    in_table = {spelling.function for rows in families.SPELLINGS.values() for spelling in rows}
    helpers = "split_heads merge_heads qkv_of tril rotated scores values causal at_label targets_of left_padding"
    for module in (language_models, other_models, spellings, loss_spellings, lookalikes):
        own = [x for name, x in vars(module).items() if inspect.isfunction(x) and x.__module__ == module.__name__]
        assert {x.__name__ for x in own if x not in in_table} <= set(helpers.split())
    for function in in_table:
        assert any(line.startswith(f"  {function.__name__} ") for line in lines)
    assert not any("/tests/" in line for line in lines)


@pytest.mark.parametrize("function", loss_spellings.LOSSES, ids=lambda x: x.__name__)
def test_a_loss_that_is_taken(function):
    found = fb.fusions(function, *loss_spellings.LAYER)
    assert [(fusion.block, fusion.taken) for fusion in found] == [("linear_cross_entropy", True)], found
    assert "loss_spellings.py" in found[0].where and found[0].saves == 2 * 8 * 30
    _assert_same_gradient(function, "float64", 1e-11)


@pytest.mark.parametrize("table", [(4096, 512), (512, 4096)], ids=["tied", "turned"])
def test_a_table_that_is_transposed_is_not_copied(table, monkeypatch):
    monkeypatch.setattr(tiled_logits, "LOGITS", 2**12)  # of many tiles

    def loss(x, table, labels):
        logits = x @ table.T if table.shape[1] == x.shape[1] else jnp.einsum("nd,vd->nv", x, table.T)
        return jnp.mean(jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, labels[:, None], 1)[:, 0])

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, 512), table)]
    run = jax.jit(fb.grad(loss, (0, 1), fuse=True)).lower(*shapes, jax.ShapeDtypeStruct((8,), jnp.int32)).compile()
    assert run.memory_analysis().temp_size_in_bytes < 4096 * 512 * 4 / 2


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-11), ("float32", 1e-5), ("bfloat16", 3e-2)])
@pytest.mark.parametrize("function", loss_spellings.AT_ONCE, ids=lambda x: x.__name__)
def test_a_loss_that_is_summed_at_once(function, dtype, tolerance):
    operands = [jnp.asarray(x, dtype) for x in loss_spellings.LAYER]
    found = fb.fusions(function, *operands)
    assert [(fusion.block, fusion.taken) for fusion in found] == [("linear_cross_entropy", True)], found
    _assert_same_gradient(function, dtype, tolerance)


@pytest.mark.parametrize("function", [*loss_spellings.LOSSES, *loss_spellings.AT_ONCE], ids=lambda x: x.__name__)
def test_a_loss_that_is_not_a_number_stays_so(function):
    """Of a token that holds NaN; nor is it taken for one whose label is outside the classes."""
    x, *others = map(jnp.asarray, loss_spellings.LAYER)
    operands = x.at[(1,) * x.ndim].set(jnp.nan), *others
    found, plain = (jnp.sum(fb.vjp(function, *operands, fuse=fuse)[0]) for fuse in (True, False))
    assert np.isnan(found) == np.isnan(plain)


def _assert_same_gradient(function, dtype, tolerance):
    """As `jax.grad` has it in float64, of the numbers that the dtype has."""
    operands = [jnp.asarray(x, dtype) for x in loss_spellings.LAYER]
    got = jax.jit(fb.value_and_grad(function, (0, 1, 2), fuse=True))(*operands)
    wide = [x.astype(jnp.float64) for x in operands]
    want = jax.jit(jax.value_and_grad(function, (0, 1, 2)))(*wide)
    assert_close(jax.tree.map(lambda x: x.astype(jnp.float64), got), want, tolerance)


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
    same, found = fused(closed)
    assert same is closed and not any(fusion.taken for fusion in found)


def test_what_is_no_attention_is_not_mentioned():
    w = np.ones((3, 3))
    assert fb.fusions(lambda w: jnp.sum(jnp.tanh(w @ w) @ w), w) == []
    assert fb.fusions(lambda w: jnp.sum(jax.nn.softmax(w)), w) == []


def test_residuals_are_those_of_the_fused_program():
    """What is saved grows with the length, and not with its square."""
    q, k, v = (np.zeros((1, 512, 1, 4), np.float32) for _ in range(3))
    plain, fused = (fb.residuals(loss_of(spellings.unscaled), q, k, v, fuse=fuse).nbytes for fuse in (False, True))
    assert plain >= 4 * 512**2 and fused < plain / 10


def test_what_looks_at_a_gradient_looks_at_the_fused_program():
    q, k, v = (jnp.asarray(x) for x in spellings.ONE)

    def loss(q):
        return jnp.sum(fb.name(spellings.of_one_head(q, k, v), "out") ** 2)

    want = fb.grad(loss)(q)
    for fuse in (False, True):
        seen = fb.trace(loss, q, fuse=fuse)
        primitives = {record.primitive for record in seen.records}
        assert ("custom_vjp_call" in primitives) == fuse and ("exp" in primitives) != fuse
        assert_close(*seen.gradients.values(), want, 1e-11)
        watched = str(jax.make_jaxpr(lambda q, fuse=fuse: fb.watch(loss, q, fuse=fuse))(q))
        assert (" log " in watched) == fuse  # of the block: log Σ exp(s)
        got = fb.named_grad(loss, "out", fuse=fuse)(q)["out"]
        assert_close(got, 2 * spellings.of_one_head(q, k, v), 1e-11)


def test_on_a_mesh_with_explicit_shardings():
    """The batch divided over two devices: attention, and the last layer with the loss."""

    def both(q, k, v, x, w):
        attended = spellings.masked_where(q, k, v)
        return jnp.sum(jnp.sin(attended)) + losses.softmax_cross_entropy(x @ w, jnp.asarray(loss_spellings.LABELS))

    operands = [jnp.asarray(x) for x in (*spellings.BATCHED, *loss_spellings.LAYER[:2])]
    places = [P("data")] * 4 + [P()]
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        placed = [jax.device_put(x, NamedSharding(mesh, p)) for x, p in zip(operands, places, strict=True)]
        assert [fusion.taken for fusion in fb.fusions(both, *placed)] == [True, True]
        got = jax.jit(fb.grad(both, (0, 1, 2, 3, 4), fuse=True))(*placed)
    want = jax.grad(both, (0, 1, 2, 3, 4))(*operands)
    assert_close(jax.tree.map(np.asarray, got), jax.tree.map(np.asarray, want), 1e-11)
