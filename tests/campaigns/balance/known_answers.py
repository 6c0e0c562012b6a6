"""Problems whose answers are known: spectra, critical rates, noise scales, and parameters in other units."""

from collections.abc import Iterator
from functools import partial

import jax
import numpy as np
import optax

import fnbackprop as fb
from fnbackprop.balancing.lanczos import Lanczos
from fnbackprop.models import mlp
from tests.balancing import test_lanczos as spectra
from tests.balancing import test_response as optimizers
from tests.balancing.test_noise import synthetic

from .edge import chebyshev
from .results import Finding, Measurement

SEEDS, COVERED = 300, 0.95
SCALES_OF_NOISE = (20, 250, 5000)


def measurements() -> Iterator[Measurement]:
    for name in spectra.SPECTRA:
        yield Measurement("quadratics", f"spectrum: {name}", partial(spectrum, name))
    for name in optimizers.ITERATIONS:
        yield Measurement("quadratics", f"critical rate: {name}", partial(critical_rate, name))
    for true in SCALES_OF_NOISE:
        yield Measurement("noise", f"noise scale {true}", partial(noise, true))
    for rate in (1e-3, 0.1, 3.0):
        yield Measurement("units", f"theta = 10 theta', rate {rate:g}", partial(other_units, rate))


def spectrum(name: str) -> Finding:
    """The ends of a known spectrum."""
    with jax.enable_x64(True):
        values = spectra.SPECTRA[name]
        matrix, _ = spectra.operator(values)
        start = spectra.start(len(values))
        found = Lanczos(jax.jit(spectra.product)).ends(start, matrix, tolerance=1e-7, most=300)
    ends = (found.smallest.value, values.min()), (found.largest.value, values.max())
    error = max(abs(one - other) for one, other in ends) / abs(values).max()
    return Finding("ends within 1e-6", f"{error:.1e}", error <= 1e-6)


def critical_rate(name: str) -> Finding:
    """The rate that the response gives, and the one at which the iteration itself begins to diverge."""
    optimizer, formula = optimizers.ITERATIONS[name]
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        response = optimizers.measured(optimizer)
        critical = response.critical.curvature / float(response.gain["b"][0])
        diverges = optimizers.first_divergent(optimizer)
    apart = abs(critical / diverges - 1)
    is_formula = abs(critical / formula - 1) < 1e-3
    return Finding("within 0.2 %", f"{critical:.4f}, diverges at {diverges:.4f}", apart < 2e-3 and is_formula)


def noise(true: int) -> Finding:
    """How often the interval holds the true noise scale."""
    scales = [synthetic(seed, true).examples for seed in range(SEEDS)]
    share = float(np.mean([scale.low <= true <= scale.high for scale in scales]))
    return Finding("in the interval in 95 %", f"{share:.1%} of {SEEDS} seeds", share >= COVERED)


def other_units(rate: float) -> Finding:
    """A network, and the same with parameters of a tenth: the critical rate is a hundredth, the verdict the same."""
    found = [
        fb.balance(_in_units(factor, rate), check=False, range_test=False, progress=False) for factor in (1.0, 10.0)
    ]
    one, other = (balance.facts.curvature.largest.value for balance in found)
    same = found[0].verdict == found[1].verdict
    verdicts = " and ".join(dict.fromkeys(str(balance.verdict) for balance in found))
    return Finding("curvature x 100", f"x {other / one:.3f}, {verdicts}", same and abs(other / one / 100 - 1) < 0.01)


def _in_units(factor: float, rate: float) -> fb.Experiment:
    """The Chebyshev network with its parameters divided by a factor."""
    plain = chebyshev(optax.sgd(rate / factor**2), f"units of {factor:g}")

    def init(key):
        return jax.tree.map(lambda leaf: leaf / factor, mlp.init(key, inputs=1, hidden=(50, 50), outputs=1))

    def loss(params, batch, key):
        return plain.loss(jax.tree.map(lambda leaf: factor * leaf, params), batch, key)

    return fb.Experiment(name=plain.name, init=init, loss=loss, batch=plain.batch, optimizer=plain.optimizer, steps=1)
