"""Without an extra, the core works, and what needs the extra says in one sentence which line installs it."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fnbackprop.extras import EXTRAS, MissingExtra, missing_modules, needed_for, require

ROOT = Path(__file__).parent.parent
NAMED_OTHERWISE = {
    "orbax-checkpoint": "orbax.checkpoint",
    "pillow": "PIL",
    "mlflow-skinny": "mlflow",
    "scikit-learn": "sklearn",
}  # modules of packages

CORE = """
import sys
class Blocked:  # as if the extra were not installed
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {modules!r} else find(name, *rest)

import jax, jax.numpy as jnp, fnbackprop as fb
print(fb.grad(lambda x: x**2)(3.0), fb.compare(lambda x: jnp.sum(jnp.sin(x)), jnp.ones(3), progress=False).ok)
print(fb.residuals(lambda x: jnp.sum(jnp.tanh(x)), jnp.ones(3)).nbytes)
for name in fb.__all__:
    try:
        getattr(fb, name)
    except fb.MissingExtra as error:
        print(name, "|", error)
try:
    fb.compare(lambda x: x**2, 1.0, progress=False).html("page.html")
except fb.MissingExtra as error:
    print("html", "|", error)
assert "train" not in dir(fb) and "grad" in dir(fb)
from fnbackprop.cli import main
sys.exit(main(["train", "experiment.py"]))
"""


def test_the_core_without_the_train_extra(tmp_path):
    """In a process where the modules of the extra cannot be imported."""
    template = ROOT / "fnbackprop" / "training" / "template.py"
    (tmp_path / "experiment.py").write_text(template.read_text())
    code = CORE.format(modules=tuple(module.partition(".")[0] for module in EXTRAS["train"]))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["6.0 True", "12"], done.stderr
    told = dict(line.split(" | ") for line in lines[2:])
    assert {"train", "balance", "Optimizer", "html"} <= told.keys()
    assert "compare" not in told and "trace" not in told and "Experiment" not in told
    assert all(sentence.endswith("pip install 'fnbackprop[train]'") for sentence in told.values())
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("fnbackprop: experiment.py needs optax"), done.stderr


def test_extras_are_those_that_are_declared():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, modules in EXTRAS.items():
        packages = [requirement.partition(">")[0] for requirement in declared[extra] if "[" not in requirement]
        assert [NAMED_OTHERWISE.get(package, package) for package in packages] == list(modules)


def test_a_module_of_an_extra_is_told_and_another_is_not():
    with pytest.raises(MissingExtra, match=r"^a picture needs optax, .*: pip install 'fnbackprop\[train\]'$") as caught:
        with needed_for("a picture"):
            raise ModuleNotFoundError("No module named 'optax.contrib'", name="optax.contrib")
    assert caught.value.name == "optax"
    with pytest.raises(ModuleNotFoundError, match="mymodel"):
        with needed_for("a picture"):
            raise ModuleNotFoundError("No module named 'mymodel'", name="mymodel")


def test_require(monkeypatch):
    require("train", "fb.train")  # all there
    assert missing_modules("train") == []
    monkeypatch.setitem(EXTRAS, "train", ("optax", "not_installed_anywhere"))
    with pytest.raises(MissingExtra, match="not_installed_anywhere"):
        require("train", "fb.train")
