"""The public face: every name loads, type checkers see the same names, the version and dependencies are declared."""

import ast
import pathlib
import re
import sys
import tomllib

import pytest

import fnbackprop

ROOT = pathlib.Path(fnbackprop.__file__).parent
PYPROJECT = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())
PROJECT, TOOLS = PYPROJECT["project"], PYPROJECT["tool"]


@pytest.mark.parametrize("name", fnbackprop.__all__)
def test_every_public_name_loads(name):
    assert getattr(fnbackprop, name) is not None
    assert name in dir(fnbackprop)


def test_completion_offers_what_is_public():
    """No room of ours (`fb.backprop`), no import of this file."""
    assert {name for name in dir(fnbackprop) if not name.startswith("__")} == set(fnbackprop.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="comapre"):
        fnbackprop.comapre  # noqa: B018


def test_type_checkers_see_where_lazy_names_come_from():
    """The imports under `if TYPE_CHECKING:` are those that happen at run time."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name))
    seen = {alias.name: node.module or alias.name for node in block.body for alias in node.names}
    assert seen == fnbackprop._LATER
    assert seen.keys() <= set(fnbackprop.__all__)


def test_public_modules_are_type_checked():
    """What `fnbackprop/__init__.py` imports names from is in pyright's list, and the list names what exists."""
    checked = [ROOT.parent / path for path in TOOLS["pyright"]["include"]]
    assert all(path.exists() for path in checked)
    for node in ast.walk(ast.parse((ROOT / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            module = ROOT.joinpath(*node.module.split("."))
            assert {module.with_suffix(".py"), module / "__init__.py"} & set(checked), node.module


def test_the_version_stands_in_one_place():
    assert "version" not in PROJECT and PROJECT["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", fnbackprop.__version__)
    changelog = (ROOT.parent / ".github" / "CHANGELOG.md").read_text()
    assert re.search(rf"^## {re.escape(fnbackprop.__version__)}\b", changelog, re.MULTILINE)


def test_imports_are_declared_dependencies():
    """Every third-party import of the package is in `dependencies` or in an extra; and no dependency is unused."""
    imported = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    imported -= {*sys.stdlib_module_names, "fnbackprop"}
    core = set(map(_module_of, PROJECT["dependencies"]))
    extras = {
        _module_of(spec)
        for name, specs in PROJECT["optional-dependencies"].items()
        if name not in ("test", "dev")
        for spec in specs
    }
    assert imported <= core | extras
    assert core - {"jaxlib"} <= imported


def _module_of(requirement: str) -> str:
    """The module that a requirement installs."""
    name = re.match(r"[\w-]+", requirement).group()
    return {
        "orbax-checkpoint": "orbax",
        "pillow": "PIL",
        "ipython": "IPython",
        "scikit-learn": "sklearn",
        "mlflow-skinny": "mlflow",
    }.get(name, name)
