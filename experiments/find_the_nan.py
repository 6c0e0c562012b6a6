"""A GPT in bfloat16 whose gradient becomes NaN one day: which line was it?

    python experiments/find_the_nan.py               # 40 s of processor time
    fnbackprop replay experiments/find_the_nan.py    # afterwards: the same finding, from the batch that the run kept

Documents have different lengths, so attention must not look at what pads them: its scores there are -inf, which a
softmax turns into 0. But one document of the collection is empty, as happens. When its turn comes, whole rows of
scores are -inf, their softmax is NaN, and the run ends: with the gradient of that step, for its loss is finite, where a
compiler takes the product with the weights 0 and 1 for a selection. `fb.replay` takes the step again and names the
line, the reason, and what to do: a large finite number. With `--mask finite` the same run goes on. Expected last line:

    the gradient is NaN at step 55; with a finite mask the loss is 1.89 after 120 steps
"""

import dataclasses
import inspect
import textwrap
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fnbackprop as fb
from fnbackprop.models import embedding, layer_norm, linear

LENGTH, WIDTH, HEADS = 48, 64, 4


@dataclasses.dataclass(frozen=True)
class Config:
    """How attention is kept from looking at what pads a document."""

    mask: Literal["infinite", "finite"] = "infinite"
    """What its scores there are: -inf, or the most negative number of their type."""
    steps: int = 120
    """How many weight updates."""
    seed: int = 0
    """Of the parameters and of the order of the documents."""


def documents() -> list[bytes]:
    """The lines of one of Python's modules; one is empty, as happens."""
    written = [line for line in inspect.getsource(textwrap).splitlines() if line.strip()]
    lines = [line.encode()[:LENGTH] for line in written[:400]]
    lines[200] = b""
    return lines


def init(key: jax.Array):
    keys = iter(jax.random.split(key, 6))
    return {
        "bytes": embedding.init(next(keys), vocabulary=256, width=WIDTH),
        "positions": embedding.init(next(keys), vocabulary=LENGTH, width=WIDTH),
        "norm": layer_norm.init(width=WIDTH),
        "qkv": linear.init(next(keys), inputs=WIDTH, outputs=3 * WIDTH),
        "mixed": linear.init(next(keys), inputs=WIDTH, outputs=WIDTH),
        "logits": linear.init(next(keys), inputs=WIDTH, outputs=256),
    }


def attention(params, x, visible, lowest):
    """Each position takes a mean of the values at the positions that it may look at."""
    q, k, v = jnp.split(linear.apply(params["qkv"], x).reshape(*x.shape[:2], HEADS, -1), 3, axis=-1)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(WIDTH // HEADS).astype(x.dtype)
    scores = jnp.where(visible[:, None], scores, lowest)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), v)
    return linear.apply(params["mixed"], mixed.reshape(x.shape))


def experiment(config: Config) -> fb.Experiment:
    """The experiment as pure functions of (parameters, batch)."""
    lines = documents()

    def batch(step: int):
        chosen = np.random.default_rng((config.seed, step)).choice(len(lines), 8, replace=False)
        padded = np.array([list(lines[i].ljust(LENGTH, b"\0")) for i in chosen], np.int32)
        return {"text": padded, "lengths": np.array([len(lines[i]) for i in chosen], np.int32)}

    def loss(params, batch, key):
        text, earlier = batch["text"], jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
        written = jnp.arange(LENGTH)[None] < batch["lengths"][:, None]
        visible = written[:, None, :] & earlier[None]
        x = embedding.apply(params["bytes"], text) + params["positions"]["w"][None]
        lowest = -jnp.inf if config.mask == "infinite" else jnp.finfo(x.dtype).min
        x = x + attention(params, layer_norm.apply(params["norm"], x), visible, lowest)
        logits = linear.apply(params["logits"], x)[:, :-1].astype(jnp.float32)
        surprise = optax.softmax_cross_entropy_with_integer_labels(logits, text[:, 1:])
        weights = written[:, 1:].astype(jnp.float32)
        return jnp.sum(surprise * weights) / jnp.sum(weights)

    return fb.Experiment(
        name=f"find-the-nan-{config.mask}",
        init=init,
        loss=loss,
        batch=batch,
        optimizer=optax.adam(3e-3),
        steps=config.steps,
        seed=config.seed,
        config=config,
        precision="bfloat16",
    )


def find(config: Config) -> None:
    """Train until a number is NaN, find the line, mend it, and train again."""
    faulty = experiment(dataclasses.replace(config, mask="infinite"))
    step = None
    try:
        fb.train(faulty)
    except fb.NonFiniteLoss as error:
        step = error.step
        print(f"{error}\n\n{fb.replay(faulty)}\n")
    mended = experiment(dataclasses.replace(config, mask="finite"))
    state = fb.train(mended)
    after = float(mended.loss(state.params, mended.batch(config.steps), None))
    print(f"the gradient is NaN at step {step}; with a finite mask the loss is {after:.2f} after {config.steps} steps")


if __name__ == "__main__":
    fb.run(experiment, default=find)
