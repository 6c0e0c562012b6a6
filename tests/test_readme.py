"""Every code block of the README and every docstring example is executed, and prints what it says."""

import doctest
import importlib
import pathlib
import pkgutil

import jax
import pytest

import fnbackprop

ROOT = pathlib.Path(__file__).parent.parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = [module.name for module in pkgutil.walk_packages(fnbackprop.__path__, "fnbackprop.")]


def test_readme():
    text = (ROOT / "README.md").read_text().replace("```python\n", "").replace("```\n", "")
    test = doctest.DocTestParser().get_doctest(text, {}, "README.md", "README.md", 0)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # a user's own settings
        results = doctest.DocTestRunner(optionflags=FLAGS).run(test)
    assert results.attempted > 20 and results.failed == 0


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    assert doctest.testmod(importlib.import_module(name), optionflags=FLAGS).failed == 0
