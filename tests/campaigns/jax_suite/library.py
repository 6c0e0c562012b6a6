"""The tests of a library on JAX, with our vjp in the place of `jax.vjp`; those that fail, for reference, without.

    python -m tests.campaigns library_suite --tests ../jaxopt                              # files that take gradients
    python -m tests.campaigns library_suite --tests ../jaxopt tests/loop_test.py           # these files
    python -m tests.campaigns library_suite --tests ../jaxopt --importable ../jaxopt       # whose tests import others

It needs the library, and a checkout of its tests at the same version.
"""

import argparse
import pathlib
import re

import jax

from .running import Suite, add_options, compare_files

TAKES_GRADIENTS = re.compile("grad|vjp|jacrev|jacobian|hessian")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns library_suite", description=__doc__.splitlines()[0]
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="relative to --tests; default: those with a gradient")
    parser.add_argument("--tests", type=pathlib.Path, required=True, help="a folder of a checkout of the library")
    parser.add_argument("--importable", type=pathlib.Path, nargs="*", default=[], help="folders that tests import from")
    add_options(parser)
    options = parser.parse_args(arguments)
    tests = options.tests.resolve()
    files = options.files or files_with_gradients(tests)
    if missing := [file for file in files if not (tests / file).is_file()]:
        parser.error(f"there is no {', '.join(missing)} in {tests}")
    if not files:
        parser.error(f"no test file in {tests} takes a gradient")
    print(f"JAX {jax.__version__}, the tests of {tests.name}")
    importable = tuple(folder.resolve() for folder in options.importable)
    suite = Suite(tests, importable, options.limit, options.select)
    return compare_files(suite, [(f"{tests.name}/{file}", file) for file in files], options.verbose)


def files_with_gradients(tests: pathlib.Path) -> list[str]:
    """The test files in this folder, by their paths, that mention a gradient."""
    found = sorted({*tests.rglob("test_*.py"), *tests.rglob("*_test.py")})
    return [str(path.relative_to(tests)) for path in found if TAKES_GRADIENTS.search(path.read_text("utf-8", "ignore"))]
