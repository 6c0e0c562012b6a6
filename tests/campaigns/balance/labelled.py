"""Experiments whose learning rate is known to be too low, balanced or too high, from full runs at each rate."""

import math
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import fnbackprop as fb
from fnbackprop import losses
from fnbackprop.balancing.branches import run_branch
from fnbackprop.balancing.subject import Machine
from fnbackprop.balancing.verdict import FINE as FINE_VERDICTS
from fnbackprop.balancing.verdict import Verdict
from fnbackprop.models import convnet, linear, lstm, mlp, transformer
from fnbackprop.training import data
from fnbackprop.training.balancing import balance, subject_of

from .results import Finding, Measurement

STEPS = 300
TAIL = 30  # steps whose mean loss is that of a run
TOO_SLOW = 3  # times the steps
TOO_MUCH = 0.25  # of the fall of the loss at the best rate: a run that falls by so much less is too low or too high
LOW, FINE, HIGH = "too low", "balanced", "too high"
OF_VERDICT = {
    Verdict.TOO_LOW: LOW,
    Verdict.BALANCED: FINE,
    Verdict.AT_THE_EDGE: FINE,
    Verdict.NOISE_LIMITED: FINE,
    Verdict.CATAPULT: HIGH,
    Verdict.OVERSHOOTING: HIGH,
    Verdict.DIVERGING: HIGH,
}
OPTIMIZERS: dict[str, tuple[Callable[[float], Any], tuple[float, ...]]] = {
    "sgd": (optax.sgd, (1e-3, 1e-1, 1.0, 30.0)),
    "momentum": (lambda rate: optax.sgd(rate, momentum=0.9), (1e-4, 3e-2, 3.0)),
    "adam": (optax.adam, (1e-5, 3e-3, 1.0)),
    "muon": (optax.contrib.muon, (1e-5, 2e-2, 10.0)),
}


class Case(NamedTuple):
    """A network, an optimizer and a rate."""

    network: str
    optimizer: str
    rate: float

    @property
    def name(self) -> str:
        return f"{self.network} {self.optimizer} {self.rate:g}"


CASES = [
    Case(network, optimizer, rate)
    for network in ("mlp", "convnet", "lstm", "gpt")
    for optimizer, (_, rates) in OPTIMIZERS.items()
    for rate in rates
    if (network, optimizer) not in (("lstm", "muon"), ("convnet", "momentum"))
]


def experiment(case: Case) -> fb.Experiment:
    """The experiment of a case."""
    init, loss, batch = {"mlp": _mlp, "convnet": _convnet, "lstm": _lstm, "gpt": _gpt}[case.network]()
    optimizer = OPTIMIZERS[case.optimizer][0](case.rate)
    name = f"{case.network}-{case.optimizer}"
    return fb.Experiment(name=name, init=init, loss=loss, batch=batch, optimizer=optimizer, steps=STEPS)


def measurements() -> Iterator[Measurement]:
    for case in CASES:
        yield Measurement("verdicts", case.name, partial(judged, case))


def judged(case: Case) -> Finding:
    """The verdict on a case against the labels of its full runs."""
    runs = full_runs(case)
    expected, by_fall = label(case, runs), label_by_fall(case, runs)
    verdict = balance(experiment(case), check=False, progress=False).verdict
    ends = {rate: end_of(losses) for rate, losses in runs.items()}
    diverged = not ends[case.rate] <= ends[min(ends)]  # the lowest rate of all hardly moves
    said = expected if by_fall == expected else f"{expected}, by its fall {by_fall}"
    right = OF_VERDICT.get(verdict) == expected
    end = f"{said}: ends at {ends[case.rate]:.3g}, best {min(ends.values()):.3g}"
    return Finding(end, str(verdict), right, diverged and verdict in FINE_VERDICTS)


def label(case: Case, runs: Mapping[float, np.ndarray]) -> str:
    """By speed: a rate is too low or too high if another gets in a third of the steps to where its run ends."""
    end = end_of(runs[case.rate])
    first = {rate: first_below(losses, end) for rate, losses in runs.items()}
    best = min(first, key=lambda rate: first[rate])
    if first[best] * TOO_SLOW > STEPS:
        return FINE
    return LOW if case.rate < best else HIGH


