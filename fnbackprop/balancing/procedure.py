"""The measurements in their order; what is known when it is interrupted is judged as it stands."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fnbackprop.comparing.show.status_line import StatusLine

from . import branches, curvature
from .estimates import Estimate
from .facts import Curvature, Facts
from .gate import not_finite, why_not_judged
from .lanczos import Lanczos, Spectrum, inverse
from .layers import layer_facts
from .noise import GradientProducts, noise_scale
from .response import Response, compare_with_actual, measure_response
from .result import Balance
from .subject import Machine, Subject
from .vectors import add, dot

BATCHES = 8  # for noise and batch sharpness
SETTLING = 16  # batches whose gradients an optimizer that is new has seen before its response is measured
RANGE = (1e-3, 10.0)  # of the critical rate
BLIND_RANGE = (1e-2, 1e4)  # of the rate, where no critical one is known


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured.

    Attributes:
      check: the gradient is compared with the automatic one, and every rule in place.
      range_test: steps at a growing rate are taken.
    """

    check: bool = True
    range_test: bool = True


def run_procedure(subject: Subject, options: Options, progress: bool | None = None) -> Balance:
    """Measure and judge; Ctrl-C ends it early."""
    measured = Measured(subject)
    with StatusLine(progress, "balancing") as say:
        try:
            for stage in STAGES:
                if not measured.facts.refusal:
                    stage(measured, options, say)
        except KeyboardInterrupt:
            measured.found(interrupted=True)
    measured.found(passes=measured.machine.cost.passes, seconds=time.perf_counter() - measured.began)
    return Balance(measured.facts)


class Measured:
    """What the stages share: the machine, what is known so far, and what later stages need of earlier ones."""

    def __init__(self, subject: Subject):
        self.subject, self.began = subject, time.perf_counter()
        self.machine = Machine(subject, branches.STEPS)
        self.facts = Facts(
            subject.name, subject.step, batch_size=subject.batch_size, unit=subject.unit, rate=subject.rate
        )
        self.mean_gradient: Any = None
        self.response: Response | None = None
        self.gain: Any = None
        self.sharpest: Any = None
        how, why = curvature.choose_product(subject.gradient, subject.params, *self.machine.batch(0))
        self.how = how
        if why:
            self.note(f"products with the Hessian are {how}, for forward mode is refused: {why}")

        def product(vector: Any, params: Any, *operands: Any) -> Any:
            return curvature.PRODUCTS[how](subject.gradient, params, vector, *operands)

        self.product = jax.jit(product)
        self.dot, self.add = jax.jit(dot), jax.jit(add, donate_argnums=0)

    def found(self, **facts: Any) -> None:
        self.facts = dataclasses.replace(self.facts, **facts)

    def note(self, text: str) -> None:
        self.found(notes=(*self.facts.notes, text))

    def curvature_along(self, vector: Any, number: int) -> float:
        """v'Hv of a batch."""
        self.machine.cost.passes += 2
        return float(self.dot(vector, self.product(vector, self.subject.params, *self.machine.batch(number))))


Stage = Callable[[Measured, Options, Callable[[str], None]], None]


# ---------------------------------------------------------------- the stages


def check_gradient(measured: Measured, options: Options, say: Callable[[str], None]) -> None:
    """The gate: whether there is anything to judge."""
    say("is the gradient right?")
    found = measured.machine.gradient(measured.subject.params, 0)
    measured.found(refusal=why_not_judged(measured.subject, *measured.machine.batch(0), *found, options.check))


def measure_noise(measured: Measured, options: Options, say: Callable[[str], None]) -> None:
    """The gradients of several batches: once for their sum, and once more against it."""
    machine, params = measured.machine, measured.subject.params
    total, losses, squares = optax.tree.zeros_like(params), [], []
    for i in range(BATCHES):
        say(f"gradient of batch {i + 1}")
        loss, gradient = machine.gradient(params, i)
        losses.append(float(loss))
        squares.append(float(measured.dot(gradient, gradient)))
        total = measured.add(total, gradient)
        del gradient  # or it were in memory beside the next one
    with_sum, sharpness = [], []
    for i in range(BATCHES):
        say(f"curvature along the gradient of batch {i + 1}")
        _, gradient = machine.gradient(params, i)
        with_sum.append(float(measured.dot(gradient, total)))
        sharpness.append(measured.curvature_along(gradient, i) / max(squares[i], 1e-300))
        del gradient
    size = measured.subject.batch_size
    products = GradientProducts(np.array(squares), np.array(with_sum), float(measured.dot(total, total)), size)
    with np.errstate(over="ignore", invalid="ignore"):  # of squares that leave the range
        start, noise, sharp = Estimate.of_mean(losses), noise_scale(products), Estimate.of_mean(sharpness)
    measured.found(start=start, noise=noise, batch_sharpness=sharp)
    measured.mean_gradient = jax.jit(lambda tree: optax.tree.scale(1 / BATCHES, tree), donate_argnums=0)(total)


