"""`python -m tests.campaigns tracing`: does `fb.trace` ever blame a healthy model, and does it find what is planted?

Healthy are the models of `fnbackprop.models` and some attention and sequence code as people write it, at random
initialisations and batches, in float32, bfloat16 and float16, with masks of -inf and of large numbers used rightly,
dropout with a key for each place, padding, and label smoothing. Any blame or finding is a false alarm: it is printed,
and the exit status is then 1. Planted are the cases of the tests: the line, class and iteration must be those.

    python -m tests.campaigns tracing --models 300
    python -m tests.campaigns tracing --models 50 --start 100    # a part: models 100 to 149, nothing planted
    python -m tests.campaigns tracing --only "transformer 17"
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import fnbackprop as fb
from fnbackprop import losses
from fnbackprop.models import convnet, embedding, gru, layer_norm, linear, lstm, mlp, rnn, transformer

DTYPES = ("float32", "bfloat16", "float16")


class Healthy(NamedTuple):
    """A loss and its arguments."""

    loss: Callable
    arguments: tuple[Any, ...]


def lengths_mask(random: np.random.Generator, batch: int, time: int) -> jax.Array:
    """Which positions count, of documents of at least one token."""
    return jnp.arange(time)[None] < jnp.asarray(random.integers(1, time + 1, batch))[:, None]


def a_perceptron(random: np.random.Generator, key: jax.Array, dtype: str) -> Healthy:
    depth = int(random.choice([1, 2, 4]))
    params = mlp.init(key, inputs=8, hidden=(16,) * depth, outputs=4, dtype=dtype)
    x, y = jnp.asarray(random.normal(size=(16, 8)), dtype), jnp.asarray(random.integers(0, 4, 16))
    activation = [jax.nn.relu, jax.nn.gelu, jnp.tanh, jax.nn.silu, jax.nn.sigmoid][random.integers(5)]
    smoothing = float(random.choice([0.0, 0.1]))

    def loss(params, x):
        logits = mlp.apply(params, x, activation=activation)
        return losses.softmax_cross_entropy(logits, y, label_smoothing=smoothing)

    return Healthy(loss, (params, x))


def a_transformer(random: np.random.Generator, key: jax.Array, dtype: str) -> Healthy:
    init, drop = jax.random.split(key)
    tied, scanned = bool(random.integers(2)), bool(random.integers(2))
    params = transformer.init(
        init, vocabulary=11, length=8, width=16, layers=2, tied=tied, scan_layers=scanned, dtype=dtype
    )
    tokens = jnp.asarray(random.integers(0, 11, (3, 8)))
    mask = lengths_mask(random, 3, 8) if random.integers(2) else None
    rate, causal = float(random.choice([0.0, 0.2])), bool(random.integers(2))

    def loss(params, tokens, key):
        logits = transformer.apply(params, tokens, heads=2, causal=causal, mask=mask, dropout=rate, key=key)
        return losses.softmax_cross_entropy(logits[:, :-1], tokens[:, 1:], mask=None if mask is None else mask[:, 1:])

    return Healthy(loss, (params, tokens, drop))


def a_recurrent_network(random: np.random.Generator, key: jax.Array, dtype: str) -> Healthy:
    model = [lstm, gru, rnn][random.integers(3)]
    layers = int(random.choice([1, 2]))
    params = {
        "cells": model.init(key, inputs=6, hidden=8, layers=layers, dtype=dtype),
        "head": linear.init(key, inputs=8, outputs=1, dtype=dtype),
    }
    x, y = jnp.asarray(random.normal(size=(4, 12, 6)), dtype), jnp.asarray(random.normal(size=(4, 12, 1)), dtype)
    mask = lengths_mask(random, 4, 12) if random.integers(2) else None

    def loss(params, x):
        hidden = model.apply(params["cells"], x)[0]
        weights = None if mask is None else mask[..., None]
        return losses.mean_squared_error(linear.apply(params["head"], hidden), y, mask=weights)

    return Healthy(loss, (params, x))


def a_convolutional_network(random: np.random.Generator, key: jax.Array, dtype: str) -> Healthy:
    params = convnet.init(key, inputs=1, channels=(4, 8), outputs=5, dtype=dtype)
    x, y = jnp.asarray(random.normal(size=(4, 8, 8, 1)), dtype), jnp.asarray(random.integers(0, 5, 4))
    return Healthy(lambda params, x: losses.softmax_cross_entropy(convnet.apply(params, x), y), (params, x))


def attention_with_a_mask(random: np.random.Generator, key: jax.Array, dtype: str) -> Healthy:
    """As people write it: -inf, or the most negative number, where nothing may be looked at; a row sees itself."""
    keys = jax.random.split(key, 3)
    params = [0.3 * jax.random.normal(k, (8, 8), dtype) for k in keys]
    x = jnp.asarray(random.normal(size=(3, 6, 8)), dtype)
    lowest = -jnp.inf if random.integers(2) else jnp.finfo(dtype).min
    visible = jnp.tril(jnp.ones((6, 6), bool))[None] & lengths_mask(random, 3, 6)[:, None]
    visible = visible | jnp.eye(6, dtype=bool)[None]
    by_hand = bool(random.integers(2))

    def loss(params, x):
        q, k, v = (x @ w for w in params)
        scores = jnp.where(visible, jnp.einsum("bqd,bkd->bqk", q, k) / np.sqrt(8).astype(x.dtype), lowest)
        if by_hand:
            e = jnp.exp(scores - lax.stop_gradient(jnp.max(scores, -1, keepdims=True)))
            p = e / jnp.sum(e, -1, keepdims=True)
        else:
            p = jax.nn.softmax(scores, -1)
        return jnp.mean(((p @ v) ** 2).astype(jnp.float32))

    return Healthy(loss, (params, x))


def guarded_functions(random: np.random.Generator, key: jax.Array, dtype: str) -> Healthy:
    """Norms, logarithms and roots at zero, guarded as they should be; means over what counts."""
    x = jnp.asarray(random.normal(size=(6, 5)) * random.integers(0, 2, (6, 1)), dtype)
    counts = lengths_mask(random, 6, 5)

    def loss(scale, x):
        y = x * scale
        squares = jnp.sum(y * y, -1)
        norms = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
        logs = jnp.where(y > 0, jnp.log(jnp.where(y > 0, y, 1)), 0)
        mean = jnp.sum(jnp.where(counts, y, 0), -1) / jnp.sum(counts, -1)
        masked = jax.nn.logsumexp(jnp.where(counts, y, -jnp.inf), -1)
        total = jnp.mean(norms) + jnp.mean(logs) + jnp.mean(mean) + jnp.mean(masked)
        return total.astype(jnp.float32)

    return Healthy(loss, (jnp.ones((), dtype), x))


def embedded_sequences(random: np.random.Generator, key: jax.Array, dtype: str) -> Healthy:
    """A bag of embedded tokens with layer norm, and a decoder that loops until all have ended."""
    first, second = jax.random.split(key)
    params = {
        "tokens": embedding.init(first, vocabulary=9, width=8, dtype=dtype),
        "norm": layer_norm.init(width=8, dtype=dtype),
        "head": linear.init(second, inputs=8, outputs=2, dtype=dtype),
    }
    tokens, y = jnp.asarray(random.integers(0, 9, (5, 7))), jnp.asarray(random.integers(0, 2, 5))
    mask, steps = lengths_mask(random, 5, 7), int(random.integers(1, 5))

    def loss(params, tokens):
        x = jnp.where(mask[..., None], embedding.apply(params["tokens"], tokens), 0)
        h = layer_norm.apply(params["norm"], jnp.sum(x, 1))
        h = lax.while_loop(lambda s: s[0] < steps, lambda s: (s[0] + 1, jnp.tanh(s[1]) + h), (0, h))[1]
        return losses.softmax_cross_entropy(linear.apply(params["head"], h), y)

    return Healthy(loss, (params, tokens))


MODELS = {
    "perceptron": a_perceptron,
    "transformer": a_transformer,
    "recurrent": a_recurrent_network,
    "convolutional": a_convolutional_network,
    "attention": attention_with_a_mask,
    "guarded": guarded_functions,
    "sequences": embedded_sequences,
}


def healthy_alarms(name: str, number: int) -> list[str]:
    """What a trace says against a healthy model; nothing, it should be."""
    random, key = np.random.default_rng([number, len(name)]), jax.random.key(number)
    dtype = DTYPES[number % len(DTYPES)]
    with jax.numpy_dtype_promotion("standard"):
        made = MODELS[name](random, key, dtype)
        trace = fb.trace(jax.jit(made.loss) if random.integers(2) else made.loss, *made.arguments)
    blame = trace.blame()
    alarms = [] if blame is None else [blame.sentence]
    return [f"{name} {number} ({dtype}): {alarm}" for alarm in [*alarms, *map(str, trace.findings)]]


def planted_misses() -> tuple[int, list[str]]:
    """How many faults of the tests were traced, eagerly and jitted, and those that were not found where they are."""
    from tests.tracing import cases, more_cases, test_findings
    from tests.tracing.helpers import line_of

    count, missed = 0, []
    for case in cases.CASES + more_cases.CASES:
        for wrap in (lambda f: f, jax.jit):
            count += 1
            blame = fb.trace(wrap(case.fun), *case.args).blame()
            expected = line_of(case.fun), case.kind, case.iteration
            if blame is None or (blame.place.line, blame.kind, blame.iteration) != expected:
                missed.append(f"{case.fun.__name__}: {blame}")
    for fun, args, concern, _ in test_findings.PLANTED:
        for wrap in (lambda f: f, jax.jit):
            count += 1
            findings = fb.trace(wrap(fun), *args).findings
            if [f.concern for f in findings] != [concern]:
                missed.append(f"{fun.__name__}: {list(map(str, findings))}")
    return count, missed


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns tracing", description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=int, default=300)
    parser.add_argument("--start", type=int, default=0, help="the number of the first model")
    parser.add_argument("--only", help='one healthy model by itself, "transformer 17"')
    options = parser.parse_args(argv)
    if options.only:
        name, number = options.only.split()
        alarms = healthy_alarms(name, int(number))
        print(*(alarms or ["nothing is said against it"]), sep="\n")
        return bool(alarms)
    began, said, counted = time.monotonic(), [], Counter()
    for number in range(options.start, options.start + options.models):
        name = list(MODELS)[number % len(MODELS)]
        alarms = healthy_alarms(name, number)
        counted[name] += 1
        said += alarms
        print(*alarms, sep="\n", end="\n" if alarms else "", flush=True)
    told = ", ".join(f"{count} {name}" for name, count in counted.items())
    print(f"{options.models} healthy models ({told}): {len(said)} alarms, {time.monotonic() - began:.0f} s", flush=True)
    count, missed = (0, []) if options.start else planted_misses()
    print(*missed, sep="\n", end="\n" if missed else "")
    print(f"{count} planted faults: {count - len(missed)} found, {time.monotonic() - began:.0f} s")
    return bool(said or missed)
