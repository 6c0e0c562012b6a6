"""The rules' modules as source: their functions, who calls whom, and a mutated module in the registry's place.

A mutant is never written to disk. Its module is executed anew from the changed text while the registry's table is a
copy, then every rule module that imports from it, so that their rules use it too; afterwards all is as before.
"""

import ast
import copy
import importlib
import sys
import types
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fnbackprop import rules as package
from fnbackprop.backprop import registry

from .operators import Edit
from .signatures import edits

# They hold no rule (the notation; what has no gradient, or none here), or one that works with a budget alone.
LEFT_OUT = {"expressions", "without_rule", "loops.segmented_scan", "loops.segment_cost"}
Function = tuple[str, str]  # module, name


@dataclass(frozen=True)
class Mutant:
    """One rule, or a function that rules call, with one mistake in it."""

    module: str
    function: str
    edit: Edit

    @property
    def key(self) -> str:
        """What names it: the rule, the place in its syntax tree and the kind of mistake, but no text and no line."""
        return f"{self.function} {self.edit.name}"

    def __str__(self) -> str:
        return f"{self.module}.{self.key}: {self.edit.before} -> {self.edit.after}"


@dataclass(frozen=True)
class Module:
    """A file of `fnbackprop/rules/`, by its path: "products.dot"."""

    name: str
    tree: ast.Module
    functions: dict[str, ast.FunctionDef]  # those of the module, and methods as "Class.method"
    imported: dict[str, Function]  # names from other rule modules; ("linear_algebra.matrices", "") for a whole module

    @property
    def full_name(self) -> str:
        return f"{package.__name__}.{self.name}"


@lru_cache(maxsize=1)
def modules() -> dict[str, Module]:
    """All rule modules that are mutated, in an order in which each comes after those that it imports."""
    files = {_name(path): path for path in sorted(FOLDER.rglob("*.py")) if path.stem != "__init__"}
    files = {name: path for name, path in files.items() if name not in LEFT_OUT}
    found = {name: _module(name, path, files) for name, path in files.items()}
    ordered: dict[str, Module] = {}

    def visit(name: str) -> None:
        if name not in ordered:
            for other, _ in found[name].imported.values():
                visit(other)
            ordered[name] = found[name]

    for name in found:
        visit(name)
    return ordered


FOLDER = Path(package.__file__).parent


def _name(path: Path) -> str:
    return ".".join(path.relative_to(FOLDER).with_suffix("").parts)


