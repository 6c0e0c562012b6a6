"""JAX's own tests, with our vjp in the place of `jax.vjp`; those that fail, for reference, without.

    python -m tests.campaigns jax_suite --tests ../jax/tests                         # every file that takes gradients
    python -m tests.campaigns jax_suite --tests ../jax/tests lax_autodiff nn         # these files

It needs a checkout of JAX at the tag of the installed version. A test that fails with ours is run again without: it
counts if it passes then, and is listed, unless `exceptions.py` says why it must fail: it demands that JAX refuses, or a
wrong value of JAX's, or a private object. An exception that passes is listed too.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from typing import NamedTuple

import jax

from .exceptions import reason_for

WHOLE_FILE = "(the file)"  # stands for a test, where pytest gave no outcomes

# The files of JAX's tests that take gradients.
FILES = """lax_autodiff lax_control_flow api custom_api custom_linear_solve custom_root ode nn linalg shard_map pjit
    mutable_array state sparse sparse_bcoo_bcsr sparsify lax_scipy lax_scipy_sparse lax_scipy_special_functions
    scipy_optimize scipy_signal scipy_ndimage scipy_interpolate scipy_stats fft image random_lax batching
    experimental_rnn lax_numpy lax_numpy_indexing lax_numpy_reducers lax_numpy_operators lax_numpy_einsum lax
    lax_vmap lax_vmap_op hijax checkify jet eigh svd qdwh memories name_stack debug_nans cholesky_update
    ann custom_partitioning python_callback optimizers stax linalg_sharding core debugging_primitives dtypes errors
    export fused generated_fun jaxpr_effects key_reuse lax_numpy_hijax metadata multi_device pmap random
    scheduling_groups shape_poly shard_alike stateful_rng string_array x64_context xla_metadata""".split()


def run(
    tests: pathlib.Path, file: str, ours: bool, limit: float, select: str | None = None, only: list[str] | None = None
) -> dict[str, str]:
    """The outcome of each test of one file, or of `only` these: "passed", "skipped", or the first line of its error."""
    with tempfile.TemporaryDirectory() as folder:
        report, chosen = pathlib.Path(folder, "report.xml"), pathlib.Path(folder, "chosen.txt")
        chosen.write_text("\n".join([f"{file}_test.py"] if only is None else [_address(file, name) for name in only]))
        command = [sys.executable, "-m", "pytest", f"@{chosen}", "-q", "-n", "0", "-p", "no:cacheprovider"]
        command += ["-o", "addopts=", f"--junitxml={report}", "--rootdir", str(tests), "-c", os.devnull]
        command += ["-p", "tests.campaigns.jax_suite.plugin"] if ours else []
        command += ["-k", select] if select else []
        root = pathlib.Path(__file__).parents[3]
        environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{tests}", "JAX_PLATFORMS": "cpu"}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        environment.pop("XLA_FLAGS", None)
        try:
            ran = subprocess.run(command, cwd=tests, env=environment, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return {WHOLE_FILE: f"not done in {limit:.0f} s"}
        if not report.exists():
            return {WHOLE_FILE: f"pytest ended with {ran.returncode}: {ran.stdout[-300:]} {ran.stderr[-300:]}"}
        return {_name(case): _outcome(case) for case in _cases(report)}


def run_reference(tests: pathlib.Path, file: str, limit: float, ours: dict[str, str]) -> dict[str, str]:
    """The outcomes without ours: of the tests that fail with ours by a run, of the others the same."""
    failed = [name for name, outcome in ours.items() if outcome not in ("passed", "skipped")]
    return {**ours, **run(tests, file, False, limit, only=failed)} if failed else ours


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


def _address(file: str, name: str) -> str:
    """A test by its name in a report, as pytest's command line takes it."""
    where, _, test = name.partition("::")
    return f"{file}_test.py::{where.rpartition('.')[2]}::{test}"


def _outcome(case: ElementTree.Element) -> str:
    for child in case:
        if child.tag in ("failure", "error"):
            return (child.get("message") or "failed").strip().splitlines()[0][:200] or "failed"
        if child.tag == "skipped":
            return "skipped"
    return "passed"


def compare_file(tests: pathlib.Path, file: str, options: argparse.Namespace) -> tuple[int, int]:
    """Print how one file fares; (tests that the reference passes, those among them that fail without a reason)."""
    start = time.monotonic()
    ours = run(tests, file, True, options.limit, options.select)
    if WHOLE_FILE in ours:
        print(f"{file:32} {ours[WHOLE_FILE]}", flush=True)
        return 1, 1
    reference = run_reference(tests, file, options.limit, ours)
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
    if options.verbose:
        for name, reason in found.excused.items():
            print(f"    excused  {name}: {reason}")
    return len(found.counted), len(found.wrong)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns jax_suite", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help="without _test.py; default: all that differentiate")
    parser.add_argument("--tests", type=pathlib.Path, required=True, help="the folder tests/ of a checkout of JAX")
    parser.add_argument("--select", "-k", help="only tests whose name matches, as pytest's -k")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for one file")
    parser.add_argument("--verbose", action="store_true", help="list the tests that may fail, with the reason")
    options = parser.parse_args(arguments)
    tests = options.tests.resolve()
    if not (tests / "lax_autodiff_test.py").exists():
        parser.error(f"{tests} is not the tests folder of a checkout of JAX (no lax_autodiff_test.py)")
    print(f"JAX {jax.__version__}")
    totals = [compare_file(tests, file.removesuffix("_test.py"), options) for file in options.files or FILES]
    counted, wrong = map(sum, zip(*totals, strict=True))
    print(f"{counted} tests pass by jax.grad; by ours {wrong} of them are wrong")
    return 1 if wrong else 0
