"""Random programs, manual against automatic: `python -m tests.campaigns fuzz --seconds 600 --seed 0 [--programs N]`.

Program `n` of a seed is always the same one: `--start n --programs 1` runs it again. A mismatch is printed as a few
lines of Python that reproduce it, and the exit status is then 1. The last line counts programs, mismatches, and those
skipped, by reason.

Programs run eagerly. At first nearly all the time goes into XLA's compilation of single operations (some 25 for a
program); one whose operations are all compiled takes about 0.04 seconds. `--cache DIR` keeps what was compiled for
the next run. `--budget 0.5` tries what budgets make of loops and jitted functions; `--explicit`, values whose types
say how they are laid out on a mesh.

With `--numpy`, programs and their gradients are traced, and numpy evaluates the equations, loops and branches in
Python: nearly nothing is compiled, but for one program in two hundred, which is checked as without it too, and numpy's
gradient against the compiled one. For many programs, of many seeds, with a file from which the next run goes on:

    python -m tests.campaigns fuzz --numpy --seeds 50 --programs 2000 --results fuzz.jsonl
"""

import argparse
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax

from .check import OPTIONS, Verdict, check, check_numpy
from .generate import generate
from .programs import NAMESPACE, Case, function, script
from .results import Results
from .shrink import shrink
from .tiers import COMPILED, IN_NUMPY, Tier, cotangents_of

Check = Callable[[Case], Verdict]
COMPILED_TOO = 200  # in numpy, one program in this many
WRITTEN = 100  # programs for a row of the results


@contextlib.contextmanager
def settings(explicit: bool = False) -> Iterator[None]:
    """The promotion that programs are written for, in 64-bit mode; with `explicit`, on a mesh."""
    mesh = jax.set_mesh(NAMESPACE["EXPLICIT"]) if explicit else contextlib.nullcontext()
    with mesh, jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def fuzz(
    seed: int,
    programs: int,
    seconds: float = float("inf"),
    start: int = 0,
    length: int = 10,
    every: float = 10.0,
    tier: Tier = COMPILED,
    found: list[str] | None = None,
) -> Counter:
    """Run programs until the count or the time is reached; print mismatches and progress. Counts by verdict.

    found: where reports of the mismatches are put too.
    """
    counts: Counter = Counter()
    began = told = time.monotonic()
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
        run_one(seed, number, counts, length, tier, found)
    return counts


def run_one(
    seed: int,
    number: int,
    counts: Counter,
    length: int = 10,
    tier: Tier = COMPILED,
    found: list[str] | None = None,
) -> Case | None:
    """Check one program; where it fails, print and return what it shrinks to."""
    case = generate(seed, number, length, tier)
    counts["programs"] += 1
    for verify in _checks(number, tier):
        verdict = verify(case)
        if verdict.kind == "skipped":
            counts[f"skipped: {verdict.why}"] += 1
        if verdict.kind == "mismatch":
            counts["mismatches"] += 1
            small = shrink(case, same_failure(verdict.why, verify))
            text = report(seed, number, small, verify)
            print(text, flush=True)
            if found is not None:
                found.append(text)
            return small
    return None


def _checks(number: int, tier: Tier) -> list[Check]:
    """What is asked of a program."""

    def in_numpy(case: Case) -> Verdict:
        return check(case, IN_NUMPY)

    if tier is COMPILED:
        return [check]
    return [in_numpy, check, check_numpy] if number % COMPILED_TOO == 0 else [in_numpy]


def same_failure(why: str, verify: Check) -> Callable[[Case], bool]:
    """Whether a case fails as the first did: by the same exception, or by its numbers."""
    raised = why.split(":")[0] if why.startswith("fb.vjp raises") else None

    def fails(case: Case) -> bool:
        verdict = verify(case)
        found = verdict.why.split(":")[0] if verdict.why.startswith("fb.vjp raises") else None
        return verdict.kind == "mismatch" and found == raised

    return fails


def report(seed: int, number: int, case: Case, verify: Check) -> str:
    """What is printed of a mismatch: where it was found, what differs, and the shrunk source."""
    types = jax.make_jaxpr(function(case.program))(*case.inputs).out_avals
    text = script(case, cotangents_of(types, case.seed))
    how = "" if verify is check else f" ({verify.__name__})"
    return f"\n# MISMATCH: seed {seed}, program {number}{how}: {verify(case).why}\n{text}\n"


def summary(counts: Counter) -> str:
    """The last line."""
    skipped = {name.removeprefix("skipped: "): n for name, n in counts.items() if name.startswith("skipped")}
    why = "; ".join(f"{n} {name}" for name, n in sorted(skipped.items(), key=lambda item: -item[1]))
    line = f"{counts['programs']} programs, {counts['mismatches']} mismatches, {sum(skipped.values())} skipped"
    return f"{line} ({why})" if why else line


def run_seeds(options: argparse.Namespace, results: Results) -> None:
    """Run the programs of each seed that the results have not, until the time is over."""
    end = time.monotonic() + options.seconds
    tier = IN_NUMPY if options.numpy else COMPILED
    for seed in range(options.seed, options.seed + options.seeds):
        what = {"seed": seed, "tier": tier.name, "explicit": options.explicit, "budget": options.budget}
        start, last = max(options.start, results.end(what)), options.start + options.programs
        while start < last and time.monotonic() < end:
            began, found = time.process_time(), []
            count = min(WRITTEN, last - start) if options.results else last - start
            counts = fuzz(seed, count, end - time.monotonic(), start, tier=tier, found=found)
            results.add(what, start, counts, found, time.process_time() - began)
            start += counts["programs"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="so many, from --seed on; each has bodies of its own")
    parser.add_argument("--programs", type=int, default=20_000, help="of each seed, stop after this many")
    parser.add_argument("--start", type=int, default=0, help="the number of the first program")
    parser.add_argument("--numpy", action="store_true", help="trace programs and evaluate the equations in numpy")
    parser.add_argument("--results", type=Path, help="where each hundred is written; the next run goes on after them")
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
    results = Results(options.results)
    with settings(options.explicit):
        run_seeds(options, results)
    print(summary(results.counts()))
    return 1 if results.counts()["mismatches"] else 0
