"""`python -m tests.campaigns false_alarms`: does `fb.compare` ever say FAIL of a right rule?

Two kinds of programs, in float64, float32 and bfloat16 in turn: those of `mutants/programs/`, at operands that
differ from one round to the next, and random ones of `fuzz/`. Every rule in them is right (the other tests see to
that), so each FAIL is a false alarm: it is printed, and the exit status is then 1. Other verdicts than PASS are
counted: at a kink, or where rounding hides all, not even a right gradient can PASS. With --libraries, the programs are
those of `library_programs/` instead: losses, densities, layers, solvers as users of JAX's libraries call them.

    python -m tests.campaigns false_alarms --comparisons 2000 --record false_alarms.jsonl --cache some/folder
    python -m tests.campaigns false_alarms --libraries --comparisons 10000 --record libraries.jsonl --cache some/folder

With --record, a run that is started again goes on where it stopped. One comparison by itself, printed in full:

    python -m tests.campaigns false_alarms --seed 3 --case "schur#2 float32 round 2" "fuzz 3/461 float32"
"""

import argparse
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnbackprop as fb
from fnbackprop.comparing.weighted import differentiable, weighted

DTYPES = ("float64", "float32", "bfloat16")
ALARMS = ("FAIL", "ERROR")  # a comparison that breaks down is no better
LENGTH = 4  # of random programs: the time goes into compiling
BETWEEN = 8  # programs of the table, for each random one
ANOTHER = 1_000_000  # numbers further on: the random program that is taken in place of one
KEPT = 100  # comparisons, whose compiled programs are kept


class Case(NamedTuple):
    """One comparison: what it is called, the function, its operands."""

    name: str
    dtype: str
    function: Callable
    operands: tuple[Any, ...]


def cases(seed: int) -> Iterator[Case]:
    """Rounds of all programs of the table in each dtype, and a random program after every few of them; without end."""
    table = all_programs()
    for turn in itertools.count():
        order = np.random.default_rng([seed, turn]).permutation(len(table))
        for number, place in enumerate(order):
            dtype = DTYPES[(number + turn) % len(DTYPES)]
            yield table_case(seed, table, int(place), turn, dtype)
            if number % BETWEEN == 0:
                yield random_case(seed, turn * len(table) + number, dtype)


