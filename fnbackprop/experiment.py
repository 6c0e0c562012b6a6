"""An experiment: the pure functions that every command takes.

An experiment file holds a frozen `Config` dataclass, a function `experiment(config) -> Experiment` and, as its last
line, `fb.run(experiment)`. All that happens in a run is a function of `(seed, step)`: the initial parameters, the order
of the data and the randomness inside the loss.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    import optax

RESERVED_METRICS = (
    *("step", "loss", "gradient_norm", "update_ratio", "layer_gradient_norms", "loss_scale"),
    *("overshoot", "batch_sharpness"),
)
WEIGHT = "weight"
"""The metric by which a microbatch counts: see `Experiment.accumulate`."""


class ExperimentError(ValueError):
    """An experiment's functions do not fit together; the message says which, where and what to do."""


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
    loss: Callable[[Any, Any, jax.Array], Any]
    batch: Callable[[int], Any]
    optimizer: "optax.GradientTransformation"
    steps: int
    seed: int = 0
    evaluate: Callable[[Any], dict[str, Any]] | None = None
    evaluate_every: int | None = None
    accumulate: int = 1
    precision: Any = None
    ema: float | None = None
    sharding: Any = "data"
    config: Any = None

    def __post_init__(self):
        _check_name(self.name)
        _check_function("init", self.init, "key")
        _check_function("loss", self.loss, "params", "batch", "key")
        _check_function("batch", self.batch, "step")
        if self.evaluate is not None:
            _check_function("evaluate", self.evaluate, "params")
        _check_integer("steps", self.steps, at_least=1)
        _check_integer("seed", self.seed, at_least=0)
        if self.evaluate_every is not None:
            _check_integer("evaluate_every", self.evaluate_every, at_least=1)
        _check_integer("accumulate", self.accumulate, at_least=1)
        if self.ema is not None and not (isinstance(self.ema, float) and 0 < self.ema < 1):
            raise ExperimentError(f"ema must be a decay between 0 and 1, 0.999 for instance, not {self.ema!r}.")
        if not (callable(getattr(self.optimizer, "init", None)) and callable(getattr(self.optimizer, "update", None))):
            raise ExperimentError(
                f"optimizer must be an optax transformation such as optax.adam(1e-3), not {self.optimizer!r}."
            )

        if self.config is not None and (isinstance(self.config, type) or not dataclasses.is_dataclass(self.config)):
            raise ExperimentError(f"config must be an instance of a dataclass, not {self.config!r}.")

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
        _check_loss(value)
        _check_metrics(metrics)
        return value, metrics


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name or name in (".", "..") or any(mark in name for mark in "/\\\0"):
        raise ExperimentError(f"name must be usable as the name of a folder, like 'digits-mlp', not {name!r}.")


def _check_integer(field: str, value: Any, at_least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ExperimentError(f"{field} must be an integer of at least {at_least}, not {value!r}.")


def _check_function(field: str, function: Any, *parameters: str) -> None:
    wanted = f"{field}({', '.join(parameters)})"
    if not callable(function):
        raise ExperimentError(f"{field} must be a function {wanted}, not {function!r}.")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions show no signature: the first call will tell
        return
    try:
        signature.bind(*parameters)
    except TypeError as error:
        name = getattr(function, "__name__", field)
        raise ExperimentError(
            f"{field} is called as {wanted}, but {name}{signature} {_where(function)}: {error}."
        ) from None


def _where(function: Callable) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return "does not take that" if code is None else f"at {code.co_filename}:{code.co_firstlineno} does not take that"


def _check_loss(value: Any) -> None:
    if not (isinstance(value, int | float | complex) or hasattr(value, "dtype")):
        raise ExperimentError(f"loss must return a real scalar, but it returned {_kind(value)}.")
    shape, dtype = jnp.shape(value), jnp.result_type(value)
    if shape != ():
        raise ExperimentError(f"loss must return a scalar, but it has shape {shape}; take its mean or its sum.")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ExperimentError(f"loss must return a real floating-point scalar, but its dtype is {dtype}.")


def _check_metrics(metrics: Any) -> None:
    if not isinstance(metrics, dict):
        raise ExperimentError(
            f"loss returned (scalar, {type(metrics).__name__}); the second must be a dict of scalars."
        )
    for name in metrics:
        if name in RESERVED_METRICS:
            raise ExperimentError(f"the metric {name!r} has a name that training uses itself; choose another.")
    _check_scalars("loss", metrics)


def check_evaluation(values: Any) -> None:
    """Raises ExperimentError if `evaluate` returned anything but a dict of scalars."""
    if not isinstance(values, dict):
        raise ExperimentError(
            f'evaluate must return a dict of scalars, such as {{"accuracy": ...}}, but it returned {_kind(values)}.'
        )
    _check_scalars("evaluate", values)


def _check_scalars(function: str, metrics: dict[str, Any]) -> None:
    for name, value in metrics.items():
        if isinstance(value, dict):
            names = ", ".join(repr(f"{name}/{inner}") for inner in value)
            raise ExperimentError(
                f"the metric {name!r} of {function} is a dict: metrics are not nested. Give each its own name: {names}."
            )
        number = isinstance(value, (bool, int, float)) or hasattr(value, "dtype")
        if not number or jnp.shape(value) != () or jnp.issubdtype(_dtype(value), jnp.complexfloating):
            raise ExperimentError(f"the metric {name!r} of {function} must be a real scalar, but it is {_kind(value)}.")


def _dtype(value: Any) -> Any:
    return getattr(value, "dtype", None) or jnp.result_type(value)


def _kind(value: Any) -> str:
    """What a value is, in a few words."""
    if hasattr(value, "dtype"):
        shape = jnp.shape(value)
        return f"an array of shape {shape}" if shape else f"a scalar of {value.dtype}"
    return "None" if value is None else f"{value!r}, a {type(value).__name__}"
