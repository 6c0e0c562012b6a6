"""Every code block of the README and every docstring example is executed, and prints what it says."""

import doctest
import importlib
import pathlib
import pkgutil
import re
import subprocess
import sys

import jax
import pytest

import fnbackprop

from .public_names import public_names

ROOT = pathlib.Path(__file__).parent.parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = [module.name for module in pkgutil.walk_packages(fnbackprop.__path__, "fnbackprop.")]


def test_readme():
    text = (ROOT / "README.md").read_text().replace("```python\n", "").replace("```\n", "")
    test = doctest.DocTestParser().get_doctest(text, {}, "README.md", "README.md", 0)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # a user's own settings
        results = doctest.DocTestRunner(optionflags=FLAGS).run(test)
    assert results.attempted == text.count("\n>>> ") > 10 and results.failed == 0


def test_the_numbers_of_rules():
    """In a process of its own: other tests define primitives."""
    code = (
        "import fnbackprop as fb; print(*(len(fb.coverage().of(k)) for k in ('rule', 'no derivative', 'unsupported')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    text = " ".join((ROOT / "README.md").read_text().split())
    pattern = (
        r"Of the primitives of JAX ([\d.]+), (\d+) have a hand-written rule.*?, (\d+) have no derivative, and (\d+)"
    )
    version, *numbers = re.search(pattern, text).groups()
    if jax.__version__ == version:
        assert done.stdout.split() == numbers


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


@pytest.mark.parametrize("document", ["README.md", ".github/CONTRIBUTING.md"])
def test_documents_name_files_that_exist(document):
    text = (ROOT / document).read_text()
    named = re.findall(r"(?<![\w/])(?:fnbackprop|tests|experiments)/[\w/]*(?:\.\w+|/|\b)", text)
    assert len(named) > 5
    assert not [name for name in named if not (ROOT / name).exists()]


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / ".github").rglob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    """Those to files of the repository, to headings, and pictures; of others only the form."""
    for link in re.findall(r"\]\(\s*([^)\s]+)\s*\)", path.read_text()):
        where, _, heading = link.partition("#")
        if where.startswith("http"):
            assert where.startswith("https://"), link
            continue
        target = (path.parent / where).resolve() if where else path
        assert target.exists(), f"{path.name}: {link}"
        assert not heading or heading in anchors(target.read_text()), f"{path.name}: {link}"


def anchors(text):
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


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
    public = {f"{found.__module__}.{found.__qualname__}" for found in public_names().values()}
    for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name)):
        if test.name not in public:
            assert runner.run(test).failed == 0
