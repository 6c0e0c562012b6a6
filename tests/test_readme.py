"""Every code block of the README and every docstring example is executed, and prints what it says."""

import doctest
import importlib
import pathlib
import pkgutil
import re

import jax
import pytest

import fnbackprop

ROOT = pathlib.Path(__file__).parent.parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PUBLIC = [getattr(fnbackprop, name) for name in fnbackprop.__all__ if name != "testing"]
MODULES = [module.name for module in pkgutil.walk_packages(fnbackprop.__path__, "fnbackprop.")]


def test_readme():
    text = (ROOT / "README.md").read_text().replace("```python\n", "").replace("```\n", "")
    test = doctest.DocTestParser().get_doctest(text, {}, "README.md", "README.md", 0)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # a user's own settings
        results = doctest.DocTestRunner(optionflags=FLAGS).run(test)
    assert results.attempted > 20 and results.failed == 0


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


@pytest.mark.parametrize("document", ["README.md", ".github/CONTRIBUTING.md"])
def test_documents_name_files_that_exist(document):
    text = (ROOT / document).read_text()
    named = re.findall(r"(?<![\w/])(?:fnbackprop|tests|experiments)/[\w/]*(?:\.py|/|\b)", text)
    assert len(named) > 5
    assert not [name for name in named if not (ROOT / name).exists()]


def test_contents_of_the_contributing_guide():
    """Its list of contents links to each heading, in order."""
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    links = re.findall(r"^- \[(.+)\]\(#(.+)\)$", text, re.MULTILINE)
    assert links == [(heading, heading.lower().replace(" ", "-")) for heading in headings]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    """Those of the public names are run by `tests/test_reference.py`."""
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    public = {f"{found.__module__}.{found.__qualname__}" for found in PUBLIC}
    for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name)):
        if test.name not in public:
            assert runner.run(test).failed == 0
