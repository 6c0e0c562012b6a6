"""The hand-derived blocks as source: the forwards and backwards that are mutated, and programs in which that shows.

A block's file with one mistake in it is executed anew and put where `import` finds it; the programs look there.
"""

import ast
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from unittest.mock import patch

import jax
import jax.numpy as jnp

from fnbackprop import blocks as package

from .programs.operands import normal
from .programs.table import Program
from .rules import Mutant, clear_caches
from .signatures import edits

PREFIX = "blocks."


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
    """Of large logits; and of a label that is no class, which makes the loss NaN."""
    x, w = abs(x), 60 * w - 100
    labels = 4 * jnp.arange(x.shape[0], dtype=jnp.int32) % w.shape[0]
    options = {"tied": True, "at_once": 3, "label_smoothing": 0.0, "z_loss": 0.0}
    losses = [module.loss_in_chunks(x, w, None, own, None, **options) for own in (labels, labels.at[1].set(7))]
    return [jnp.where(jnp.isnan(loss), jnp.sum(x), loss) for loss in losses]


def masked_cross_entropy(module, x, w):
    """Of labels of which none counts, and of which one does; the others are of NaN."""
    labels = jnp.arange(x.shape[0], dtype=jnp.int32) % w.shape[0]
    options = {"tied": True, "at_once": 3, "label_smoothing": 0.0, "z_loss": 0.0}

    def loss(mask):
        counted = jnp.where(mask[:, None], x, jnp.nan)
        return jnp.sin(1 + module.loss_in_chunks(counted, w, None, labels, mask, **options))

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


def recurrent(name: str) -> Callable:
    """A layer over a sequence, of a mutated cell or around the right one."""

    def run(module, x, w, b, r, bias, *state):
        cell = module if hasattr(module, "plain") else importlib.import_module(f"{package.__name__}.{name}")
        over = importlib.import_module(f"{package.__name__}.recurrence")
        layer = over.over_a_sequence(name, over.Cell(cell.forward, cell.backward, cell.plain))
        h, final = layer(x, w, b, r, bias, state)
        return [jnp.sin(h), *map(jnp.cos, final)]

    return run


def layer_operands(gates: int, parts: int, time: int = 6, rows: int = 64, hidden: int = 2) -> tuple:
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
            part_of(blind_attention, (0,), FEW),
            part_of(blind_attention, (1, 2), FEW),
        ),
    ),
    "tiled_logits": Target(
        ("logits_forward", "logits_backward", "of_w", "logit_at", "Cut.of", "Cut.pad", "Tile.__init__", "add_at"),
        (
            (summary_of_logits, (normal(20, 2), normal(2, 5, seed=1), normal(5, seed=2))),
            (tied_summary, (normal(20, 2), normal(5, 2, seed=1))),
        ),
    ),
    "linear_cross_entropy": Target(
        ("loss_forward", "loss_backward"),
        (
            (cross_entropy, (normal(140, 2), normal(2, 9, seed=1), normal(9, seed=2))),
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


def mutants() -> Iterator[Mutant]:
    """Every mutant of every function of a target."""
    for name, target in TARGETS.items():
        for function in target.functions:
            yield from (Mutant(f"{PREFIX}{name}", function, edit) for edit in edits(_functions(name)[function]))


@lru_cache
def programs_of(module: str) -> list[Program]:
    """Of a file, whose module is looked up when a program is traced."""
    name = module.removeprefix(PREFIX)

    def of(function: Callable) -> Callable:
        return lambda *operands: function(sys.modules[f"{package.__name__}.{name}"], *operands)

    return [Program(name, i, of(function), operands) for i, (function, operands) in enumerate(TARGETS[name].programs)]


# Of tiles, so that small operands have several of each size, the last of which overlap or are padded.
SIZES = {"attention_tiles": {"SIDE": 4}, "tiled_logits": {"TOKENS": 8, "LOGITS": 21}}


@contextmanager
def small_tiles() -> Iterator[None]:
    """As on one device, as blocks cut nothing into tiles that may lie on several."""
    with ExitStack() as stack:
        stack.enter_context(patch("jax.device_count", lambda: 1))
        for name, sizes in SIZES.items():
            stack.enter_context(patch.multiple(importlib.import_module(f"{package.__name__}.{name}"), **sizes))
        clear_caches()
        yield
    clear_caches()


@contextmanager
def installed(mutant: Mutant) -> Iterator[None]:
    """The mutated file in the place of the right one."""
    name = mutant.module.removeprefix(PREFIX)
    full = f"{package.__name__}.{name}"
    right = importlib.import_module(full)
    wrong = ModuleType(full)
    wrong.__package__, wrong.__file__ = right.__package__, right.__file__
    try:
        _put(name, wrong)
        exec(compile(mutant.edit.apply(_tree(name)), str(right.__file__), "exec"), wrong.__dict__)
        vars(wrong).update(SIZES.get(name, {}))
        clear_caches()
        yield
    finally:
        _put(name, right)
        clear_caches()


def _put(name: str, module: ModuleType) -> None:
    sys.modules[f"{package.__name__}.{name}"] = module
    setattr(package, name, module)


@lru_cache
def _tree(name: str) -> ast.Module:
    importlib.import_module(f"{package.__name__}.{name}")
    return ast.parse((Path(package.__file__).parent / f"{name}.py").read_text(encoding="utf-8"))


@lru_cache
def _functions(name: str) -> dict[str, ast.FunctionDef]:
    """Those of a file, and methods as "Class.method"."""
    found = {}
    for node in _tree(name).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{f.name}": f for f in node.body if isinstance(f, ast.FunctionDef)}
    return found
