import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop import trees
from fnbackprop.models import transformer
from tests.models.sampling import random_params
from tests.rules.checking import assert_close

KEY = jax.random.key(0)
VOCABULARY, LENGTH, WIDTH, HEADS, LAYERS, BATCH, TIME = 11, 9, 8, 2, 2, 4, 7
TOKENS = jax.random.randint(jax.random.key(1), (BATCH, TIME), 0, VOCABULARY)
PADDING = jnp.arange(TIME)[None] < jnp.array([[7], [4], [1], [0]])  # the last has no token at all
apply = jax.jit(functools.partial(transformer.apply, heads=HEADS), static_argnames=["causal", "dropout", "dtype"])


@functools.cache
def gpt(**options):
    sizes = {"vocabulary": VOCABULARY, "length": LENGTH, "width": WIDTH, "layers": LAYERS}
    return random_params(transformer.init, **sizes | options)


def flax_transformer(params, tokens, visible):
    def dense(params, x):
        flax_params = {"kernel": params["w"]} | ({"bias": params["b"]} if "b" in params else {})
        return nn.Dense(params["w"].shape[1], use_bias="b" in params).apply({"params": flax_params}, x)

    def norm(params, x):
        return nn.LayerNorm(epsilon=1e-5).apply({"params": params}, x)

    def attend(block, x):
        w, b = (np.split(block["qkv"][name], 3, axis=-1) for name in "wb")
        flax_params = {
            name: {"kernel": w[i].reshape(WIDTH, HEADS, -1), "bias": b[i].reshape(HEADS, -1)}
            for i, name in enumerate(["query", "key", "value"])
        }
        out = block["projection"]
        flax_params["out"] = {"kernel": out["w"].reshape(HEADS, -1, WIDTH), "bias": out["b"]}
        return nn.MultiHeadDotProductAttention(HEADS).apply({"params": flax_params}, x, mask=visible)

    x = params["token"]["w"][tokens] + params["position"]["w"][None, : tokens.shape[1]]
    for block in params["blocks"]:
        x = x + attend(block, norm(block["norm1"], x))
        x = x + dense(block["down"], nn.gelu(dense(block["up"], norm(block["norm2"], x))))
    return dense(params.get("head", {"w": params["token"]["w"].T}), norm(params["norm"], x))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_same_as_flax(causal, masked):
    params = gpt(tied=causal)
    mask = PADDING[:3] if masked else None
    visible = nn.make_causal_mask(TOKENS[:3], dtype=bool) if causal else np.ones((3, 1, TIME, TIME), bool)
    if masked:
        visible = visible & np.asarray(mask)[:, None, None, :]
    logits = apply(params, TOKENS[:3], causal=causal, mask=mask)
    expected = flax_transformer(params, TOKENS[:3], visible)
    compared = np.asarray(PADDING[:3]) if masked else np.ones((3, TIME), bool)  # what padding itself gives is no matter
    np.testing.assert_allclose(logits[compared], expected[compared], rtol=1e-4, atol=1e-5)


def test_attention_same_as_flax():
    q, k, v = jax.random.normal(KEY, (3, BATCH, TIME, HEADS, 4))
    visible = jax.random.bernoulli(KEY, 0.5, (BATCH, 1, TIME, TIME)) | jnp.eye(TIME, dtype=bool)[None, None]
    expected = nn.dot_product_attention(q, k, v, mask=visible)
    np.testing.assert_allclose(transformer.attention(q, k, v, visible), expected, rtol=1e-5, atol=1e-6)


def test_attention_softmax_is_float32():
    """Scores of about 300 apart by 0.25: equal in bfloat16, not in float32."""
    q = jnp.ones((1, 1, 16), jnp.bfloat16) * 4
    k = jnp.stack([jnp.full((1, 16), 18.75), jnp.full((1, 16), 18.75).at[0, 0].set(19.0)]).astype(jnp.bfloat16)
    v = jnp.array([0.0, 1.0], jnp.bfloat16)[:, None, None]
    weight = transformer.attention(q, k, v, None)
    np.testing.assert_allclose(weight.astype(jnp.float32), 1 / (1 + np.exp(-0.25)), rtol=2**-8)


