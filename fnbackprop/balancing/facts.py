"""What has been measured: everything that a verdict is made from, and nothing else."""

import dataclasses

from .branches import Branch, RangeTest
from .estimates import UNKNOWN, Estimate
from .noise import NoiseScale


@dataclasses.dataclass(frozen=True)
class Curvature:
    """Of the loss on one batch.

    Attributes:
      largest, smallest: eigenvalues of the Hessian; the interval is the value and its residual.
      scaled: the largest after the optimizer's gain; None if the optimizer has no linear response.
      is_bound: whether `largest` and `scaled` are lower bounds: the iteration had not converged.
      steps: products with the Hessian for each.
      product: how they were taken.
    """

    largest: Estimate
    smallest: Estimate
    scaled: Estimate | None
    is_bound: bool
    steps: int
    product: str


@dataclasses.dataclass(frozen=True)
class LayerFacts:
    """One layer.

    Attributes:
      name: its path.
      update_to_weight: |update| / |weight| of the next update.
      share: of the direction of largest curvature, the part that lies in this layer; all sum to 1.
      multiplier: of its updates, that would make the updates of all layers equal relative to their weights.
    """

    name: str
    update_to_weight: float
    share: float | None
    multiplier: float | None


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known about the step at one state; what has not been measured is None, or `UNKNOWN`.

    Attributes:
      name, step: of the experiment, and how many updates lie behind the state.
      refusal: why nothing can be judged; empty if it can.
      start: the loss at the state, over several batches.
      curvature: of the loss.
      ratio: rho, the learning rate over the critical one.
      not_linear: why the optimizer's response gives no critical rate, or one that is only about right.
      angle: of the oscillation at the critical rate, pi if it jumps from side to side.
      batch_sharpness: g'Hg / |g|^2 with the gain of the optimizer, relative to what is critical, over several batches.
      noise: the noise scale.
      branches: the next steps at multiples of the rate, by factor.
      range_test: while the rate grows.
      layers: each layer.
      notes: what else there is to know.
      passes, seconds: what it cost.
      interrupted: whether it was ended before all was measured.
    """

    name: str
    step: int
    refusal: str = ""
    start: Estimate = UNKNOWN
    curvature: Curvature | None = None
    ratio: Estimate | None = None
    not_linear: str = ""
    angle: float | None = None
    batch_sharpness: Estimate | None = None
    noise: NoiseScale | None = None
    batch_size: int = 1
    unit: str = "examples"
    branches: tuple[Branch, ...] = ()
    range_test: RangeTest | None = None
    layers: tuple[LayerFacts, ...] = ()
    rate: float | None = None
    notes: tuple[str, ...] = ()
    passes: int = 0
    seconds: float = 0.0
    interrupted: bool = False

    def branch(self, factor: float) -> Branch | None:
        """The branch at a multiple of the learning rate."""
        return next((b for b in self.branches if b.factor == factor), None)

    @property
    def overshoot(self) -> float | None:
        """Alpha, the median overshoot of the last steps at the rate itself."""
        branch = self.branch(1.0)
        return None if branch is None or branch.overshoot != branch.overshoot else branch.overshoot
