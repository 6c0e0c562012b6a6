"""Programs of the hand-derived blocks, by file: what a mutant of one is looked for in."""

import importlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnbackprop import blocks as package

from .programs.operands import normal


class Target(NamedTuple):
    """A file of `fnbackprop/blocks/`: the functions that are mutated, and (function, operands) of its programs, which
    find what is mutated in the module that they are handed."""

    functions: tuple[str, ...]
    programs: tuple[tuple[Callable, tuple], ...]


def attention(module, q, k, v, bias):
    """With a large tile under the diagonal, and tiles that reach beyond the whole."""
    options = {"causal": True, "window": None, "scale": 0.7, "softcap": 1.5, "dropout": 0.0}
    return jnp.sin(module.tiled_attention(q, k, v, bias, None, None, None, **options))


def masked_attention(module, q, k, v):
    """With rows that see no key."""
    mask = jnp.arange(q.shape[1])[:, None] % 3 > jnp.arange(k.shape[1])[None] % 2
    options = {"causal": False, "window": (3, None), "scale": 0.7, "softcap": None, "dropout": 0.0}
    return jnp.sin(module.tiled_attention(q, k, v, None, mask[None, None, None], None, None, **options))


def blind_attention(module, q, k, v):
    """With rows that see no key for a window alone."""
    options = {"causal": False, "window": (None, -2), "scale": 0.7, "softcap": None, "dropout": 0.0}
    return jnp.sin(module.tiled_attention(q, k, v, None, None, None, None, **options))


def dropped_attention(module, q, k, v):
    """In segments, in a group of two heads, with dropped weights."""
    options = {"causal": False, "window": None, "scale": 0.7, "softcap": None, "dropout": 0.3}
    segments = jnp.arange(q.shape[1])[None] // 5, jnp.arange(k.shape[1])[None] // 4
    q = jnp.concatenate([q, jnp.cos(q)], 3)
    return jnp.sin(module.tiled_attention(q, k, v, None, None, segments, jax.random.key(3), **options))


def part_of(function: Callable, places: tuple[int, ...], operands: tuple) -> tuple[Callable, tuple]:
    """A program of some of its operands; the others need no gradient."""

    def run(module, *some):
        given = dict(zip(places, some, strict=True))
        return function(module, *(given.get(i, x) for i, x in enumerate(operands)))

    return run, tuple(operands[i] for i in places)


def short_bias(module, q, k, v, bias):
    """Of all that is seen, with a bias that all queries and heads share."""
    options = {"causal": False, "window": None, "scale": 0.7, "softcap": None, "dropout": 0.0}
    return jnp.sin(module.tiled_attention(q, k, v, bias, None, None, None, **options))


def cross_entropy(module, x, w, bias):
    """Of two chunks that overlap."""
    labels = 4 * jnp.arange(x.shape[0], dtype=jnp.int32) % w.shape[1]
    options = {"tied": False, "at_once": 75, "label_smoothing": 0.2, "z_loss": 0.1}
    return jnp.sin(1 + module.loss_in_chunks(x, w, bias, labels, labels % 5 != 1, **options))


def tied_cross_entropy(module, x, w):
    """Of large logits; and of labels that are no class, which make the loss NaN."""
    x, w = abs(x), 60 * w - 100
    labels = 4 * jnp.arange(x.shape[0], dtype=jnp.int32) % w.shape[0]
    options = {"tied": True, "at_once": 3, "label_smoothing": 0.0, "z_loss": 0.0}
    losses = [
        module.loss_in_chunks(x, w, None, own, None, **options)
        for own in (labels, *(labels.at[1].set(n) for n in (7, -1)))
    ]
    return [jnp.where(jnp.isnan(loss), jnp.sum(x), loss) for loss in losses]


def masked_cross_entropy(module, x, w):
    """Of labels of which none counts, and of which one does; the others are of NaN. One class is ruled out."""
    labels, possible = jnp.arange(x.shape[0], dtype=jnp.int32) % w.shape[0], jnp.array([0, 0, 0, -jnp.inf])
    options = {"tied": True, "at_once": 3, "label_smoothing": 0.0, "z_loss": 0.0}

    def loss(mask):
        counted = jnp.where(mask[:, None], x, jnp.nan)
        return jnp.sin(1 + module.loss_in_chunks(counted, w, possible, labels, mask, **options))

    return [loss(labels < 0), loss(labels == 2)]


def norms(module, x, scale, bias):
    of_rms = module.rms_norm(x, scale, epsilon=0.1)
    return [jnp.sin(module.layer_norm(x, scale, bias, epsilon=0.1)), jnp.cos(of_rms)]


def bare_norms(module, x):
    return [jnp.sin(module.layer_norm(x)), jnp.cos(module.rms_norm(x))]


def gates(module, gate, x):
    exact = module.geglu(gate, x, approximate=False)
    return [jnp.sin(y) for y in (module.swiglu(gate, x), module.geglu(gate, x), exact)]


def summary_of_logits(module, x, w, bias):
    """Of tiles that overlap; the labels of some tokens do not count."""
    labels = jnp.arange(x.shape[0], dtype=jnp.int32) % w.shape[1]
    found = module.tiled_logits(x, w, bias, labels, labels != 1, tied=False, with_mean=True)
    return [jnp.sin(part) for part in found]


