"""`python -m tests.campaigns mutants`: mutate every rule; who catches it, `fb.compare` or one of two other checkers?

A mutant is a rule with one mistake (`operators.py`), installed in the registry (`rules.py`) and looked for in the
programs of its primitive (`programs/`), in float32. Of the mutants that run and change the gradient of a program, those
that are equivalent, each with its reason, stand in `equivalent.py`; all others are to be caught. A rule may have
hundreds: by default each function gives its first few, a different choice for each seed.

    python -m tests.campaigns mutants --per-function 3          # about 600 mutants
    python -m tests.campaigns mutants --rules tanh dot_general --per-function 100
    python -m tests.campaigns mutants --blocks                  # of the hand-derived blocks, in the place of the rules
    python -m tests.campaigns mutants --checkers compare        # without the two others
    python -m tests.campaigns mutants --only "tanh_vjp 0.0.1 term dropped #2"  # as reported, to the colon
    python -m tests.campaigns mutants --only "tanh_vjp *" "erf_*"              # or by patterns

With --record, one line of JSON for each mutant is appended to a file as it is done, and a run that is started again
goes on where it stopped. A mutant may never end, and no compiled program is ever given back: the work is done in a
process of its own, which gives an endless one up after some minutes, ends after some hundred, and is started again.
"""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

PATIENCE = 180.0  # seconds for one mutant
AGAIN = 75  # the exit status of a process that another one is to follow
MOST = 150  # mutants of a process, which then holds 2 GB of programs
QUICK = "--xla_backend_optimization_level=0"  # nearly all of the time goes into compiling tiny programs


def main(argv: Sequence[str]) -> int:
    options = _options(argv)
    if options.record is None:
        with tempfile.TemporaryDirectory() as directory:
            return main([*argv, "--record", f"{directory}/record.jsonl"])
    if options.worker:
        return work(options)
    worker = [sys.executable, "-W", "ignore", "-m", "tests.campaigns", "mutants", *argv]
    environment = {"XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {QUICK}", **os.environ}
    while (status := subprocess.run([*worker, "--worker"], env=environment).returncode) == AGAIN:
        pass
    return status


def work(options: argparse.Namespace) -> int:
    """Try the chosen mutants that have no row in the record, and print the report."""
    from . import trial

    which = options.rules, options.seed, options.per_function, options.blocks
    chosen = named(options.only) if options.only else sample(*which)
    chosen = chosen[: options.limit]
    checkers = {name: trial.CHECKERS[name] for name in options.checkers}
    trial.keep_compiled(options.cache or str(options.record.with_suffix(".cache")))
    rows = list(tried(chosen, checkers, recorded(options.record), options.record))
    print(report(rows))
    return 1 if any(row["outcome"] == "survived" and not row["equivalent"] for row in rows) else 0


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns mutants", description=__doc__.split("\n")[0])
    parser.add_argument("--rules", nargs="*", help="primitives whose rules are mutated; all by default")
    parser.add_argument("--blocks", action="store_true", help="of blocks, in the place of rules")
    parser.add_argument("--only", nargs="+", help="these mutants, by name or pattern")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of mutants")
    parser.add_argument("--per-function", type=int, default=3, help="the most mutants of one function")
    parser.add_argument("--limit", type=int, help="the most mutants in all")
    parser.add_argument("--checkers", nargs="*", default=["compare", "check_grads", "chex"])
    parser.add_argument("--record", type=Path, help="append the results to this file, and go on where it ends")
    parser.add_argument("--cache", help="keep compiled programs in this folder between runs")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def named(names: Sequence[str]) -> list[Any]:
    """The mutants whose name, with or without the module, is one of these or matches one as a pattern."""
    from . import blocks, rules
    from .programs import PROGRAMS

    wanted = [name.partition(":")[0].strip() for name in names]
    everything = [*rules.mutants(set(PROGRAMS)), *blocks.mutants()]
    found = [m for m in everything if any(fnmatchcase(n, w) for w in wanted for n in (m.key, f"{m.module}.{m.key}"))]
    if not found:
        raise SystemExit(f"no mutant is called {', '.join(wanted)}")
    return found