@pytest.mark.parametrize("position", [0, 3, 6])
def test_causal_outputs_see_nothing_of_later_tokens(position):
    params = gpt()
    changed = TOKENS.at[:, position].set((TOKENS[:, position] + 1) % VOCABULARY)
    before, after = apply(params, TOKENS), apply(params, changed)
    np.testing.assert_array_equal(after[:, :position], before[:, :position])
    assert np.all(np.any(after[:, position:] != before[:, position:], axis=-1))


def test_causality_holds_at_padding_too():
    """Padded on the left, the first positions see no token at all, and still nothing of the later ones."""
    params, mask = gpt(), PADDING[:, ::-1]
    before, after = (apply(params, TOKENS.at[:, 6].set(token), mask=mask) for token in (0, 1))
    np.testing.assert_array_equal(after[:, :6], before[:, :6])


def test_without_causality_every_output_sees_every_token():
    params = gpt()
    changed = TOKENS.at[:, 6].set((TOKENS[:, 6] + 1) % VOCABULARY)
    before, after = apply(params, TOKENS, causal=False), apply(params, changed, causal=False)
    assert np.all(np.any(after != before, axis=-1))


@pytest.mark.parametrize("causal", [False, True])
def test_padding_is_seen_by_nobody(causal):
    params = gpt()
    changed = jnp.where(PADDING, TOKENS, (TOKENS + 1) % VOCABULARY)
    before, after = (apply(params, tokens, causal=causal, mask=PADDING) for tokens in (TOKENS, changed))
    np.testing.assert_array_equal(after[PADDING], before[PADDING])
    shorter = apply(params, TOKENS[1:2, :4], causal=causal)
    np.testing.assert_allclose(before[1:2, :4], shorter, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", [PADDING, PADDING[:, ::-1]], ids=["right", "left"])
def test_padding_leaves_everything_finite(mask):
    def loss(params):
        return jnp.sum(jnp.sin(apply(params, TOKENS, mask=mask)))

    value, gradient = jax.value_and_grad(loss)(gpt())
    assert np.isfinite(value) and np.isfinite(trees.global_norm(gradient))


def test_order_matters_by_the_positions_alone():
    params = gpt()
    still = params | {"position": jax.tree.map(jnp.zeros_like, params["position"])}
    swapped = TOKENS[:, jnp.array([1, 0, 2, 3, 4, 5, 6])]
    last = [apply(params, tokens, causal=False)[:, -1] for tokens in (TOKENS, swapped)]
    assert np.all(np.any(last[0] != last[1], axis=-1) == (TOKENS[:, 0] != TOKENS[:, 1]))
    last = [apply(still, tokens, causal=False)[:, -1] for tokens in (TOKENS, swapped)]
    np.testing.assert_allclose(*last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"causal": False, "mask": PADDING}, {"dropout": 0.5}, {"dtype": jnp.bfloat16}])
def test_scan_equals_unrolled(options):
    params = gpt(tied=False)
    scanned = params | {"blocks": trees.stack(params["blocks"])}
    key = jax.random.key(2, impl="rbg") if "dropout" in options else None
    unrolled = apply(params, TOKENS, key=key, **options)
    relative = 0.02 if "dtype" in options else 1e-5
    np.testing.assert_allclose(
        apply(scanned, TOKENS, key=key, **options).astype(jnp.float32),
        unrolled.astype(jnp.float32),
        rtol=0,
        atol=relative * np.max(np.abs(unrolled)),
    )


