"""The hand-derived blocks as source: the forwards and backwards that are mutated, and programs in which that shows.

A block's file with one mistake in it is executed anew and put where `import` finds it; the programs look there.
"""

import ast
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

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
    options = {"causal": True, "window": None, "scale": 0.7, "softcap": 1.5, "dropout": 0.0}
    return jnp.sin(module.tiled_attention(q, k, v, bias, None, None, None, **options))


def masked_attention(module, q, k, v):
    """With rows that see no key."""
    mask = jnp.arange(q.shape[1])[:, None] % 3 > jnp.arange(k.shape[1])[None] % 2
    options = {"causal": False, "window": (3, None), "scale": 0.7, "softcap": None, "dropout": 0.0}
    return jnp.sin(module.tiled_attention(q, k, v, None, mask[None, None, None], None, None, **options))


def cross_entropy(module, x, w, bias):
    """Of two chunks that overlap."""
    labels = 4 * jnp.arange(x.shape[0], dtype=jnp.int32) % w.shape[1]
    options = {"tied": False, "at_once": 75, "label_smoothing": 0.2, "z_loss": 0.1}
    return jnp.sin(module.loss_in_chunks(x, w, bias, labels, labels % 5 != 1, **options))


def norms(module, x, scale, bias):
    return [jnp.sin(module.layer_norm(x, scale, bias)), jnp.cos(module.rms_norm(x, scale))]


def gates(module, gate, x):
    exact = module.geglu(gate, x, approximate=False)
    return [jnp.sin(y) for y in (module.swiglu(gate, x), module.geglu(gate, x), exact)]


def summary_of_logits(module, x, w, bias):
    """Of two tiles; the labels of some tokens do not count."""
    labels = jnp.arange(x.shape[0], dtype=jnp.int32) % w.shape[1]
    found = module.tiled_logits(x, w, bias, labels, labels != 1, tied=False, with_mean=True)
    return [jnp.sin(part) for part in found]


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


HEADS = normal(1, 130, 2, 1, 2), normal(1, 130, 2, 2, seed=1), normal(1, 130, 2, 3, seed=2)
LSTM, GRU, RNN = layer_operands(4, 2), layer_operands(3, 1), layer_operands(1, 1)
CELL = ("forward", "backward")
TARGETS = {
    "tiled_attention": Target(
        ("attention_forward", "attention_backward", "_scores"),
        ((attention, (*HEADS, normal(1, 2, 1, 130, 130, seed=3))), (masked_attention, HEADS)),
    ),
    "tiled_logits": Target(
        ("logits_forward", "logits_backward", "Tile.__init__", "add_at"),
        ((summary_of_logits, (normal(2100, 2), normal(2, 3, seed=1), normal(3, seed=2))),),
    ),
    "linear_cross_entropy": Target(
        ("loss_forward", "loss_backward"),
        ((cross_entropy, (normal(140, 2), normal(2, 9, seed=1), normal(9, seed=2))),),
    ),
    "norms": Target(
        ("norm_forward", "norm_backward"),
        ((norms, (normal(4, 6), normal(6, seed=1), normal(6, seed=2))),),
    ),
    "gated": Target(
        ("gated_forward", "gated_backward", "_silu", "_gelu", "_gelu_by_tanh"),
        ((gates, (normal(4, 6), normal(4, 6, seed=1))),),
    ),
    "lstm": Target(CELL, ((recurrent("lstm"), LSTM),)),
    "gru": Target(CELL, ((recurrent("gru"), GRU),)),
    "rnn": Target(CELL, ((recurrent("rnn"), RNN),)),
    "recurrence": Target(("_forward", "_backward"), ((recurrent("lstm"), LSTM), (recurrent("gru"), GRU))),
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