def label_by_fall(case: Case, runs: Mapping[float, np.ndarray]) -> str:
    """By the end: a rate is too low or too high if its loss falls by much less than at the best."""
    ends = {rate: end_of(losses) for rate, losses in runs.items()}
    best, start = min(ends, key=lambda rate: ends[rate]), float(runs[case.rate][0])
    if ends[case.rate] <= ends[best] + TOO_MUCH * (start - ends[best]):
        return FINE
    return LOW if case.rate < best else HIGH


def full_runs(case: Case) -> dict[float, np.ndarray]:
    """The losses of a full run at each rate of the optimizer and between."""
    rates = sorted({*OPTIMIZERS[case.optimizer][1], *(case.rate * factor for factor in (0.1, 0.3, 3.0, 10.0))})
    return {rate: full_run(case.network, case.optimizer, rate) for rate in rates}


@lru_cache(1)
def machine_of(network: str, optimizer: str) -> Machine:
    """The compiled step at a rate of 1, which is multiplied."""
    return Machine(subject_of(experiment(Case(network, optimizer, 1.0))), STEPS)


@cache
def full_run(network: str, optimizer: str, rate: float) -> np.ndarray:
    """The losses of a full run."""
    return run_branch(machine_of(network, optimizer), rate, STEPS).losses


def end_of(found: np.ndarray) -> float:
    """The mean loss of the last steps."""
    return float(found[-TAIL:].mean()) if np.isfinite(found).all() else math.inf


def first_below(found: np.ndarray, end: float) -> int:
    """The step around which the mean of as many steps comes down to a loss; more than all if it never does."""
    smooth = np.convolve(found, np.ones(TAIL) / TAIL, mode="valid") if len(found) >= TAIL else np.array([math.inf])
    below = np.flatnonzero(smooth <= end)
    return int(below[0]) + TAIL // 2 if len(below) else STEPS + 1


# ---------------------------------------------------------------- the networks


def _digits() -> Callable[[int], dict[str, np.ndarray]]:
    found = load_digits()
    arrays = {"images": (found.images / 16).astype(np.float32)[..., None], "labels": found.target.astype(np.int32)}
    return data.shuffled(arrays, batch_size=64)


def _mlp() -> tuple[Callable, Callable, Callable]:
    def loss(params, batch, key):
        logits = mlp.apply(params, batch["images"].reshape(64, 64), dropout=0.1, key=key)
        return losses.softmax_cross_entropy(logits, batch["labels"])

    return lambda key: mlp.init(key, inputs=64, hidden=(64, 32), outputs=10), loss, _digits()


def _convnet() -> tuple[Callable, Callable, Callable]:
    def loss(params, batch, key):
        return losses.softmax_cross_entropy(convnet.apply(params, batch["images"], residual=True), batch["labels"])

    return lambda key: convnet.init(key, inputs=1, channels=(8, 16), outputs=10), loss, _digits()


def _lstm() -> tuple[Callable, Callable, Callable]:
    """The rows of a digit, one after the other."""

    def init(key):
        one, two = jax.random.split(key)
        return {"rows": lstm.init(one, inputs=8, hidden=32), "head": linear.init(two, inputs=32, outputs=10)}

    def loss(params, batch, key):
        outputs, _ = lstm.apply(params["rows"], batch["images"][..., 0])  # (batch, rows, hidden)
        return losses.softmax_cross_entropy(linear.apply(params["head"], outputs[:, -1]), batch["labels"])

    return init, loss, _digits()


def _gpt() -> tuple[Callable, Callable, Callable]:
    """The bytes of Python's standard library."""
    files = data.find_files(sysconfig.get_paths()["stdlib"], "*.py", leave_out=("site-packages", "test", "tests"))

    def loss(params, batch, key):
        return losses.softmax_cross_entropy(transformer.apply(params, batch["inputs"], heads=2), batch["targets"])

    def init(key):
        return transformer.init(key, vocabulary=data.VOCABULARY, length=32, width=32, layers=2)

    return init, loss, data.windows(data.ByteText(files), length=32, batch_size=8)
