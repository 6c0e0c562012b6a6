"""`python -m tests.campaigns balance`: does `fb.balance` say what full runs show?

    python -m tests.campaigns balance noise         # the interval of the noise scale, 300 seeds
    python -m tests.campaigns balance edge          # gradient descent, Adam and SGD at rest: 4 minutes
    python -m tests.campaigns balance verdicts      # against labels from full runs: half an hour on 2 cores
    python -m tests.campaigns balance verdicts --network mlp --optimizer adam

Without a part, all of them. The exit status is 1 if a number is out of its bounds: a sharpness off by more than 5 %, a
critical ratio by more than 10 %, an interval that misses more than one time in twenty, more than one verdict in fifteen
that is wrong, or a run that diverges and was called balanced.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import optax

from fnbackprop.balancing.verdict import FINE as FINE_VERDICTS
from fnbackprop.training.balancing import balance
from tests.balancing.test_noise import synthetic

from . import edge as runs
from . import labelled

PARTS: dict[str, Callable[[argparse.Namespace], bool]] = {}
SEEDS, COVERED = 300, 0.95
WRONG_AT_MOST = 1 / 15


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("python -m tests.campaigns balance", description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="*", help=f"which of {', '.join(PARTS)}; all by default")
    parser.add_argument("--network", choices=["mlp", "convnet", "lstm", "gpt"], help="of verdicts: only this one")
    parser.add_argument("--optimizer", choices=list(labelled.OPTIMIZERS), help="of verdicts: only this one")
    options = parser.parse_args(argv)
    if unknown := set(options.part) - set(PARTS):
        parser.error(f"there is no part {', '.join(unknown)}")
    good = [PARTS[part](options) for part in options.part or PARTS]
    return 0 if all(good) else 1


def part(function: Callable[[argparse.Namespace], bool]) -> Callable[[argparse.Namespace], bool]:
    PARTS[function.__name__] = function
    return function


@part
def noise(options: argparse.Namespace) -> bool:
    """How often the interval holds the true noise scale."""
    shares = []
    for true in (20, 250, 5000):
        scales = [synthetic(seed, true).examples for seed in range(SEEDS)]
        shares.append(float(np.mean([scale.low <= true <= scale.high for scale in scales])))
        print(f"noise scale {true}: in the interval in {shares[-1]:.1%} of {SEEDS} seeds", flush=True)
    return min(shares) >= COVERED


@part
def edge(options: argparse.Namespace) -> bool:
    """Where training on full batches, and on small ones, comes to rest."""
    start = runs.sharpness(runs.chebyshev(optax.sgd(0.1), "start"))
    descent, adam, stochastic = runs.full_batch(0.1, 20_000), runs.adam(3e-3, 10_000), runs.stochastic(0.1, 20_000, 4)
    sharp = descent.mean(lambda facts: facts.curvature.largest.value)
    print(f"{descent.name}: curvature {start:.2f} at first, {sharp:.2f} at the end; 2 / rate = 20", flush=True)
    ratio = adam.mean(lambda facts: facts.ratio.value)
    print(f"{adam.name}: scaled curvature {38 * ratio:.1f} / rate at the end, against 38 / rate", flush=True)
    batches = stochastic.mean(lambda facts: facts.batch_sharpness.value)
    whole = float(np.mean(stochastic.whole))
    print(
        f"{stochastic.name}: batch sharpness {batches:.1f}, that of the whole loss {whole:.1f}; 2 / rate = 20",
        flush=True,
    )
    return abs(sharp / 20 - 1) < 0.05 and abs(ratio - 1) < 0.1 and whole < 20


@part
def verdicts(options: argparse.Namespace) -> bool:
    """The verdict on each case against the label of its full runs."""
    wrong, unsafe, count = 0, 0, 0
    for case in labelled.CASES:
        if options.network not in (None, case.network) or options.optimizer not in (None, case.optimizer):
            continue
        label, ends = labelled.label(case)
        found = balance(labelled.experiment(case), check=False, progress=False)
        right = labelled.OF_VERDICT.get(found.verdict) == label
        diverged = not ends[case.rate] <= ends[min(ends)]  # the lowest rate of all hardly moves
        count, wrong = count + 1, wrong + (not right)
        unsafe += diverged and found.verdict in FINE_VERDICTS
        mark = "right" if right else "WRONG"
        print(f"{mark}  {case.name:<24} {label:<9} {found.verdict}  (full run: {ends[case.rate]:.3g})", flush=True)
    print(f"{count - wrong} of {count} verdicts are right; {unsafe} that diverge were called balanced")
    return wrong <= WRONG_AT_MOST * count and not unsafe
