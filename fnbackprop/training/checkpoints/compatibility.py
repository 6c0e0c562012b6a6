"""Whether a checkpoint belongs to a run: the same settings, and the same model and optimizer."""

import json
from collections.abc import Callable
from typing import Any

from fnbackprop.experiment import Experiment, ExperimentError

from ..data.first_batch import differences, fingerprint
from ..errors import CheckpointError
from ..step.state import TrainState, abstract_state
from .arrays import describe_leaves
from .checkpoint import Checkpoint

LINES_SHOWN = 8
ANEW = "begin anew, without resume (--resume): a new run gets a folder of its own"


def require_same_settings(checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    """Raises CheckpointError if a checkpoint was made with other settings."""
    differences = differing_settings(checkpoint.info()["settings"], settings)
    if differences:
        raise CheckpointError(
            f"{checkpoint.folder} was made with other settings:\n{differences}\nUse the same ones to resume it; or "
            f"new_config=True (--new-config) to go on with those of now; or {ANEW}. Nothing was changed."
        )


def require_same_leaves(checkpoint: Checkpoint, state: TrainState) -> None:
    """Raises CheckpointError if the arrays of a checkpoint have other paths, shapes or dtypes than the state's."""
    differences = _differences(checkpoint.info()["leaves"], describe_leaves(state))
    if differences:
        raise CheckpointError(
            f"{checkpoint.folder} is of another model or optimizer:\n{differences}\nMake the experiment as it was, or "
            f"{ANEW}. Nothing was changed."
        )


def require_same_batches(checkpoint: Checkpoint, batch: Callable[[int], Any]) -> None:
    """Raises CheckpointError if the data are not those that a checkpoint's run began with."""
    there = checkpoint.info().get("batch")
    if there is None:
        return
    step = checkpoint.step if there["step"] is None else there["step"]
    found = differences(there, fingerprint(batch, step))
    if found:
        lines = "\n".join(f"  {path}: {difference}" for path, difference in found.items())
        raise CheckpointError(
            f"{checkpoint.folder} was made with other data: batch({step}) has\n{lines}\nUse the same data and batch "
            "size to resume it; or new_config=True (--new-config) to go on with those of now; "
            f"or {ANEW}. Nothing was changed."
        )


def require_own_state(experiment: Experiment, state: TrainState) -> None:
    """Raises ExperimentError if a state given to `train` is of another model or optimizer."""
    own = abstract_state(experiment)
    differing = _differences(describe_leaves(state), describe_leaves(own))
    there, here = (_parts_of(tree.opt_state) for tree in (state, own))
    if not differing and there != here:
        differing = f"  opt_state: {', '.join(there)} there, {', '.join(here)} now"
    if differing:
        raise ExperimentError(f"the state is of another model or optimizer than {experiment.name}:\n{differing}")


def _parts_of(opt_state: Any) -> list[str]:
    """The names of optax's transformations in an optimizer's state: some of them keep no array."""
    children = list(opt_state.values()) if isinstance(opt_state, dict) else opt_state
    if not isinstance(children, (list, tuple)):
        return []
    name = [type(opt_state).__name__] if hasattr(opt_state, "_fields") else []
    return name + [part for child in children for part in _parts_of(child)]


def differing_settings(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Lines that name what differs between nested settings, or "" if nothing does."""
    return _differences(_flat(there), _flat(here))


def _differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Lines that name what differs, or "" if nothing does. NaN is as NaN."""
    names = [name for name in {**there, **here} if _text(there, name) != _text(here, name)]
    lines = [f"  {name}: {there.get(name, 'absent')} there, {here.get(name, 'absent')} now" for name in names]
    more = [f"  and {len(lines) - LINES_SHOWN} more"] if len(lines) > LINES_SHOWN else []
    return "\n".join(lines[:LINES_SHOWN] + more)


def _text(settings: dict[str, Any], name: str) -> str:
    return json.dumps(settings[name], sort_keys=True) if name in settings else "absent"


def _flat(settings: Any, name: str = "") -> dict[str, Any]:
    """Nested settings at one level, named "config.<field>.<field>"."""
    if not isinstance(settings, dict) or not settings:
        return {name: settings} if name else {}
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{name}.{key}" if name else key)
    return {key: value for key, value in found.items() if (key, value) != ("config", {})}
