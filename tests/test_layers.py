"""The house holds: imports go one way, and the engine never asks JAX for a gradient."""

import ast
import pathlib

import pytest

import fnbackprop

ROOT = pathlib.Path(fnbackprop.__file__).parent
# Each layer may import itself and the layers before it.
LAYERS = (
    "trees jaxprs backprop rules blocks models losses experiment comparing testing tracing balancing training"
    " commands experiment_files cli __main__ __init__"
).split()
FILES = sorted(ROOT.rglob("*.py"))
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


ENGINE_FILES = [path for path in FILES if layer(path) in ("jaxprs", "backprop", "rules", "blocks")]


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


def test_importing_is_cheap():
    """What training and plotting need is imported when it is used."""
    import subprocess
    import sys

    code = "import sys, jax, fnbackprop; print([m for m in sys.modules])"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("matplotlib", "orbax", "tyro", "rich", "optax", "chex", "sklearn"):
        assert f"'{heavy}'" not in modules, f"import fnbackprop imports {heavy}"
