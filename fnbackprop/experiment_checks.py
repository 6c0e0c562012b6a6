"""What an experiment's functions and values must be: each check raises an ExperimentError that says what to do."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

SHARDINGS = ("replicate", "data", "fsdp", "tensor", "fsdp+tensor")
RESERVED_METRICS = (
    *("step", "loss", "gradient_norm", "update_ratio", "layer_gradient_norms", "loss_scale"),
    *("overshoot", "rate_over_critical", "batch_sharpness", "learning_rate", "skipped", "skipped_in_a_row"),
    *("skipped_spikes", "skipped_spikes_in_a_row"),
)


class ExperimentError(ValueError):
    """An experiment's functions do not fit together; the message says which, where and what to do.

    Example:
        >>> import fnbackprop as fb
        >>> try:
        ...     fb.Precision(compute="float8")
        ... except fb.ExperimentError as error:
        ...     print(str(error).split(",")[0])
        precision: compute must be one of float16
    """


def check_name(name: Any) -> None:
    if not isinstance(name, str) or not name or name in (".", "..") or any(mark in name for mark in "/\\\0"):
        raise ExperimentError(f"name must be usable as the name of a folder, like 'digits-mlp', not {name!r}.")


def check_integer(field: str, value: Any, at_least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ExperimentError(f"{field} must be an integer of at least {at_least}, not {value!r}.")


def check_bool(field: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ExperimentError(f"{field} must be True or False, not {value!r}.")


def check_function(field: str, function: Any, *parameters: str, hint: str = "") -> None:
    """Raises ExperimentError unless the function can be called with these arguments; a hint ends the message."""
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
            f"{field} is called as {wanted}, but {name}{signature} {_where(function)}: {error}.{hint}"
        ) from None


def takes(function: Any, count: int) -> bool:
    """Whether the function shows that it can be called with so many arguments."""
    try:
        inspect.signature(function).bind(*range(count))
    except (TypeError, ValueError):
        return False
    return True


def has_parameter(function: Any, name: str) -> bool:
    """Whether the function shows a parameter of this name."""
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # it is no function, or shows no signature
        return False


def _where(function: Callable) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return "does not take that" if code is None else f"at {code.co_filename}:{code.co_firstlineno} does not take that"


def check_optimizer(field: str, optimizer: Any) -> None:
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise ExperimentError(f"{field} must be an optax transformation such as optax.adam(1e-3), not {optimizer!r}.")


def check_patterns(field: str, patterns: Any) -> None:
    given = (patterns,) if isinstance(patterns, str) else patterns
    if given is not None and not (isinstance(given, list | tuple) and given and all(isinstance(p, str) for p in given)):
        raise ExperimentError(f"{field} must be a pattern of paths, like 'head' or 'blocks/*/w', not {patterns!r}.")


def check_sharding(setting: Any) -> None:
    """Whether it is a preset's name, patterns with their specs, or a function; what the mesh must have, a run tells."""
    if not (isinstance(setting, Mapping) or callable(setting)) and setting not in SHARDINGS:
        raise ExperimentError(
            f"sharding must be one of {', '.join(SHARDINGS)}, a dict from path patterns to PartitionSpec, or a "
            f"function (path, shape, mesh) -> PartitionSpec, not {setting!r}."
        )


def batch_note(batch: Any) -> str:
    """What to say beside an error of `loss`, which may be due to its batch."""
    if batch is None:
        return "loss was given the batch None, as batch(step) returned it: is its `return` missing?"
    found = jax.tree.map(lambda leaf: f"{jax.dtypes.result_type(leaf)}{list(jnp.shape(leaf))}", batch)
    return f"loss was given this batch, as batch(step) returned it: {found}"


def check_loss(value: Any) -> None:
    if not (isinstance(value, int | float | complex) or hasattr(value, "dtype")):
        raise ExperimentError(f"loss must return a real scalar, but it returned {kind(value)}.")
    shape, dtype = jnp.shape(value), jnp.result_type(value)
    if shape != ():
        raise ExperimentError(f"loss must return a scalar, but it has shape {shape}; take its mean or its sum.")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ExperimentError(f"loss must return a real floating-point scalar, but its dtype is {dtype}.")


def check_metrics(metrics: Any, hint: str = "") -> None:
    """Raises ExperimentError unless these are scalars by their names; a hint ends the message."""
    if not isinstance(metrics, dict):
        raise ExperimentError(
            f"loss returned (scalar, {type(metrics).__name__}); the second must be a dict of scalars.{hint}"
        )
    for name in metrics:
        if name in RESERVED_METRICS:
            raise ExperimentError(f"the metric {name!r} has a name that training uses itself; choose another.")
    _check_scalars("loss", metrics, hint)


def check_evaluation(values: Any) -> None:
    """Raises ExperimentError if `evaluate` returned anything but a dict of scalars."""
    if not isinstance(values, dict):
        raise ExperimentError(
            f'evaluate must return a dict of scalars, such as {{"accuracy": ...}}, but it returned {kind(values)}.'
        )
    _check_scalars("evaluate", values)


def _check_scalars(function: str, metrics: dict[str, Any], hint: str = "") -> None:
    for name, value in metrics.items():
        if isinstance(value, dict):
            names = ", ".join(repr(f"{name}/{inner}") for inner in value)
            raise ExperimentError(
                f"the metric {name!r} of {function} is a dict: metrics are not nested. Give each its own name: "
                f"{names}.{hint}"
            )
        number = isinstance(value, (bool, int, float)) or hasattr(value, "dtype")
        if not number or jnp.shape(value) != () or jnp.issubdtype(_dtype(value), jnp.complexfloating):
            raise ExperimentError(
                f"the metric {name!r} of {function} must be a real scalar, but it is {kind(value)}.{hint}"
            )


def _dtype(value: Any) -> Any:
    return getattr(value, "dtype", None) or jnp.result_type(value)


def kind(value: Any) -> str:
    """What a value is, in a few words."""
    if hasattr(value, "dtype"):
        shape = jnp.shape(value)
        return f"an array of shape {shape}" if shape else f"a scalar of {value.dtype}"
    return "None" if value is None else f"{value!r}, a {type(value).__name__}"
