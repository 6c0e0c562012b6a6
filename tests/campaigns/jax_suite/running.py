"""Test files of JAX or of a library, run with our vjp in the place of `jax.vjp`, and what fails run again without."""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .exceptions import reason_for

WHOLE_FILE = "(the file)"  # stands for a test, where pytest gave no outcomes


class Suite(NamedTuple):
    """tests: the folder that paths of files are relative to; importable: folders of modules that the tests import."""

    tests: pathlib.Path
    importable: tuple[pathlib.Path, ...]
    limit: float  # seconds for one file
    select: str | None = None  # as pytest's -k


def run(suite: Suite, path: str, ours: bool, only: Sequence[str] | None = None) -> dict[str, str]:
    """The outcome of each test of one file, or of `only` these: "passed", "skipped", or the first line of its error."""
    with tempfile.TemporaryDirectory() as folder:
        report, chosen = pathlib.Path(folder, "report.xml"), pathlib.Path(folder, "chosen.txt")
        chosen.write_text("\n".join([path] if only is None else [_address(path, name) for name in only]))
        command = [sys.executable, "-m", "pytest", f"@{chosen}", "-q", "-n", "0", "-p", "no:cacheprovider"]
        command += ["-o", "addopts=", f"--junitxml={report}", "--rootdir", str(suite.tests), "-c", os.devnull]
        command += ["--import-mode=importlib"]  # other tests may be a package `tests` as well
        command += ["-p", "drop_in_plugin"] if ours else []
        command += ["-k", suite.select] if suite.select else []
        here = pathlib.Path(__file__)
        folders = here.parents[3], here.parent / "plugin", *suite.importable
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
        environment |= {"JAX_PLATFORMS": "cpu", "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("XLA_FLAGS", None)
        try:
            ran = subprocess.run(
                command, cwd=suite.tests, env=environment, capture_output=True, text=True, timeout=suite.limit
            )
        except subprocess.TimeoutExpired:
            return {WHOLE_FILE: f"not done in {suite.limit:.0f} s"}
        if not report.exists():
            return {WHOLE_FILE: f"pytest ended with {ran.returncode}: {ran.stdout[-300:]} {ran.stderr[-300:]}"}
        return {_name(case): _outcome(case) for case in _cases(report)}


def run_reference(suite: Suite, path: str, ours: dict[str, str]) -> dict[str, str]:
    """The outcomes without ours: of the tests that fail with ours by a run, of the others the same."""
    failed = [name for name, outcome in ours.items() if outcome not in ("passed", "skipped")]
    return {**ours, **run(suite, path, False, failed)} if failed else ours


class Comparison(NamedTuple):
    """How one file fares, by the names of tests."""

    counted: list[str]  # the reference passes them
    wrong: dict[str, str]  # those that fail with ours and may not, with the error
    excused: dict[str, str]  # those that fail with ours and may, with the reason
    stale: list[str]  # those that pass, but for which there is a reason why they may fail


def compare_outcomes(file: str, reference: dict[str, str], ours: dict[str, str]) -> Comparison:
    counted = [name for name, outcome in reference.items() if outcome == "passed"]
    failed = {name: ours.get(name, "not run") for name in counted if ours.get(name) != "passed"}
    excused = {name: reason for name in failed if (reason := reason_for(file, name))}
    wrong = {name: error for name, error in failed.items() if name not in excused}
    return Comparison(counted, wrong, excused, [n for n in counted if n not in failed and reason_for(file, n)])


def _cases(report: pathlib.Path) -> list[ElementTree.Element]:
    return list(ElementTree.parse(report).iter("testcase"))


def _name(case: ElementTree.Element) -> str:
    return f"{case.get('classname')}::{case.get('name')}"


def _address(path: str, name: str) -> str:
    """A test by its name in a report, as pytest's command line takes it."""
    where, _, test = name.partition("::")
    if not where:  # the file could not be imported
        return path
    last = where.rpartition(".")[2]  # of a module's name, or of a class in it
    return f"{path}::{test}" if last == pathlib.PurePath(path).stem else f"{path}::{last}::{test}"


def _outcome(case: ElementTree.Element) -> str:
    for child in case:
        if child.tag in ("failure", "error"):
            return (child.get("message") or "failed").strip().splitlines()[0][:200] or "failed"
        if child.tag == "skipped":
            return "skipped"
    return "passed"


def compare_file(suite: Suite, file: str, path: str, verbose: bool) -> tuple[int, int]:
    """Print how one file fares; (tests that the reference passes, those among them that fail without a reason)."""
    start = time.monotonic()
    ours = run(suite, path, True)
    if WHOLE_FILE in ours:
        print(f"{file:32} {ours[WHOLE_FILE]}", flush=True)
        return 1, 1
    reference = run_reference(suite, path, ours)
    found = compare_outcomes(file, reference, ours)
    right = len(found.counted) - len(found.wrong) - len(found.excused)
    print(
        f"{file:32} {right:5} of {len(found.counted):5}, {len(found.excused):3} with a reason, "
        f"{len(found.wrong):3} wrong   ({time.monotonic() - start:.0f} s)",
        flush=True,
    )
    for name, error in found.wrong.items():
        print(f"    WRONG    {name}\n             {error}")
    for name in found.stale:
        print(f"    PASSES   {name}, for which exceptions.py has a reason")
    if WHOLE_FILE in reference:
        print(f"    reference: {reference[WHOLE_FILE]}")
    if verbose:
        for name, reason in found.excused.items():
            print(f"    excused  {name}: {reason}")
    return len(found.counted), len(found.wrong)


def compare_files(suite: Suite, files: Iterable[tuple[str, str]], verbose: bool) -> int:
    """How each file fares, by (its name in exceptions.py, its path); the exit status."""
    totals = [compare_file(suite, file, path, verbose) for file, path in files]
    counted, wrong = map(sum, zip(*totals, strict=True))
    print(f"{counted} tests pass by jax.grad; by ours {wrong} of them are wrong")
    return 1 if wrong else 0


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--select", "-k", help="only tests whose name matches, as pytest's -k")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for one file")
    parser.add_argument("--verbose", action="store_true", help="list the tests that may fail, with the reason")
