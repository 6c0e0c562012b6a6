"""The rules' modules as source: their functions, who calls whom, and a mutated module in the registry's place.

A mutant is never written to disk. Its module is executed anew from the changed text while the registry's table is a
copy, then every rule module that imports from it, so that their rules use it too; afterwards all is as before.
"""

import ast
import copy
import importlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fnbackprop import rules as package
from fnbackprop.backprop import registry

from .operators import Edit, Source, edits

# They hold no rule (what has no gradient, what is refused), or one that works with a budget alone (segments).
LEFT_OUT = {"without_rule", "callbacks", "references", "scalars", "segments", "__init__"}
Function = tuple[str, str]  # module, name


@dataclass(frozen=True)
class Mutant:
    """One rule, or a function that rules call, with one mistake in it."""

    module: str
    function: str
    edit: Edit

    @property
    def key(self) -> str:
        """What names it in the table of equivalent mutants: no line numbers, which move."""
        return f"{self.function}: {_one_line(self.edit.before)} -> {_one_line(self.edit.after)}"

    @property
    def line(self) -> str:
        """The source line in which the mistake is."""
        return modules()[self.module].source.bytes.decode().splitlines()[self.edit.line - 1].strip()

    def __str__(self) -> str:
        return f"{self.module}.py:{self.edit.line} {self.key}  [{self.edit.operator}]"


def _one_line(text: str) -> str:
    return " ".join(text.split())


@dataclass(frozen=True)
class Module:
    """A file of `fnbackprop/rules/`."""

    name: str
    source: Source
    functions: dict[str, ast.FunctionDef]  # those of the module, and methods as "Class.method"
    imported: dict[str, Function]  # names from other rule modules; ("matrices", "") for a whole module

    @property
    def full_name(self) -> str:
        return f"{package.__name__}.{self.name}"


@lru_cache(maxsize=1)
def modules() -> dict[str, Module]:
    """All rule modules that are mutated, in an order in which each comes after those that it imports."""
    folder = Path(package.__file__).parent
    found = {path.stem: _module(path) for path in sorted(folder.glob("*.py")) if path.stem not in LEFT_OUT}
    ordered: dict[str, Module] = {}

    def visit(name: str) -> None:
        if name in found and name not in ordered:
            for other, _ in found[name].imported.values():
                visit(other)
            ordered[name] = found[name]

    for name in found:
        visit(name)
    return ordered


def _module(path: Path) -> Module:
    source = Source(path.read_text(encoding="utf-8"))
    functions, imported = {}, {}
    for node in source.tree.body:
        if isinstance(node, ast.FunctionDef):
            functions[node.name] = node
        elif isinstance(node, ast.ClassDef):
            functions |= {f"{node.name}.{f.name}": f for f in node.body if isinstance(f, ast.FunctionDef)}
        elif isinstance(node, ast.ImportFrom) and node.level == 1:
            for alias in node.names:
                target = (node.module, alias.name) if node.module else (alias.name, "")
                imported[alias.asname or alias.name] = target
    return Module(path.stem, source, functions, imported)


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
    targets, registered = {f for f, names in reached().items() if usable.intersection(names)}, primitives()
    for module in modules().values():
        for name, function in module.functions.items():
            if (module.name, name) in targets:
                is_rule = (module.name, name) in registered and _is_plain_rule(module, function)
                yield from (Mutant(module.name, name, edit) for edit in edits(module.source, function, is_rule))


def _is_plain_rule(module: Module, function: ast.FunctionDef) -> bool:
    return any("vjp_rule" in module.source.text(decorator) for decorator in function.decorator_list)


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
            text = mutant.edit.apply(module.source) if name == mutant.module else module.source.bytes.decode()
            _execute(module, text)
        clear_caches()
        yield
    finally:
        registry._entries = before[0]
        for name, old in before[1].items():
            sys.modules[name] = old
            setattr(package, name.rpartition(".")[2], old)
        clear_caches()


@lru_cache(maxsize=256)
def _dependents(name: str) -> tuple[str, ...]:
    """The module and all that import from it, directly or not, in order."""
    found = [name]
    for module in modules().values():
        if module.name not in found and any(other in found for other, _ in module.imported.values()):
            found.append(module.name)
    return tuple(found)


def _execute(module: Module, text: str) -> None:
    """Run a module's text as that module, its registrations included."""
    fresh = types.ModuleType(module.full_name)
    fresh.__package__, fresh.__file__ = package.__name__, sys.modules[module.full_name].__file__
    sys.modules[module.full_name] = fresh
    setattr(package, module.name, fresh)
    exec(_compiled(text, fresh.__file__), fresh.__dict__)


@lru_cache(maxsize=64)
def _compiled(text: str, file: str) -> types.CodeType:
    return compile(text, file, "exec")


def clear_caches() -> None:
    """Forget every plan that the engine and the rules keep."""
    for name in [n for n in sys.modules if n.startswith("fnbackprop.")]:
        for value in list(vars(sys.modules[name]).values()):
            if callable(clear := getattr(value, "cache_clear", None)):
                clear()


def load_all() -> None:
    """Import what is imported late, so that `clear_caches` sees it."""
    importlib.import_module("fnbackprop.comparing.pipeline")