def measure_optimizer(measured: Measured, options: Options, say: Callable[[str], None]) -> None:
    """The linear response of the optimizer."""
    subject, machine = measured.subject, measured.machine
    say("the optimizer's response")
    settles = subject.step < SETTLING
    opt_state = machine.settled(SETTLING) if settles else subject.opt_state()
    loss = machine.gradient(subject.params, 0)[0]
    given = subject.params, loss, *machine.batch(0)
    gradient, measured.mean_gradient = measured.mean_gradient, None  # which no other stage reads
    try:
        agreement = compare_with_actual(subject.update, opt_state, gradient, *given)
        del gradient
        key = jax.random.key(subject.step)
        response = measure_response(subject.update, opt_state, subject.params, key, *given, agreement=agreement)
    except (TypeError, NotImplementedError) as error:  # its update has no forward mode
        measured.found(not_linear=f"the response of the optimizer cannot be measured: {str(error).splitlines()[0]}")
        return
    measured.response = response.without_gain()
    measured.found(not_linear=response.why_not_linear, angle=response.critical.angle)
    if response.is_diagonal and np.isfinite(response.critical.curvature):
        measured.gain = response.gain


def measure_curvature(measured: Measured, options: Options, say: Callable[[str], None]) -> None:
    """The ends of the Hessian's spectrum, as it is and with the optimizer's gain."""
    subject, gain = measured.subject, measured.gain
    measured.gain = None  # and with it its memory, once it is used
    lanczos, like = Lanczos(measured.product), subject.params
    start = partial(jax.jit(lambda key: optax.tree.random_like(key, like)), jax.random.key(0))
    operands = subject.params, *measured.machine.batch(0)

    def ends(metric: Any, what: str) -> Spectrum:
        found = lanczos.ends(start, *operands, metric=metric, said=lambda text: say(f"{what}: {text}"))
        measured.machine.cost.passes += 2 * found.steps
        return found

    uniform = None if gain is None else _uniform(gain)
    metric = None if gain is None or uniform is not None else jax.jit(inverse, donate_argnums=0)(gain)
    del gain
    plain, scaled = ends(None, "curvature"), None
    if uniform is not None:
        scaled = _scaled(plain, uniform)
    elif metric is not None:
        scaled = ends(metric, "curvature as the optimizer sees it")
    used = plain if scaled is None else scaled
    measured.found(curvature=_curvature(plain, scaled, measured.how), ratio=_ratio(measured, scaled))
    if used.largest.value > 0:
        say("the direction of largest curvature")
        measured.sharpest = lanczos.vector(start, used, *operands, metric=metric)
        measured.machine.cost.passes += 2 * used.steps


def _uniform(gain: Any) -> float | None:
    """The gain if it is the same for all parameters."""
    low = min(float(jnp.min(jnp.abs(leaf), initial=jnp.inf)) for leaf in jax.tree.leaves(gain))
    high = max(float(jnp.max(jnp.abs(leaf), initial=0)) for leaf in jax.tree.leaves(gain))
    return high if high - low <= 1e-5 * high else None


def _scaled(spectrum: Spectrum, factor: float) -> Spectrum:
    largest, smallest = (
        dataclasses.replace(end, value=end.value * factor, residual=end.residual * factor)
        for end in (spectrum.largest, spectrum.smallest)
    )
    return dataclasses.replace(spectrum, largest=largest, smallest=smallest)


def _curvature(plain: Spectrum, scaled: Spectrum | None, how: str) -> Curvature:
    bound = not (plain.converged and (scaled is None or scaled.converged))
    ends = [_interval(end.value, end.residual) for end in (plain.largest, plain.smallest)]
    of_gain = None if scaled is None else _interval(scaled.largest.value, scaled.largest.residual)
    return Curvature(*ends, of_gain, bound, plain.steps, how)


