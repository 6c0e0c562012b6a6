"""What a verdict costs, on the experiments of this repository: seconds, passes and memory.

The time on two idle cores is no more than the processor's, and no more than the time on the wall.
"""

import math
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fnbackprop as fb
from fnbackprop.experiment_files import config_type, load

from .results import Finding, Measurement

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
MINUTE = 60.0
CASES: dict[str, tuple[str, dict[str, Any], float]] = {  # file, options, most seconds
    "digits, MLP": ("digits.py", {}, MINUTE),
    "digits, convnet": ("digits.py", {"model": "convnet"}, MINUTE),
    "GPT on bytes": ("bytes_lm.py", {}, 5 * MINUTE),
}
RATES = {
    "balance.py at 0.003": (0.003, "TOO LOW"),
    "balance.py at 0.3": (0.3, "BALANCED"),
    "balance.py at 10": (10.0, "TOO HIGH"),
}


def measurements() -> Iterator[Measurement]:
    for name in CASES:
        yield Measurement("cost", name, partial(seconds_of, name))
    for name in RATES:
        yield Measurement("cost", name, partial(three_rates, name))


def experiment(file: str, options: dict[str, Any]) -> fb.Experiment:
    make = load(str(EXPERIMENTS / file))
    return make(config_type(make)(**options))


def seconds_of(name: str) -> Finding:
    """A whole balance, its checks included."""
    file, options, most = CASES[name]
    made = experiment(file, options)
    wall, processor = time.perf_counter(), time.process_time()
    facts = fb.balance(made, progress=False).facts
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    found = f"{facts.passes} passes, {wall:.0f} s, {processor:.0f} s of processors"
    return Finding(f"{most:.0f} s", found, min(wall, processor) <= most)


def three_rates(name: str) -> Finding:
    """The verdict before a run."""
    rate, expected = RATES[name]
    found = fb.balance(experiment("balance.py", {"learning_rate": rate}), check=False, progress=False)
    ratio = math.nan if found.facts.ratio is None else found.facts.ratio.value
    good = re.match(expected, found.verdict) is not None
    return Finding(expected, f"{found.verdict}, {ratio:.2g} of the critical rate", good)