def test_init_stacked_is_init_unrolled():
    sizes = {"vocabulary": VOCABULARY, "length": LENGTH, "width": WIDTH, "layers": LAYERS}
    params, scanned = (transformer.init(KEY, scan_layers=scan, **sizes) for scan in (False, True))
    for ours, expected in zip(
        jax.tree.leaves(scanned), jax.tree.leaves(params | {"blocks": trees.stack(params["blocks"])}), strict=True
    ):
        np.testing.assert_array_equal(ours, expected)


def test_init_deviations():
    params = transformer.init(KEY, vocabulary=500, length=300, width=128, layers=3, tied=False)
    residual = 0.02 / np.sqrt(2 * 3)
    expected = {"token/w": 0.02, "position/w": 0.01, "head/w": 0.02}
    for i in range(3):
        expected |= {f"blocks/{i}/{name}/w": 0.02 for name in ("qkv", "up")}
        expected |= {f"blocks/{i}/{name}/w": residual for name in ("projection", "down")}
    for path, leaf in trees.leaves_with_paths(params):
        if path.endswith("w"):
            np.testing.assert_allclose(np.std(leaf), expected.pop(path), rtol=0.02, err_msg=path)
        else:
            np.testing.assert_array_equal(leaf, 1.0 if path.endswith("scale") else 0.0, err_msg=path)
    assert not expected
    assert "head" not in gpt() and params["blocks"][0]["up"]["w"].shape == (128, 512)


def test_mlp_width():
    block = gpt(mlp_width=5)["blocks"][0]
    assert block["up"]["w"].shape == (WIDTH, 5) and block["down"]["w"].shape == (5, WIDTH)


@pytest.mark.parametrize("shape", [(TIME,), (2, 2, TIME)])
def test_any_batch_axes(shape):
    tokens, mask = (a[: np.prod(shape[:-1], dtype=int)].reshape(shape) for a in (TOKENS, PADDING))
    logits = apply(gpt(), tokens, mask=mask)
    flat = apply(gpt(), tokens.reshape(-1, TIME), mask=mask.reshape(-1, TIME))
    np.testing.assert_allclose(logits, flat.reshape(*shape, VOCABULARY), rtol=1e-4, atol=1e-5)


def test_logits_are_the_head_on_the_features():
    params = gpt()
    x = transformer.features(params, TOKENS, heads=HEADS)
    assert x.shape == (BATCH, TIME, WIDTH)
    np.testing.assert_allclose(apply(params, TOKENS), x @ params["token"]["w"].T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "tokens, options, error, message",
    [
        (jnp.zeros((2, 10), jnp.int32), {}, ValueError, r"\(2, 10\) must be \(..., time\), time at most 9"),
        (jnp.int32(0), {}, ValueError, r"must be \(..., time\)"),
        (TOKENS, {"heads": 3}, ValueError, "a width of 8 cannot be shared by 3 heads"),
        (TOKENS, {"mask": TOKENS}, TypeError, "mask must be boolean and False at padding, got int32"),
        (TOKENS, {"mask": PADDING[0]}, ValueError, r"mask of shape \(7,\) must have the tokens' shape \(4, 7\)"),
        (TOKENS.astype(jnp.float32), {}, TypeError, "tokens must be integers, got float32"),
    ],
)
def test_errors(tokens, options, error, message):
    with pytest.raises(error, match=message):
        transformer.apply(gpt(), tokens, **{"heads": HEADS} | options)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_long_sequences_run_by_tiles_and_give_the_same(monkeypatch, causal, masked):
    params = transformer.init(jax.random.key(0), vocabulary=7, length=6, width=8, layers=2, scan_layers=True)
    tokens = jax.random.randint(jax.random.key(1), (2, 6), 0, 7)
    mask = jnp.arange(6)[None] < jnp.array([[6], [4]]) if masked else None

    def run():
        return jax.value_and_grad(
            lambda p: jnp.sum(transformer.apply(p, tokens, heads=2, causal=causal, mask=mask) ** 2)
        )(params)

    plainly = run()
    monkeypatch.setattr(transformer, "BY_TILES", 4)
    assert_close(run(), plainly, 1e-5)
