"""`fuse=True` in a run: it trains as without, says what runs as a block, and its gradient is the one checked."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnbackprop as fb
from fnbackprop.blocks.fusing import attention_call
from fnbackprop.comparing.comparison import GradientMismatch
from fnbackprop.experiment import Experiment, Update
from fnbackprop.training.loop import train

WIDTH, CLASSES = 3, 5


def attentive(**changes) -> Experiment:
    """Attention over four positions, and a linear layer with cross-entropy: both in plain JAX."""

    def init(key):
        rng = np.random.default_rng(0)
        return {"w": jnp.asarray(rng.normal(size=(WIDTH, WIDTH)), jnp.float32), "head": jnp.ones((WIDTH, CLASSES))}

    def loss(params, batch, key):
        h = batch["x"] @ params["w"]
        h = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", h, h)) @ h
        logits = h @ params["head"]
        at_label = jnp.take_along_axis(logits, batch["labels"][..., None], -1)[..., 0]
        return jnp.mean(jax.nn.logsumexp(logits, -1) - at_label)

    def batch(step):
        rng = np.random.default_rng(step)
        return {"x": rng.normal(size=(2, 4, WIDTH)).astype(np.float32), "labels": rng.integers(0, CLASSES, (2, 4))}

    parts = {"name": "a", "init": init, "loss": loss, "batch": batch, "optimizer": optax.sgd(0.1), "steps": 3}
    return Experiment(**(parts | changes))


def test_it_trains_as_without_and_says_what_is_fused(capsys):
    plain = train(attentive(), directory=None, progress=False)
    fused = train(attentive(), directory=None, fuse=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), fused.params, plain.params)
    said = [line for line in capsys.readouterr().out.splitlines() if "fuse:" in line]
    assert len(said) == 2 and all("test_first_notes.py" in line and "saves" in line for line in said), said
    assert said[0].startswith("a: fuse: attention at ") and said[1].startswith("a: fuse: linear_cross_entropy at ")


def test_of_each_update_what_is_not_taken_and_nothing(capsys):
    def dropped(params, batch, key):
        h = batch["x"] @ params["w"]
        weights = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", h, h))
        return jnp.sum(jnp.where(jax.random.bernoulli(key, 0.5, weights.shape), weights, 0) @ h)

    updates = (
        Update("dropped", dropped, optax.sgd(0.1), parameters=("w",)),
        Update("square", lambda params, batch, key: jnp.sum(params["head"] ** 2), optax.sgd(0.1), parameters=("head",)),
    )
    made = attentive(updates=updates, loss=None, optimizer=None, steps=1)
    train(made, directory=None, fuse=True)
    said = [line for line in capsys.readouterr().out.splitlines() if "fuse:" in line]
    assert "a, update dropped: fuse: attention at " in said[0] and "not taken: its weights are dropped" in said[0]
    assert said[1:] == ["a, update square: fuse: its loss holds neither attention nor linear + cross-entropy"]


@pytest.mark.parametrize("wrong", [False, True])
def test_the_fused_gradient_is_compared(monkeypatch, wrong):
    right = attention_call.tiled_attention

    @functools.wraps(right.backward)
    def backward(residuals, dout, **options):
        dq, *others = right.backward(residuals, dout, **options)
        return (1.1 * dq, *others)

    if wrong:
        monkeypatch.setattr(attention_call, "tiled_attention", fb.block(right.forward, backward, plain=right.plain))
    with pytest.raises(GradientMismatch) if wrong else contextlib.nullcontext():
        train(attentive(), backward="both", compare_every=2, fuse=True, directory=None, progress=False)
