"""The last layer and the loss in chunks, against the plain definition by jax.grad, and against `losses`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import fnbackprop as fb
from fnbackprop import losses
from fnbackprop.blocks import linear_cross_entropy as file
from fnbackprop.blocks import tiled_logits, tiling
from fnbackprop.blocks.block import Block

from ..rules.checking import assert_close
from .planting import enlarged

RNG = np.random.default_rng(0)
X, W, BIAS, LABELS = (
    RNG.normal(size=(7, 3)),
    RNG.normal(size=(3, 11)),
    RNG.normal(size=11),
    RNG.integers(0, 11, 7, np.int32),
)
MASK = np.array([1, 1, 0, 1, 0, 1, 1], bool)


@pytest.fixture(autouse=True, params=["chunks", "tiles"])
def small_parts(request, monkeypatch):
    """Chunks that overlap, or tiles of two widths that go beyond the tokens, of small arrays."""
    for module in (file, tiled_logits):
        monkeypatch.setattr(module, "may_be_divided", lambda x: False)
    monkeypatch.setattr(file, "FEWEST", 3)
    monkeypatch.setattr(file, "LOGITS", 44 if request.param == "chunks" else 0)
    monkeypatch.setattr(tiled_logits, "TOKENS", 4)
    monkeypatch.setattr(tiled_logits, "LOGITS", 16)
    return request.param


CASES = {
    "plain": {},
    "tied": {"tied": True},
    "with everything": {"label_smoothing": 0.1, "z_loss": 0.02, "mask": MASK},
    "everything, tied": {"label_smoothing": 0.1, "z_loss": 0.02, "mask": MASK, "tied": True},
    "nothing counts": {"mask": np.zeros(7, bool)},
}


plainly = object()


def gradients(lib, x, w, bias, labels, function=None, tied=False, mask=None, **options):
    """Of the loss by the block, or by another function in its place."""
    mask, blocks = None if mask is None else jnp.asarray(mask), (file.tiled_logits, file.loss_in_chunks)
    if function is plainly:
        file.tiled_logits, file.loss_in_chunks = tiled_logits.plain_logits, file.plain_loss
    try:

        def loss(x, w, bias):
            table = w.T if tied else w
            found = fb.linear_cross_entropy(x, table, labels, bias=bias, mask=mask, tied=tied, **options)
            return jnp.sin(2 * found)

        return lib.value_and_grad(loss, (0, 1, 2))(x, w, bias)
    finally:
        file.tiled_logits, file.loss_in_chunks = blocks


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("lib", [fb, jax], ids=["fb", "jax"])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_it_equals_its_plain_definition(options, lib):
    operands = tuple(map(jnp.asarray, (X, W, BIAS, LABELS)))
    want = jax.jit(lambda: gradients(jax, *operands, function=plainly, **options))()
    assert_close(jax.jit(lambda: gradients(lib, *operands, **options))(), want, 1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("tokens", [(), (1,), (0,), (2, 3)])
def test_it_equals_the_loss_of_logits(tokens):
    x, labels = jnp.asarray(RNG.normal(size=(*tokens, 3))), jnp.asarray(RNG.integers(0, 11, tokens))

    def plain(x, w):
        return losses.softmax_cross_entropy(x @ w, labels, label_smoothing=0.2)

    def ours(x, w):
        return fb.linear_cross_entropy(x, w, labels, label_smoothing=0.2)

    w = jnp.asarray(W)
    assert_close(fb.value_and_grad(ours, (0, 1))(x, w), jax.value_and_grad(plain, (0, 1))(x, w), 1e-12)


def test_what_is_masked_does_not_matter_and_a_label_outside_is_nan():
    x, w, labels = jnp.asarray(X, jnp.float32), jnp.asarray(W, jnp.float32), jnp.asarray(LABELS)
    run = fb.value_and_grad(lambda x, w, labels: fb.linear_cross_entropy(x, w, labels, mask=jnp.asarray(MASK)), (0, 1))
    spoilt = run(x.at[2].set(jnp.nan).at[4].set(jnp.inf), w, labels.at[2].set(-100))
    assert_close(spoilt, run(x, w, labels), 0.0)
    assert np.isnan(fb.linear_cross_entropy(x, w, labels.at[0].set(11)))
    assert np.isnan(fb.linear_cross_entropy(x, w, labels.at[0].set(-1)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 0.02)], ids=["float32", "bfloat16"])
def test_low_precision(dtype, tolerance):
    x, w, bias = (jnp.asarray(a, dtype) for a in (X, W, BIAS))
    value, found = gradients(fb, x, w, bias, jnp.asarray(LABELS), **CASES["with everything"])
    assert value.dtype == jnp.float32 and all(g.dtype == dtype for g in found)
    wide = (a.astype(jnp.float64) for a in (x, w, bias))
    want = gradients(jax, *wide, jnp.asarray(LABELS), function=plainly, **CASES["with everything"])
    assert_close(*(jax.tree.map(lambda a: np.asarray(a, np.float64), r) for r in ((value, found), want)), tolerance)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("tokens", [1, 7])
def test_one_tile_of_bfloat16(tied, tokens, monkeypatch, small_parts):
    """A loop of one step, whose products XLA takes into the program around it."""
    monkeypatch.undo()
    monkeypatch.setattr(file, "may_be_divided", lambda x: small_parts == "tiles")
    x, w, labels = jnp.asarray(X[:tokens], jnp.bfloat16), jnp.asarray(W, jnp.bfloat16), jnp.asarray(LABELS[:tokens])
    x, w = x + 1, w.T if tied else w

    def loss(x, w):
        return fb.linear_cross_entropy(x, w, labels, tied=tied)

    def plain(x, w):
        return losses.softmax_cross_entropy(x @ (w.T if tied else w), labels)

    want = jax.grad(plain, (0, 1))(x.astype(jnp.float32), w.astype(jnp.float32))
    for lib in (fb, jax):
        assert_close(jax.jit(lib.grad(loss, (0, 1)))(x, w), jax.tree.map(lambda a: a.astype(jnp.bfloat16), want), 0.03)


@pytest.mark.parametrize("tied", [False, True])
def test_cotangents_of_masked_tokens(tied):
    """Of which nothing passes on to w, whatever stands in x; to the bias it does."""
    weights = RNG.normal(size=(3, 7))

    def summed(summary, x, w, b):
        parts = summary(x, w, b, jnp.asarray(LABELS), jnp.asarray(MASK), tied=tied, with_mean=True)
        return jnp.sum(weights * jnp.stack(parts))

    with jax.enable_x64(True):
        spoilt = jnp.asarray(X).at[2].set(jnp.nan).at[4].set(-jnp.inf)
        operands = spoilt, jnp.asarray(W.T if tied else W), jnp.asarray(BIAS)
        got, want = (
            jax.grad(functools.partial(summed, summary), (0, 1, 2))(*operands)
            for summary in (tiled_logits.tiled_logits, tiled_logits.plain_logits)
        )
    assert_close(got, want, 1e-12)


@pytest.mark.usefixtures("x64")
def test_second_order_and_vmap():
    x, w, labels = map(jnp.asarray, (X, W, LABELS))

    def twice(lib, function):
        def inner(x, w):
            return jnp.sum(jnp.sin(lib.grad(lambda x: function(x, w))(x)))

        return jax.jit(jax.vmap(lib.grad(inner, 1), (0, None)))(jnp.stack([x, 2 * x]), w)

    want = twice(jax, lambda x, w: losses.softmax_cross_entropy(x @ w, labels))
    for lib in (fb, jax):
        assert_close(twice(lib, lambda x, w: fb.linear_cross_entropy(x, w, labels)), want, 1e-11)


def products(fun, *args):
    text = str(jax.make_jaxpr(fun)(*args))
    return text.count("dot_general")


DIVIDED = {"x": (P("data"), P()), "w": (P(), P(None, "model")), "x and w": (P("data"), P(None, "model"))}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", [*DIVIDED, "shard_map"])
def test_on_several_devices(monkeypatch, kind):
    """Divided by a mesh with explicit axes, or by `shard_map`."""
    monkeypatch.setattr(tiled_logits, "LOGITS", 12)  # tiles of three classes, which two devices cannot share
    for module in (file, tiled_logits) if kind in DIVIDED else ():
        monkeypatch.setattr(module, "may_be_divided", tiling.may_be_divided)
    axis = AxisType.Explicit if kind in DIVIDED else AxisType.Auto
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(axis, axis), devices=jax.devices()[:4])
    x, w, labels = np.concatenate([X, X[:1]]), np.concatenate([W, W[:, :1]], 1), np.append(LABELS, np.int32(2))
    of_x, of_w = DIVIDED.get(kind, (P(), P()))

    def on_devices(x, w):
        share = jax.shard_map(
            lambda x, w, labels: jax.lax.pmean(fb.linear_cross_entropy(x, w, labels), "data"),
            mesh=mesh, in_specs=(P("data"), P(), P("data")), out_specs=P(),
        )  # fmt: skip
        return share(x, w, labels)

    with jax.set_mesh(mesh):
        put = [jax.device_put(a, NamedSharding(mesh, spec)) for a, spec in ((x, of_x), (w, of_w), (labels, of_x))]
        function = on_devices if kind == "shard_map" else lambda x, w: fb.linear_cross_entropy(x, w, put[2])
        got = jax.jit(fb.grad(function, (0, 1)))(*put[:2])
    want = jax.grad(lambda x, w: losses.softmax_cross_entropy(x @ w, labels), (0, 1))(x, w)
    assert_close(tuple(map(np.asarray, got)), want, 1e-12)


def test_only_what_is_wanted_is_computed(small_parts):
    x, labels = jnp.asarray(X, jnp.float32), jnp.asarray(LABELS)
    w = jnp.asarray(W[:, :8], jnp.float32)  # of tiles of one width
    loss = functools.partial(fb.linear_cross_entropy, labels=labels)
    assert products(loss, x, w) == 1
    for lib in (fb, jax):
        counts = [products(lib.grad(loss, argnums), x, w) for argnums in (0, 1, (0, 1))]
        assert counts == ([2, 2, 3] if small_parts == "chunks" else [3, 3, 4])


@pytest.mark.parametrize("classes", [8192, 50257])
def test_memory(monkeypatch, classes):
    monkeypatch.undo()
    x, w = jax.ShapeDtypeStruct((2048, 256), jnp.float32), jax.ShapeDtypeStruct((256, classes), jnp.float32)
    run = jax.jit(fb.value_and_grad(fb.linear_cross_entropy, (0, 1)))
    memory = run.lower(x, w, jax.ShapeDtypeStruct((2048,), jnp.int32)).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 16 * 2**20


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowering_for_other_platforms(platform):
    x, labels = jax.ShapeDtypeStruct((7, 3), jnp.bfloat16), jax.ShapeDtypeStruct((7,), jnp.int32)
    run = jax.jit(fb.grad(fb.linear_cross_entropy, (0, 1)))
    assert jax.export.export(run, platforms=[platform])(x, jax.ShapeDtypeStruct((3, 11), jnp.bfloat16), labels)


def test_compare_catches_planted_errors(monkeypatch, small_parts):
    place, name = (file, "loss_in_chunks") if small_parts == "chunks" else (file, "tiled_logits")
    right = getattr(place, name)
    x, w, bias = (jnp.asarray(a, jnp.float32) for a in (X, W, BIAS))
    labels = jnp.asarray(LABELS)

    def verdict(**changed):
        parts = {"forward": right.forward, "backward": right.backward, "value": None} | changed
        monkeypatch.setattr(place, name, Block(plain=right.plain, name="linear_cross_entropy", **parts))

        def loss(x, w, bias):
            return fb.linear_cross_entropy(x, w, labels, bias=bias, mask=jnp.asarray(MASK), label_smoothing=0.1)

        return fb.compare(loss, x, w, bias, argnums=(0, 1, 2))

    assert verdict().ok
    for i in (0, 1):
        found = verdict(backward=enlarged(right.backward, i))
        assert not found.ok and found.first_difference.operand == i
        assert found.first_difference.name == "linear_cross_entropy"

    @functools.wraps(right.forward)
    def larger(*operands, **options):
        found, residuals = right.forward(*operands, **options)
        return jax.tree.map(lambda part: part * 1.001, found), residuals

    assert not verdict(forward=larger).ok


ERRORS = {
    "labels": ({"labels": np.zeros(7)}, TypeError, "labels must be integers"),
    "order": ({"w": W.T}, ValueError, r"x of shape \(7, 3\) must be .*\(11, 3\), which is \(width, classes\)"),
    "bias": ({"bias": BIAS[:5]}, ValueError, r"bias of shape \(5,\) must be \(11,\)"),
    "mask": ({"mask": MASK[:5]}, ValueError, "mask of shape"),
    "mask of numbers": ({"mask": np.ones(7)}, TypeError, "mask must be boolean"),
    "complex": ({"w": W * 1j}, TypeError, "w must be real, got complex"),
    "smoothing": ({"label_smoothing": 2.0}, ValueError, "label_smoothing"),
}


@pytest.mark.parametrize("changed, error, message", ERRORS.values(), ids=ERRORS)
def test_errors(changed, error, message):
    given = {"x": X, "w": W, "labels": LABELS} | changed
    with pytest.raises(error, match=message):
        fb.linear_cross_entropy(**given)
