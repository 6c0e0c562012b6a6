"""The structure holds: imports go one way, files and functions stay short, the engine never asks JAX for a gradient."""

import ast
import pathlib

import pytest

import fnbackprop

ROOT = pathlib.Path(fnbackprop.__file__).parent
# Each layer may import itself and the layers before it.
LAYERS = (
    "version deprecation extras writing columns pages trees jaxprs backprop rules blocks models losses lora"
    " experiment_checks media updates experiment comparing testing tracing balancing training running doctor"
    " run_list commands config_files memory_command experiment_commands experiment_files function_commands"
    " option_parsing sweeping cli __main__ __init__"
).split()
FILES = sorted(ROOT.rglob("*.py"))
# What does not hold yet. These lists only get shorter: a test fails too when an entry of theirs is no longer needed.
KNOWN_CIRCLES: set[str] = set()
LONG_FILES: set[str] = set()
LONG_FUNCTIONS: set[str] = set()
DIFFERENTIATORS = set("grad vjp value_and_grad linearize linear_transpose jacrev jacfwd hessian jvp".split())


def layer(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: pathlib.Path) -> list[tuple[str, bool]]:
    """Modules imported by a file, as absolute dotted names, and whether at its top level."""
    tree = ast.parse(path.read_text())
    package = ["fnbackprop", *path.relative_to(ROOT).parent.parts]
    found = []
    for node in ast.walk(tree):
        top = node in tree.body
        if isinstance(node, ast.Import):
            found += [(alias.name, top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [(f"{module}.{alias.name}", top) for alias in node.names]
    return found


def names(path: pathlib.Path) -> list[str]:
    return [name for name, _ in imports(path)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_the_list(path):
    own = LAYERS.index(layer(path))
    for name in names(path):
        parts = name.split(".")
        if parts[0] == "fnbackprop" and len(parts) > 1 and parts[1] in LAYERS:
            assert LAYERS.index(parts[1]) <= own, f"{path} imports {name}, which lies above it"


def test_every_layer_is_listed():
    assert {layer(path) for path in FILES} <= set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_jax_internals_are_touched_in_one_room(path):
    if layer(path) == "jaxprs":
        return
    for name in names(path):
        assert not name.startswith(("jax.extend", "jax._src")), f"{path} imports {name}"
    assert "jax.extend" not in path.read_text().replace("`jax.extend`", "")


# The one exception: the derivatives of other packages' primitives, which their authors registered with JAX.
FOREIGN = ROOT / "rules/calls/foreign.py"
ENGINE_FILES = [path for path in FILES if layer(path) in ("jaxprs", "backprop", "rules", "blocks") and path != FOREIGN]


@pytest.mark.parametrize("path", ENGINE_FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_engine_never_asks_jax_for_a_gradient(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "jax":
            assert node.attr not in DIFFERENTIATORS, f"{path}:{node.lineno} uses jax.{node.attr}"
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("primitive_jvps", "primitive_transposes"), f"{path}:{node.lineno}"
    for name in names(path):
        assert not name.startswith("jax.interpreters"), f"{path} imports {name}"
        assert not (name.startswith("jax.") and name.split(".")[-1] in DIFFERENTIATORS), f"{path} imports {name}"


# ---------------------------------------------------------------- import circles


def imported_files(path: pathlib.Path) -> set[pathlib.Path]:
    """The files of the package that a file imports, anywhere in it."""
    found = set()
    for name in names(path):
        module = ROOT.parent.joinpath(*name.split("."))
        for target in (module.with_suffix(".py"), module / "__init__.py", module.parent.with_suffix(".py")):
            if target in FILES:
                found.add(target)
                break
        else:
            if module.parent / "__init__.py" in FILES:  # a name that a package defines
                found.add(module.parent / "__init__.py")
    return found - {path}


def circles(graph: dict[pathlib.Path, set[pathlib.Path]]) -> list[set[pathlib.Path]]:
    """The sets of files that import each other, directly or through others."""
    reached = {path: set(targets) for path, targets in graph.items()}
    for middle in graph:
        for targets in reached.values():
            if middle in targets:
                targets |= reached[middle]
    found = []
    for path, targets in reached.items():
        circle = {other for other in targets if path in reached[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def relative(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_two_files_import_each_other():
    """Imports inside functions and under TYPE_CHECKING count."""
    found = circles({path: imported_files(path) for path in FILES})
    assert {", ".join(sorted(map(relative, circle))) for circle in found} == KNOWN_CIRCLES


def test_circles_are_found():
    a, b, c, d = map(pathlib.Path, "abcd")
    assert circles({a: {b}, b: {c}, c: {a}, d: {a}}) == [{a, b, c}]
    assert circles({a: {b}, b: {c}, c: set(), d: {a}}) == []


# ---------------------------------------------------------------- sizes

MAX_FILE, MAX_FUNCTION = 300, 50  # lines


def long_functions(path: pathlib.Path) -> set[str]:
    functions = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))
    return {f"{relative(path)}:{f.name}" for f in functions if lines_of_code(f) > MAX_FUNCTION}


def lines_of_code(function: ast.FunctionDef) -> int:
    """Its lines without those of its docstring: a public function of many arguments explains each."""
    docstring = function.body[0] if ast.get_docstring(function) is not None else None
    return function.end_lineno - function.lineno + 1 - (docstring.end_lineno - docstring.lineno + 1 if docstring else 0)


def test_files_are_short():
    """Equal, not a subset: whoever shortens a file removes it from the list."""
    assert {relative(path) for path in FILES if len(path.read_text().splitlines()) > MAX_FILE} == LONG_FILES


def test_functions_are_short():
    assert set().union(*map(long_functions, FILES)) == LONG_FUNCTIONS


def test_importing_is_cheap():
    """What training and plotting need is imported when it is used."""
    import subprocess
    import sys

    code = "import sys, jax, fnbackprop; print([m for m in sys.modules])"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("matplotlib", "orbax", "tyro", "rich", "optax", "chex", "sklearn"):
        assert f"'{heavy}'" not in modules, f"import fnbackprop imports {heavy}"