def _module(name: str, path: Path, known: Container[str]) -> Module:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions, imported = {}, {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            functions[node.name] = node
        elif isinstance(node, ast.ClassDef):
            functions |= {f"{node.name}.{f.name}": f for f in node.body if isinstance(f, ast.FunctionDef)}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (target := _imported(name, node, alias.name, known)) is not None:
                    imported[alias.asname or alias.name] = target
    return Module(name, tree, functions, imported)


def _imported(name: str, node: ast.ImportFrom, what: str, known: Container[str]) -> Function | None:
    """The function of a rule module, or the module, that a relative import names; None if it is none."""
    above = name.split(".")
    if not 0 < node.level <= len(above):
        return None
    source = ".".join([*above[: len(above) - node.level], *([node.module] if node.module else [])])
    if (module := f"{source}.{what}".lstrip(".")) in known:
        return module, ""
    return (source, what) if source in known else None


# ---------------------------------------------------------------- rules and the functions that they reach


@lru_cache(maxsize=1)
def primitives() -> dict[Function, list[str]]:
    """The primitives of each registered rule, by where the rule stands."""
    found: dict[Function, list[str]] = {}
    for primitive, entry in registry.registered().items():
        functions = [rule.function for rule in entry.rules] + ([entry.structured] if entry.structured else [])
        functions += [entry.activity] if entry.activity else []
        for function in functions:
            module = function.__module__.removeprefix(f"{package.__name__}.")
            if module in modules():
                found.setdefault((module, function.__name__), []).append(str(primitive))
    return found


@lru_cache(maxsize=1)
def reached() -> dict[Function, list[str]]:
    """For each function of the rule modules, the primitives whose rules call it, directly or not."""
    found: dict[Function, dict[str, None]] = {}
    for rule, names in primitives().items():
        for function in _closure(rule):
            found.setdefault(function, {}).update(dict.fromkeys(names))
    return {function: list(names) for function, names in found.items()}


def _closure(start: Function) -> set[Function]:
    seen, waiting = set(), [start]
    while waiting:
        function = waiting.pop()
        if function not in seen:
            seen.add(function)
            waiting += _called(*function)
    return seen


@lru_cache(maxsize=4096)
def _called(module: str, name: str) -> list[Function]:
    """The functions of rule modules that a function mentions; a class stands for its methods."""
    home, found = modules()[module], []
    for node in ast.walk(home.functions[name]):
        if isinstance(node, ast.Name) and node.id in home.imported:
            found.append(home.imported[node.id])
        elif isinstance(node, ast.Name):
            found.append((module, node.id))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            target = home.imported.get(node.value.id)
            found.append((target[0] if target else module, node.attr))
    known = modules()
    return [
        (where, function)
        for where, what in found
        if where in known
        for function in known[where].functions
        if function == what or function.startswith(f"{what}.")
    ]


def mutants(usable: set[str]) -> Iterator[Mutant]:
    """Every mutant of every function that the rule of a usable primitive reaches."""
    targets = {f for f, names in reached().items() if usable.intersection(names)}
    for module in modules().values():
        for name, function in module.functions.items():
            if (module.name, name) in targets:
                yield from (Mutant(module.name, name, edit) for edit in edits(function))


# ---------------------------------------------------------------- in the registry's place


@contextmanager
def installed(mutant: Mutant) -> Iterator[None]:
    """The registry with the rules of the mutated module, and of those that import from it."""
    changed = _dependents(mutant.module)
    names = [modules()[name].full_name for name in changed]
    before = registry._entries, {name: sys.modules[name] for name in names}
    registry._entries = {key: copy.replace(entry) if hasattr(copy, "replace") else copy.copy(entry)
                         for key, entry in registry._entries.items()}  # fmt: skip
    try:
        for name in changed:
            module = modules()[name]
            _execute(module, mutant.edit.apply(module.tree) if name == mutant.module else module.tree)
        clear_caches()
        yield
    finally:
        registry._entries = before[0]
        for name, old in before[1].items():
            _put(name, old)
        clear_caches()


@lru_cache(maxsize=256)
def _dependents(name: str) -> tuple[str, ...]:
    """The module and all that import from it, directly or not, in order."""
    found = [name]
    for module in modules().values():
        if module.name not in found and any(other in found for other, _ in module.imported.values()):
            found.append(module.name)
    return tuple(found)


def _execute(module: Module, tree: ast.Module) -> None:
    """Run a module's tree as that module, its registrations included."""
    old = sys.modules[module.full_name]
    fresh = types.ModuleType(module.full_name)
    fresh.__package__, fresh.__file__ = old.__package__, old.__file__
    _put(module.full_name, fresh)
    code = _compiled(module.name) if tree is module.tree else compile(tree, fresh.__file__, "exec")
    exec(code, fresh.__dict__)


def _put(name: str, module: types.ModuleType) -> None:
    """A module where `import` finds it: among all, and in its package."""
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    setattr(sys.modules[parent], last, module)


@lru_cache(maxsize=64)
def _compiled(name: str) -> types.CodeType:
    """A module's code as it is."""
    module = modules()[name]
    return compile(module.tree, sys.modules[module.full_name].__file__, "exec")


def clear_caches() -> None:
    """Forget every plan that the engine and the rules keep."""
    for name in [n for n in sys.modules if n.startswith("fnbackprop.")]:
        for value in list(vars(sys.modules[name]).values()):
            if callable(clear := getattr(value, "cache_clear", None)):
                clear()


def load_all() -> None:
    """Import what is imported late, so that `clear_caches` sees it."""
    importlib.import_module("fnbackprop.comparing.pipeline")