def library_cases(seed: int) -> Iterator[Case]:
    """Rounds of all programs of libraries, of those that take long now and then; without end."""
    from tests.campaigns.library_programs import PROGRAMS

    for turn in itertools.count():
        for number, program in enumerate(PROGRAMS):
            dtypes = DTYPES if program.bfloat16 else DTYPES[:2]
            if (number + turn) % program.every == 0:
                yield library_case(seed, number, turn, dtypes[(number // program.every + turn) % len(dtypes)])


def library_case(seed: int, number: int, turn: int, dtype: str) -> Case:
    from tests.campaigns.library_programs import PROGRAMS

    program, random = PROGRAMS[number], np.random.default_rng([seed, turn, number])
    operands = cast([draw(random) for draw in program.operands], dtype)
    return Case(f"library {number} {dtype} round {turn}: {program.name}", dtype, program.function, operands)


def case_named(seed: int, name: str) -> Case:
    """The case that is called so: "schur#2 float32 round 2", "fuzz 3/461 float32" or "library 7 float32 round 0"."""
    first, second, *rest = name.split()
    if first == "fuzz":
        origin, number = map(int, second.split("/"))
        return random_case(origin, number, rest[0])
    if first == "library":
        return library_case(seed, int(second), int(rest[2].strip(":")), rest[0])
    table = all_programs()
    return table_case(seed, table, list(map(str, table)).index(first), int(rest[-1]), second)


def all_programs() -> list[Any]:
    from tests.campaigns.mutants.programs import PROGRAMS

    return [program for programs in PROGRAMS.values() for program in programs if all(map(_finite, program.operands))]


def table_case(seed: int, table: Sequence[Any], place: int, turn: int, dtype: str) -> Case:
    program = table[place]
    operands = varied(program.operands, dtype, [seed, turn, place])
    return Case(f"{program} {dtype} round {turn}", dtype, program.function, operands)


def _finite(x: Any) -> bool:
    """At infinity a gradient is a convention."""
    return not jnp.issubdtype(x.dtype, np.inexact) or bool(jnp.isfinite(x).all())


def random_case(seed: int, number: int, dtype: str) -> Case:
    """A random program; another one if it has rules of its own, which the fuzzer makes wrong on purpose."""
    from tests.campaigns.fuzz.generate import generate
    from tests.campaigns.fuzz.programs import function

    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        while _has_own_rules((found := generate(seed, number, LENGTH)).program):
            number += ANOTHER
    return Case(f"fuzz {seed}/{number} {dtype}", dtype, function(found.program), cast(found.inputs, dtype))


def _has_own_rules(program: Any) -> bool:
    steps = program.instructions
    own = (any(rule in step.definition for rule in ("defvjp", "defjvp")) for step in steps)
    return any(own) or any(_has_own_rules(body) for step in steps for body in step.bodies)


def varied(operands: Sequence[Any], dtype: str, seed: Sequence[int]) -> tuple[Any, ...]:
    """The operands with each number changed by up to a tenth of itself, which keeps signs and zeros."""
    random = np.random.default_rng(seed)
    changed = [np.asarray(x) for x in operands]
    floating = [np.issubdtype(x.dtype, np.inexact) for x in changed]
    pairs = zip(changed, floating, strict=True)
    return cast([x * (1 + 0.1 * random.uniform(-1, 1, x.shape)) if on else x for x, on in pairs], dtype)


def cast(operands: Sequence[Any], dtype: str) -> tuple[Any, ...]:
    """The operands, arrays or pytrees of them, in another precision; complex ones in its complex dtype, which bfloat16
    does not have."""
    complex_dtype = "complex128" if dtype == "float64" else "complex64"

    def in_dtype(x: Any) -> jax.Array:
        x = np.asarray(x)
        kind = complex_dtype if np.iscomplexobj(x) else dtype if np.issubdtype(x.dtype, np.floating) else None
        return jnp.asarray(x, kind)

    with jax.enable_x64(dtype == "float64"):
        return jax.tree.map(in_dtype, tuple(operands))


def verdict(case: Case) -> tuple[str, str]:
    """The verdict and the comparison's text; "not run" where JAX has no gradient of the function in this dtype."""
    fun = weighted(case.function)
    with jax.enable_x64(case.dtype == "float64"), jax.numpy_dtype_promotion("standard"):
        try:
            found = fb.compare(fun, *case.operands, argnums=differentiable(case.operands))
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            return ("ERROR", why) if _differentiates(fun, case.operands) else ("not run", why)
    return str(found.verdict), str(found)


def _differentiates(fun: Callable, operands: Sequence[Any]) -> bool:
    """Whether JAX has a gradient of the function at all."""
    try:
        jax.block_until_ready(jax.jit(jax.grad(fun, differentiable(operands), allow_int=True))(*operands))
    except Exception:
        return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns false_alarms", description=__doc__.split("\n")[0])
    parser.add_argument("--comparisons", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, help="append the results to this file, and go on where it ends")
    parser.add_argument("--cache", help="keep compiled programs in this folder between runs")
    parser.add_argument("--libraries", action="store_true", help="programs of JAX's libraries, in the place of others")
    parser.add_argument("--case", nargs="+", help="only these comparisons, by name")
    options = parser.parse_args(argv)
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0")
    if options.case:
        for name in options.case:
            print(f"--- {name}", *verdict(case_named(options.seed, name)), sep="\n")
        return 0
    if options.cache:
        from tests.campaigns.mutants.trial import keep_compiled

        keep_compiled(options.cache)
    lines = options.record.read_text().splitlines() if options.record and options.record.exists() else []
    source = (library_cases if options.libraries else cases)(options.seed)
    counts = run(source, options.comparisons, list(map(json.loads, lines)), options.record)
    print(summary(counts))
    return 1 if any(kind in ALARMS for _, kind in counts) else 0


def run(source: Iterator[Case], comparisons: int, known: list[dict], record: Path | None) -> Counter:
    """Compare until there are so many verdicts; how many there are, by dtype and verdict."""
    counts: Counter[tuple[str, str]] = Counter((row["dtype"], row["verdict"]) for row in known)
    start = time.monotonic()
    for case in itertools.islice(source, len(known), None):
        if sum(n for (_, kind), n in counts.items() if kind != "not run") >= comparisons:
            break
        kind, text = verdict(case)
        counts[case.dtype, kind] += 1
        if kind in ALARMS:
            print(f"FALSE ALARM  {case.name}\n{text}", flush=True)
        if record is not None:
            row = {"case": case.name, "dtype": case.dtype, "verdict": kind}
            with record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if sum(counts.values()) % KEPT == 0:
            jax.clear_caches()  # a process can map only so many compiled programs
            print(f"{sum(counts.values())} after {time.monotonic() - start:.0f} s: {summary(counts)}", flush=True)
    return counts


def summary(counts: Counter) -> str:
    total = sum(n for (_, kind), n in counts.items() if kind != "not run")
    parts = []
    for dtype in DTYPES:
        found = {kind: n for (of, kind), n in sorted(counts.items()) if of == dtype}
        parts.append(f"{dtype}: {', '.join(f'{n} {kind}' for kind, n in found.items()) or 'none'}")
    alarms = sum(n for (_, kind), n in counts.items() if kind in ALARMS)
    return f"{total} comparisons, {alarms} false alarms; {'; '.join(parts)}"
