"""Random programs, manual against automatic: `python -m tests.campaigns fuzz --seconds 600 --seed 0 [--programs N]`.

Program `n` of a seed is always the same one: `--start n --programs 1` runs it again. A mismatch is printed as a few
lines of Python that reproduce it, and the exit status is then 1. The last line counts programs, mismatches, and those
skipped, by reason.

Programs run eagerly. At first nearly all the time goes into XLA's compilation of single operations (some 25 for a
program); one whose operations are all compiled takes about 0.04 seconds. `--cache DIR` keeps what was compiled for
the next run. `--budget 0.5` tries what budgets make of loops and jitted functions; `--explicit`, values whose types
say how they are laid out on a mesh.
"""

import argparse
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence

import jax

from .check import OPTIONS, check, cotangents_of
from .generate import generate
from .programs import NAMESPACE, Case, function, script
from .shrink import shrink


def fuzz(
    seed: int,
    programs: int,
    seconds: float = float("inf"),
    start: int = 0,
    length: int = 10,
    every: float = 10.0,
    explicit: bool = False,
) -> Counter:
    """Run programs until the count or the time is reached; print mismatches and progress. Counts by verdict."""
    counts: Counter = Counter()
    began = told = time.monotonic()
    mesh = jax.set_mesh(NAMESPACE["EXPLICIT"]) if explicit else contextlib.nullcontext()
    with mesh, jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for number in range(start, start + programs):
            now = time.monotonic()
            if now - began > seconds:
                print(
                    f"stopped after {seconds:g} s: {number - start} of {programs} programs; "
                    f"--start {number} goes on from here",
                    flush=True,
                )
                break
            if now - told > every:
                told = now
                print(f"{number - start} programs, {(number - start) / (now - began):.1f} per second", flush=True)
            run_one(seed, number, counts, length)
    return counts


def run_one(seed: int, number: int, counts: Counter, length: int = 10) -> Case | None:
    """Check one program; where it fails, print and return what it shrinks to."""
    case = generate(seed, number, length)
    verdict = check(case)
    counts["programs"] += 1
    if verdict.kind == "skipped":
        counts[f"skipped: {verdict.why}"] += 1
    if verdict.kind != "mismatch":
        return None
    counts["mismatches"] += 1
    small = shrink(case, same_failure(verdict.why))
    print(report(seed, number, small), flush=True)
    return small


def same_failure(why: str) -> Callable[[Case], bool]:
    """Whether a case fails as the first did: by the same exception, or by its numbers."""
    raised = why.split(":")[0] if why.startswith("fb.vjp raises") else None

    def fails(case: Case) -> bool:
        verdict = check(case)
        found = verdict.why.split(":")[0] if verdict.why.startswith("fb.vjp raises") else None
        return verdict.kind == "mismatch" and found == raised

    return fails


def report(seed: int, number: int, case: Case) -> str:
    """What is printed of a mismatch: where it was found, what differs, and the shrunk source."""
    value = function(case.program)(*case.inputs)
    text = script(case, cotangents_of(value, case.seed))
    return f"\n# MISMATCH: seed {seed}, program {number}: {check(case).why}\n{text}\n"


def summary(counts: Counter) -> str:
    """The last line."""
    skipped = {name.removeprefix("skipped: "): n for name, n in counts.items() if name.startswith("skipped")}
    why = "; ".join(f"{n} {name}" for name, n in sorted(skipped.items(), key=lambda item: -item[1]))
    line = f"{counts['programs']} programs, {counts['mismatches']} mismatches, {sum(skipped.values())} skipped"
    return f"{line} ({why})" if why else line


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--programs", type=int, default=20_000, help="stop after this many")
    parser.add_argument("--start", type=int, default=0, help="the number of the first program")
    parser.add_argument("--budget", type=float, help="run ours with this budget for loops and jitted functions")
    parser.add_argument("--explicit", action="store_true", help="on a mesh with an explicit axis")
    parser.add_argument("--cache", help="a directory for XLA's compiled operations, to be used again")
    options = parser.parse_args(arguments)
    if options.budget is not None:
        OPTIONS["budget"] = options.budget
    if options.cache:
        jax.config.update("jax_compilation_cache_dir", options.cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    counts = fuzz(options.seed, options.programs, options.seconds, options.start, explicit=options.explicit)
    print(summary(counts))
    return 1 if counts["mismatches"] else 0