def sample(names: Iterable[str] | None, seed: int, per_function: int, of_blocks: bool = False) -> list[Any]:
    """Some mutants of each function, as different in kind as they may be, in a random order."""
    from . import blocks, rules
    from .programs import PROGRAMS

    wanted = set(PROGRAMS) if names is None else set(names)
    if unknown := wanted - set(PROGRAMS):
        raise SystemExit(f"no program for {', '.join(sorted(unknown))}; there are: {', '.join(sorted(PROGRAMS))}")
    chance, chosen = random.Random(seed), []
    everything = blocks.mutants() if of_blocks else rules.mutants(wanted)
    for _, group in itertools.groupby(everything, key=lambda mutant: (mutant.module, mutant.function)):
        group = list(group)
        chance.shuffle(group)
        seen: Counter[str] = Counter()
        ranked = []
        for mutant in group:
            ranked.append((seen[mutant.edit.operator], mutant))
            seen[mutant.edit.operator] += 1
        ranked.sort(key=lambda pair: pair[0])  # one of each kind, then a second of each
        chosen += [mutant for _, mutant in ranked[:per_function]]
    chance.shuffle(chosen)
    return chosen


def recorded(path: Path) -> dict[str, dict]:
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines()) if path.exists() else ()
    return {row["mutant"]: row for row in rows}


def tried(mutants: Sequence[Any], checkers: dict[str, Any], known: dict[str, dict], record: Path) -> Iterator[dict]:
    """A row for each mutant."""
    from . import trial
    from .equivalent import reason

    def write(row: dict) -> None:
        with record.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def give_up(row: dict) -> None:
        write(row | {"outcome": "endless"})
        os._exit(AGAIN)

    start, here = time.monotonic(), 0
    for number, mutant in enumerate(mutants, 1):
        if (row := known.get(str(mutant))) is None:
            row = {"mutant": str(mutant), "operator": mutant.edit.operator, "by": {}, "programs": []}
            watchdog = threading.Timer(PATIENCE, give_up, [row])
            watchdog.daemon = True
            watchdog.start()
            found = trial.run(mutant, checkers)
            watchdog.cancel()
            row |= {"outcome": str(found.outcome), "by": found.by, "programs": list(map(str, found.programs))}
            write(row)
            here += 1
            if number % 50 == 0:
                print(f"{number} of {len(mutants)} after {time.monotonic() - start:.0f} s", flush=True)
            if here == MOST:
                raise SystemExit(AGAIN)
        yield row | {"equivalent": reason(mutant)}


def report(rows: Sequence[dict]) -> str:
    """The shares, by checker and by kind of mistake, and the survivors."""
    counts = Counter(row["outcome"] for row in rows)
    live = [row for row in rows if row["outcome"] in ("caught", "survived") and not row["equivalent"]]
    equivalent = [row for row in rows if row["outcome"] != "stillborn" and row["equivalent"]]
    lines = [
        f"{len(rows)} mutants: {len(live)} change a gradient and are wrong; {len(equivalent)} are equivalent; "
        f"{counts['stillborn']} do not run; {counts['endless']} do not end; {counts['unseen']} change no program"
    ]
    names = list(dict.fromkeys(name for row in live for name in row["by"]))
    for name in names:
        asked = [row for row in live if name in row["by"]]
        caught = sum(row["by"][name] for row in asked)
        lines.append(f"  {name:<12} catches {caught} of {len(asked)}: {100 * caught / max(len(asked), 1):.1f} %")
    lines += ["", f"  {'mistake':<28}{'mutants':>8}" + "".join(f"{name:>13}" for name in names)]
    for operator, group in sorted(_grouped(live).items(), key=lambda pair: -len(pair[1])):
        shares = [100 * sum(row["by"].get(name, False) for row in group) / len(group) for name in names]
        lines.append(f"  {operator:<28}{len(group):>8}" + "".join(f"{share:>11.0f} %" for share in shares))
    lines += [f"SURVIVED    {row['mutant']}  on {', '.join(row['programs'])}" for row in live if _survives(row)]
    lines += [f"EQUIVALENT  {row['mutant']}: {row['equivalent']}" for row in equivalent]
    lines += [f"UNSEEN      {row['mutant']}" for row in rows if row["outcome"] == "unseen" and not row["equivalent"]]
    return "\n".join(lines)


def _grouped(rows: Sequence[dict]) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(row["operator"], []).append(row)
    return found


def _survives(row: dict) -> bool:
    return row["outcome"] == "survived"
