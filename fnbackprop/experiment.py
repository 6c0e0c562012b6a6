"""An experiment: the pure functions that every command takes.

An experiment file holds a frozen `Config` dataclass, a function `experiment(config) -> Experiment` and, as its last
line, `fb.run(experiment)`. All that happens in a run is a function of `(seed, step)`: the initial parameters, the order
of the data and the randomness inside the loss.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from .experiment_checks import (
    ExperimentError,
    batch_note,
    check_bool,
    check_function,
    check_integer,
    check_loss,
    check_metrics,
    check_name,
    check_optimizer,
    check_patterns,
    check_sharding,
    has_parameter,
    kind,
    takes,
)
from .updates import Update, check_updates

STATE_HINT = " If the second is the model state, tell the Experiment: has_state=True."
WEIGHT = "weight"
"""The metric by which a microbatch counts: see `Experiment.accumulate`."""


class LossOutcome(NamedTuple):
    """What `loss` has returned: the scalar, the metrics, and the model state after it (None if there is none)."""

    value: jax.Array
    metrics: dict[str, jax.Array]
    model_state: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """The pure functions of one experiment.

    Args:
      name: names the run and its folder, `runs/<name>/`.
      init: `init(key) -> params`, any pytree of arrays. `train` also calls it by `jax.eval_shape`, for the shapes
        alone: the step is compiled while the numbers are computed.
      loss: `loss(params, batch, key) -> scalar`, or `(scalar, metrics)` with a dict of scalars to be recorded.
        `key` is another one at every step.
      batch: `batch(step) -> batch`, a pytree of arrays whose shapes are the same at every step. `step` is an int.
      batch_shapes: how many different shapes batches may have, buckets of lengths for instance: the step is compiled
        for each when it is first met, and the log names it.
      optimizer: an optax transformation, for instance `optax.adam(1e-3)`.
      trainable: patterns of the paths of the parameters that are trained, with everything below them: "head",
        "blocks/*/bias", or several of them. The others are frozen: no gradient is computed for them, and the optimizer
        keeps nothing about them. None trains all.
      updates: instead of `loss`, `optimizer` and `trainable`, several `fb.Update`s that a step makes in their order.
      gradient: `gradient(value_and_grad, params, batch, key) -> ((loss, metrics), gradient)`, in the place of the
        loss's own gradient: sharpness-aware, of several losses in conflict, penalised. `value_and_grad(loss)(params,
        batch, key)` returns the same, by the run's backward, in its precision and over its microbatches.
      step: the last resort, `step(state, batch, key, value_and_grad) -> (state, metrics)`: the whole step, pure, from
        `fb.TrainState` to `dataclasses.replace(state, params=..., opt_state=...)`; its metrics hold "loss" and
        "gradient_norm". `optimizer.init` makes `opt_state`, and `loss` is what `compare` and `trace` look at.
      evaluate: `evaluate(params) -> dict` of scalars, and of `fb.Image`, `fb.Text` and `fb.Histogram` for the run's
        report, called at the end (and every `evaluate_every` steps). It must not keep `params`: their memory is used
        again by the next step. `evaluate(params, context)` is also given a `fb.EvaluationContext`: step, state, folder.
      evaluate_every: how many steps there are between two evaluations; None: one at the end alone.
      predict: what a trained model is for, `predict(params, inputs) -> outputs`, or `predict(params, model_state,
        inputs)`: the function that `fb.export_model` and `fnbackprop export` make a program of.
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
      has_state: whether the model has a state that is no parameter: the running statistics of batch normalisation,
        counters, keys. Then `init(key) -> (params, model_state)`, two pytrees; `loss(params, model_state, batch, key)
        -> (scalar, model_state)`, or `(scalar, model_state, metrics)`, returns the state anew, with the same shapes;
        and `evaluate(params, model_state)`. It is never differentiated. Microbatches pass it on in their order.
        Of Flax linen it is `variables["batch_stats"]`; of NNX, all but the parameters in `nnx.split(model, nnx.Param,
        ...)`; of Equinox, what `eqx.nn.make_with_state` gives.
      ema_of_state: whether `ema` averages the floating arrays of the model state too, rather than the parameters alone.
      skip_nonfinite: how many steps on end may have a loss or a gradient that is NaN or infinite: their updates are
        left out and counted, in the metric "skipped"; one more ends the run. None: the first ends it.
      skip_spikes: how many steps on end may spike: loss or gradient norm is 8 robust standard deviations above what it
        was in the last 128 steps, in logarithms (32 steps must be known). Their updates are left out and counted, in
        the metric "skipped_spikes"; one more is taken for the level now, and what was known is forgotten. None: none is
        left out. Of several updates, each by its own loss and gradient.
      sharding: the placement when a run has a mesh. "data": parameters on every device, batches split over the
        mesh axis "data"; "fsdp": parameters split over it too; "tensor": `models.transformer` split over "model";
        "fsdp+tensor": over both; "replicate": everything on every device. Or a dict from path patterns ("qkv/w",
        "blocks/*/up/b") to `PartitionSpec`s, or a function `(path, shape, mesh) -> PartitionSpec`.
      config: the dataclass that the experiment was made from, for what is written about a run; the command line fills
        it in.

    Raises:
      ExperimentError: a function takes other arguments, or a value makes no sense.

    Example:
      >>> import fnbackprop as fb, jax.numpy as jnp, optax
      >>> experiment = fb.Experiment(
      ...     name="line", init=lambda key: jnp.zeros(()), batch=lambda step: jnp.float32(3), steps=50,
      ...     loss=lambda w, batch, key: (w - batch) ** 2, optimizer=optax.sgd(0.25))
      >>> print(fb.train(experiment, directory=None, progress=False).params)
      3.0
    """

    name: str
    init: Callable[[jax.Array], Any]
    batch: Callable[[int], Any]
    steps: int
    loss: Any = None  # Callable[[Any, Any, jax.Array], Any], unless there are updates
    optimizer: Any = None  # optax.GradientTransformation, unless there are updates
    trainable: str | Sequence[str] | None = None
    updates: Sequence[Update] = ()
    gradient: Callable[..., Any] | None = None
    step: Callable[..., Any] | None = None
    batch_shapes: int = 1
    seed: int = 0
    evaluate: Callable[..., dict[str, Any]] | None = None
    evaluate_every: int | None = None
    predict: Callable[..., Any] | None = None
    accumulate: int = 1
    precision: Any = None
    ema: float | None = None
    has_state: bool = False
    ema_of_state: bool = False
    skip_nonfinite: int | None = None
    skip_spikes: int | None = None
    sharding: Any = "data"
    config: Any = None

    def __post_init__(self):
        check_name(self.name)
        for field in ("has_state", "ema_of_state"):
            check_bool(field, getattr(self, field))
        check_function("init", self.init, "key")
        if self.updates:
            self._check_updates()
        else:
            check_function("loss", self.loss, *self._model_arguments, "batch", "key", hint=self._state_hint(self.loss))
            check_optimizer("optimizer", self.optimizer)
            check_patterns("trainable", self.trainable)
        if self.gradient is not None:
            check_function("gradient", self.gradient, "value_and_grad", "params", "batch", "key")
        if self.step is not None:
            check_function("step", self.step, "state", "batch", "key", "value_and_grad")
        check_function("batch", self.batch, "step")
        if self.evaluate is not None:
            context = ("context",) if has_parameter(self.evaluate, "context") else ()
            check_function("evaluate", self.evaluate, *self._model_arguments, *context)
        if self.predict is not None:
            check_function("predict", self.predict, *self._model_arguments, "inputs")
        check_integer("steps", self.steps, at_least=1)
        check_integer("seed", self.seed, at_least=0)
        check_integer("batch_shapes", self.batch_shapes, at_least=1)
        if self.evaluate_every is not None:
            check_integer("evaluate_every", self.evaluate_every, at_least=1)
        check_integer("accumulate", self.accumulate, at_least=1)
        if self.ema is not None and not (isinstance(self.ema, float) and 0 < self.ema < 1):
            raise ExperimentError(f"ema must be a decay between 0 and 1, 0.999 for instance, not {self.ema!r}.")
        for field in ("skip_nonfinite", "skip_spikes"):
            if (most := getattr(self, field)) is not None:
                check_integer(field, most, at_least=1)
                if self.step is not None:
                    raise ExperimentError(f"{field} is of the loss's own update: an own step leaves out what it will.")
        if self.ema_of_state and not (self.has_state and self.ema):
            raise ExperimentError("ema_of_state averages the model state: it needs ema, and has_state=True.")
        check_sharding(self.sharding)
        if self.config is not None and (isinstance(self.config, type) or not dataclasses.is_dataclass(self.config)):
            raise ExperimentError(f"config must be an instance of a dataclass, not {self.config!r}.")

    def _check_updates(self) -> None:
        for field in ("loss", "optimizer", "trainable", "gradient", "step"):
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
            own = {"loss": update.loss, "optimizer": update.optimizer, "gradient": update.gradient}
            own["trainable"] = update.parameters
            return dataclasses.replace(self, updates=(), ema=None, ema_of_state=False, **own)

        return {update.name: alone(update) for update in self.updates}

    def keys(self) -> tuple[jax.Array, jax.Array]:
        """The key of `init`, and the key from which each step's is derived."""
        with jax.transfer_guard("allow"):  # the seed is to go to the device
            init_key, loss_key = jax.random.split(jax.random.key(self.seed))
        return init_key, loss_key

    def _state_hint(self, loss: Any) -> str:
        """What to say of a loss with an argument too many or too few, if it is the model state."""
        if not self.has_state and takes(loss, 4):
            return STATE_HINT
        if self.has_state and takes(loss, 3):
            return " It is called so by has_state=True: leave that out, if the model has no state."
        return ""

    @property
    def _model_arguments(self) -> tuple[str, ...]:
        return ("params", "model_state") if self.has_state else ("params",)

    def arguments(self, step: int = 0) -> tuple[Any, ...]:
        """The initial `(params, batch, key)`, or `(params, model_state, batch, key)`, as `loss` meets them at `step`:
        what `fb.compare` is handed."""
        init_key, loss_key = self.keys()
        params, model_state = self.initial(init_key)
        return self.loss_arguments(params, self.batch(step), jax.random.fold_in(loss_key, step), model_state)

    def loss_arguments(self, params: Any, batch: Any, key: jax.Array, model_state: Any = None) -> tuple[Any, ...]:
        """The arguments of `loss`, in its order."""
        return (params, model_state, batch, key) if self.has_state else (params, batch, key)

    def initial(self, key: jax.Array) -> tuple[Any, Any]:
        """What `init` returns, always as `(params, model_state)`; the state is None if there is none."""
        made = self.init(key)
        if not self.has_state:
            return made, None
        if not isinstance(made, tuple) or len(made) != 2:
            raise ExperimentError(
                f"with has_state, init must return (params, model_state), but it returned {kind(made)}."
            )
        return made

    def outcome(self, params: Any, batch: Any, key: jax.Array, model_state: Any = None) -> LossOutcome:
        """What `loss` returns, in one form; raises ExperimentError when it is something else."""
        own = jax.tree.map(lambda leaf: leaf, model_state)  # in new boxes: Flax NNX lets only those be changed here
        try:
            result = self.loss(*self.loss_arguments(params, batch, key, own))
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            if (note := batch_note(batch)) not in getattr(error, "__notes__", ()):
                error.add_note(note)
            raise
        parts = result if isinstance(result, tuple) else (result,)
        if len(parts) not in ((2, 3) if self.has_state else (1, 2)):
            wanted = "a scalar or (scalar, metrics dict)"
            if self.has_state:
                wanted = "(scalar, model_state) or (scalar, model_state, metrics dict), as has_state says"
            returned = f"a tuple of {len(parts)}" if isinstance(result, tuple) else kind(result)
            hint = STATE_HINT if len(parts) == 3 and not self.has_state else ""
            raise ExperimentError(f"loss returned {returned}; return {wanted}.{hint}")
        value, *rest = parts
        state = rest.pop(0) if self.has_state else None
        metrics = rest[0] if rest else {}
        check_loss(value)
        check_metrics(metrics, hint="" if self.has_state else STATE_HINT)
        return LossOutcome(value, metrics, state)


def require_experiment(function: str, given: Any) -> None:
    """Raises ExperimentError unless the function was given an experiment."""
    if not isinstance(given, Experiment):
        raise ExperimentError(
            f"{function} takes an Experiment, not {given!r}; for a file: {function}(experiment(Config()))."
        )
