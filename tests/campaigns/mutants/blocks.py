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
from unittest.mock import patch

from fnbackprop import blocks as package

from .block_programs import TARGETS
from .programs.table import Program
from .rules import Mutant, clear_caches
from .signatures import edits

PREFIX = "blocks."


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


# Files that import from a mutated one, and are executed anew with it.
READERS = {"tiled_logits": ("linear_cross_entropy",)}
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
    mutated = mutant.module.removeprefix(PREFIX)
    names = (mutated, *READERS.get(mutated, ()))
    right = {name: importlib.import_module(f"{package.__name__}.{name}") for name in names}
    try:
        for name in names:
            _execute(name, right[name], mutant.edit.apply(_tree(name)) if name == mutated else _tree(name))
        clear_caches()
        yield
    finally:
        for name in names:
            _put(name, right[name])
        clear_caches()


def _execute(name: str, right: ModuleType, tree: ast.Module) -> None:
    """A file's tree as that file's module."""
    fresh = ModuleType(right.__name__)
    fresh.__package__, fresh.__file__ = right.__package__, right.__file__
    _put(name, fresh)
    exec(compile(tree, str(right.__file__), "exec"), fresh.__dict__)
    vars(fresh).update(SIZES.get(name, {}))


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