def _interval(value: float, residual: float) -> Estimate:
    return Estimate(value, value - residual, value + residual)


def _ratio(measured: Measured, scaled: Spectrum | None) -> Estimate | None:
    """rho: the largest curvature with the gain over the critical one; the largest eigenvalue is no smaller than
    found."""
    response = measured.response
    if response is None or scaled is None or not np.isfinite(scaled.largest.value):
        return None
    value = max(scaled.largest.value, 0.0) / response.critical.curvature
    slack = scaled.largest.residual / response.critical.curvature + response.inseparable * value
    return Estimate(value, value, value + slack)


def measure_layers(measured: Measured, options: Options, say: Callable[[str], None]) -> None:
    """The next update, layer by layer."""
    machine, subject = measured.machine, measured.subject
    loss, gradient = machine.gradient(subject.params, 0)
    updates = machine.updates(gradient, subject.opt_state(), subject.params, loss, 0)
    measured.found(layers=layer_facts(subject.params, updates, measured.sharpest))
    if not any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(updates)):
        measured.note(
            "the next update is zero, as at the start of a warm-up: a later step of a run tells of its layers"
        )
    measured.sharpest = None


def take_branches(measured: Measured, options: Options, say: Callable[[str], None]) -> None:
    """The next steps at other rates; that of the run first."""
    for factor in sorted(branches.FACTORS, key=lambda factor: factor != 1.0):
        say(f"{branches.STEPS} steps at {factor:g} times the rate")
        _add_branch(measured, factor)
        if factor == 1.0 and (reason := _broken_batch(measured, measured.facts.branches[0])):
            measured.found(refusal=reason)
            return


def _broken_batch(measured: Measured, branch: branches.Branch) -> str:
    """Of a branch that ends in a loss that is not finite: why no rate is to blame. That step's batch, or the one before
    it, whose gradient moved the parameters, breaks the loss at the state itself. Empty if neither does."""
    if branch.is_finite:
        return ""
    machine, params, last = measured.machine, measured.subject.params, len(branch.losses) - 1
    for number in range(max(last - 1, 0), last + 1):
        if reason := not_finite(measured.subject, *machine.batch(number), *machine.gradient(params, number)):
            step = measured.subject.step + number
            return f"The batch of step {step} breaks the loss before any update, whatever the rate: {reason}"
    return ""


def _add_branch(measured: Measured, factor: float) -> None:
    found = branches.run_branch(measured.machine, factor, overshoots=factor == 1.0)
    measured.found(branches=tuple(sorted((*measured.facts.branches, found), key=lambda branch: branch.factor)))


def take_range_test(measured: Measured, options: Options, say: Callable[[str], None]) -> None:
    """Steps at a growing rate, in several orders of the data."""
    if not options.range_test:
        return
    ratio = measured.facts.ratio
    known = ratio is not None and 1 / branches.FURTHEST <= ratio.value <= branches.FURTHEST
    low, high = (end / ratio.value for end in RANGE) if known else BLIND_RANGE
    runs = []
    for order in range(branches.RANGE_ORDERS):
        say(f"range test, order {order + 1} of {branches.RANGE_ORDERS}")
        runs.append(branches.range_test(measured.machine, low, high, order))
    factors = np.geomspace(low, high, branches.RANGE_STEPS)
    measured.found(range_test=branches.summarise_range(factors, runs))


def try_suggestions(measured: Measured, options: Options, say: Callable[[str], None]) -> None:
    """The rates that the curvature and the range test suggest, if the branches so far have not been there."""
    tried = [branch.factor for branch in measured.facts.branches]
    for factor in branches.suggestions(measured.facts.ratio, measured.facts.range_test):
        if not any(0.6 < factor / other < 1.7 for other in tried):
            say(f"{branches.STEPS} steps at {factor:.3g} times the rate")
            _add_branch(measured, factor)
            tried.append(factor)


STAGES: tuple[Stage, ...] = (
    check_gradient,
    measure_noise,
    measure_optimizer,
    measure_curvature,
    measure_layers,
    take_branches,
    take_range_test,
    try_suggestions,
)