def tied_summary(module, x, w):
    """Of large logits, with and without their mean; of some labels that are no class, whose logits are NaN."""
    x, w = abs(x), 60 * w - 100
    labels = jnp.arange(x.shape[0], dtype=jnp.int32) % (w.shape[0] + 2) - 1
    lse, at_label, _ = module.tiled_logits(x, w, None, labels, None, tied=True, with_mean=False)
    mean = module.tiled_logits(x, w, None, labels, None, tied=True, with_mean=True).mean
    return [lse, jnp.where(jnp.isnan(at_label), lse, at_label), mean]


def empty_summary(module, x, w):
    """Of no tokens, or no classes, of which lse is -inf."""
    labels = jnp.zeros(x.shape[0], jnp.int32)
    lse = module.tiled_logits(x, w, None, labels, None, tied=False, with_mean=False).lse
    return jnp.where(lse == -jnp.inf, jnp.sum(x), lse)


def of_reader(function: Callable) -> Callable:
    """A program of the file that imports from the mutated one."""
    return lambda _, *operands: function(importlib.import_module(f"{package.__name__}.linear_cross_entropy"), *operands)


def recurrent(name: str) -> Callable:
    """A layer over a sequence, of a mutated cell or around the right one."""

    def run(module, x, w, b, r, bias, *state):
        cell = module if hasattr(module, "plain") else importlib.import_module(f"{package.__name__}.{name}")
        over = importlib.import_module(f"{package.__name__}.recurrence")
        layer = over.over_a_sequence(name, over.Cell(cell.forward, cell.backward, cell.plain))
        h, final = layer(x, w, b, r, bias, state)
        return [jnp.sin(h), *map(jnp.cos, final)]

    return run


def layer_operands(gates: int, parts: int, time: int = 6, rows: int = 128, hidden: int = 2) -> tuple:
    """Of two chunks of three steps."""
    shapes = [(time, rows, 2), (2, gates * hidden), (gates * hidden,), (hidden, gates * hidden), (gates * hidden,)]
    return tuple(normal(*shape, seed=i) for i, shape in enumerate([*shapes, *[(rows, hidden)] * parts]))


HEADS = normal(1, 34, 2, 1, 2), normal(1, 34, 2, 2, seed=1), normal(1, 34, 2, 3, seed=2)
FEW = normal(1, 22, 2, 1, 2), normal(1, 18, 2, 2, seed=1), normal(1, 18, 2, 3, seed=2)
LSTM, GRU, RNN = layer_operands(4, 2), layer_operands(3, 1), layer_operands(1, 1)
CELL = ("forward", "backward")
TARGETS = {
    "tiled_attention": Target(
        ("attention_forward", "attention_backward", "_cotangent_of_mean", "_scores"),
        (
            (attention, (*HEADS, normal(1, 2, 1, 34, 34, seed=3))),
            (masked_attention, FEW),
            (short_bias, (*FEW, normal(1, 1, 1, 1, 18, seed=3))),
            (dropped_attention, FEW),
            (short_bias, tuple(x.astype("bfloat16") for x in (*FEW, normal(1, 1, 1, 1, 18, seed=3)))),
            part_of(blind_attention, (0,), FEW),
            part_of(blind_attention, (1, 2), FEW),
        ),
    ),
    "tiled_logits": Target(
        ("logits_forward", "logits_backward", "of_w", "logit_at", "Cut.of", "Cut.pad", "Tile.__init__", "add_at"),
        (
            (summary_of_logits, (normal(20, 24) / 5, normal(24, 5, seed=1), normal(5, seed=2))),
            (tied_summary, (normal(20, 2), normal(5, 2, seed=1))),
            (of_reader(cross_entropy), (normal(140, 2), normal(2, 9, seed=1), normal(9, seed=2))),
            (of_reader(tied_cross_entropy), (normal(5, 2), normal(4, 2, seed=1))),
            (empty_summary, (normal(0, 2), normal(2, 5, seed=1))),
            (empty_summary, (normal(3, 2), normal(2, 0, seed=1))),
        ),
    ),
    "linear_cross_entropy": Target(
        ("loss_forward", "loss_backward"),
        (
            (cross_entropy, (normal(140, 2), normal(2, 9, seed=1), normal(9, seed=2))),
            (cross_entropy, (normal(140, 2), normal(2, 1, seed=1), normal(1, seed=2))),
            (tied_cross_entropy, (normal(5, 2), normal(4, 2, seed=1))),
            (masked_cross_entropy, (normal(5, 2), normal(4, 2, seed=1))),
        ),
    ),
    "norms": Target(
        ("norm_forward", "norm_backward"),
        ((norms, (normal(4, 6), normal(6, seed=1), normal(6, seed=2))), (bare_norms, (normal(4, 6),))),
    ),
    "gated": Target(
        ("gated_forward", "gated_backward", "_silu", "_gelu", "_gelu_by_tanh"),
        ((gates, (normal(4, 6), normal(4, 6, seed=1))),),
    ),
    "lstm": Target(CELL, ((recurrent("lstm"), LSTM),)),
    "gru": Target(CELL, ((recurrent("gru"), GRU),)),
    "rnn": Target(CELL, ((recurrent("rnn"), RNN),)),
    "recurrence": Target(
        ("_forward", "_backward"),
        ((recurrent("lstm"), LSTM), (recurrent("gru"), GRU), part_of(recurrent("rnn"), (0, 3), RNN)),
    ),
}
