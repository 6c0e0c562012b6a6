"""An experiment: the pure functions that every command takes.

An experiment file holds a frozen `Config` dataclass, a function `experiment(config) -> Experiment` and, as its last
line, `fb.run(experiment)`. All that happens in a run is a function of `(seed, step)`: the initial parameters, the order
of the data and the randomness inside the loss.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from .experiment_checks import (
    ExperimentError,
    check_function,
    check_integer,
    check_loss,
    check_metrics,
    check_name,
    check_optimizer,
    check_patterns,
)
from .updates import Update, check_updates

WEIGHT = "weight"
"""The metric by which a microbatch counts: see `Experiment.accumulate`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """The pure functions of one experiment.

    Args:
      name: names the run and its folder, `runs/<name>/`.
      init: `init(key) -> params`, any pytree of arrays.
      loss: `loss(params, batch, key) -> scalar`, or `(scalar, metrics)` with a dict of scalars to be recorded.
        `key` is another one at every step.
      batch: `batch(step) -> batch`, a pytree of arrays whose shapes are the same at every step. `step` is an int.
      optimizer: an optax transformation, for instance `optax.adam(1e-3)`.
      trainable: patterns of the paths of the parameters that are trained, with everything below them: "head",
        "blocks/*/bias", or several of them. The others are frozen: no gradient is computed for them, and the optimizer
        keeps nothing about them. None trains all.
      updates: instead of `loss`, `optimizer` and `trainable`, several `fb.Update`s that a step makes in their order.
      evaluate: `evaluate(params) -> dict` of scalars, called at the end (and every `evaluate_every` steps). It must
        not keep `params`: their memory is used again by the next step.
      steps: how many steps a run takes.
      seed: the seed of the initial parameters and of the loss's keys.
      accumulate: the number of microbatches that a batch is split into; one at a time is in memory. The gradient is
        their mean: that of the batch, if the loss is a mean over examples. If it is a mean over what microbatches have
        different numbers of, tokens that count for instance, return that number among the metrics as "weight": then
        gradient, loss and metrics are exact as well.
      precision: "float32"; "bfloat16" or "float16" to compute in (parameters are kept in float32, and float16 has a
        loss scale); or a `fb.Precision`. None leaves every dtype as it is. Of a batch, only the network's inputs are
        computed with in it ("x", "inputs", "images" ..., or the first of a tuple): see `Precision.batch`.
      ema: the decay of an exponential moving average of the parameters, 0.999 for instance, which `evaluate` is then
        given; None keeps none.
      sharding: the placement when a run has a mesh. "data": parameters on every device, batches split over the
        mesh axis "data"; "fsdp": parameters split over it too; "tensor": `models.transformer` split over "model";
        "fsdp+tensor": over both; "replicate": everything on every device. Or a dict from path patterns ("qkv/w",
        "blocks/*/up/b") to `PartitionSpec`s, or a function `(path, shape, mesh) -> PartitionSpec`.
      config: the dataclass that the experiment was made from, for what is written about a run; the command line fills
        it in.

    Raises:
      ExperimentError: a function takes other arguments, or a value makes no sense.
    """

    name: str
    init: Callable[[jax.Array], Any]
    batch: Callable[[int], Any]
    steps: int
    loss: Any = None  # Callable[[Any, Any, jax.Array], Any], unless there are updates
    optimizer: Any = None  # optax.GradientTransformation, unless there are updates
    trainable: str | Sequence[str] | None = None
    updates: Sequence[Update] = ()
    seed: int = 0
    evaluate: Callable[[Any], dict[str, Any]] | None = None
    evaluate_every: int | None = None
    accumulate: int = 1
    precision: Any = None
    ema: float | None = None
    sharding: Any = "data"
    config: Any = None

    def __post_init__(self):
        check_name(self.name)
        check_function("init", self.init, "key")
        if self.updates:
            self._check_updates()
        else:
            check_function("loss", self.loss, "params", "batch", "key")
            check_optimizer("optimizer", self.optimizer)
            check_patterns("trainable", self.trainable)
        check_function("batch", self.batch, "step")
        if self.evaluate is not None:
            check_function("evaluate", self.evaluate, "params")
        check_integer("steps", self.steps, at_least=1)
        check_integer("seed", self.seed, at_least=0)
        if self.evaluate_every is not None:
            check_integer("evaluate_every", self.evaluate_every, at_least=1)
        check_integer("accumulate", self.accumulate, at_least=1)
        if self.ema is not None and not (isinstance(self.ema, float) and 0 < self.ema < 1):
            raise ExperimentError(f"ema must be a decay between 0 and 1, 0.999 for instance, not {self.ema!r}.")
        if self.config is not None and (isinstance(self.config, type) or not dataclasses.is_dataclass(self.config)):
            raise ExperimentError(f"config must be an instance of a dataclass, not {self.config!r}.")

    def _check_updates(self) -> None:
        for field in ("loss", "optimizer", "trainable"):
            if getattr(self, field) is not None:
                raise ExperimentError(f"with updates, each has its own: leave out {field}, or give it to an update.")
        check_updates(self.updates)
        _ = self.parts  # which checks each loss

    @functools.cached_property
    def parts(self) -> dict[str, "Experiment"]:
        """Each update as an experiment of its own, by its name; without updates, the experiment itself, named ""."""
        if not self.updates:
            return {"": self}

        def alone(update: Update) -> Experiment:
            own = {"loss": update.loss, "optimizer": update.optimizer, "trainable": update.parameters}
            return dataclasses.replace(self, updates=(), ema=None, **own)

        return {update.name: alone(update) for update in self.updates}

    def keys(self) -> tuple[jax.Array, jax.Array]:
        """The key of `init`, and the key from which each step's is derived."""
        init_key, loss_key = jax.random.split(jax.random.key(self.seed))
        return init_key, loss_key

    def arguments(self, step: int = 0) -> tuple[Any, Any, jax.Array]:
        """The initial `(params, batch, key)` as `loss` meets them at `step`: what `fb.compare` is handed."""
        init_key, loss_key = self.keys()
        return self.init(init_key), self.batch(step), jax.random.fold_in(loss_key, step)

    def loss_and_metrics(self, params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """`loss`, always as `(scalar, metrics)`; raises ExperimentError when it returned something else."""
        result = self.loss(params, batch, key)
        if isinstance(result, tuple) and len(result) != 2:
            raise ExperimentError(f"loss returned a tuple of {len(result)}; return a scalar or (scalar, metrics dict).")
        value, metrics = result if isinstance(result, tuple) else (result, {})
        check_loss(value)
        check_metrics(metrics)
        return value, metrics
