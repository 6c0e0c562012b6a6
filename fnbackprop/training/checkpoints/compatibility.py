"""Whether a checkpoint belongs to a run: the same settings, and the same model and optimizer."""

from typing import Any

from ..errors import CheckpointError
from ..step.state import TrainState
from .arrays import describe_leaves
from .checkpoint import Checkpoint

LINES_SHOWN = 8


def require_same_settings(checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    """Raises CheckpointError if a checkpoint was made with other settings."""
    differences = _differences(_flat(checkpoint.info()["settings"]), _flat(settings))
    if differences:
        raise CheckpointError(
            f"{checkpoint.folder} was made with other settings:\n{differences}\nUse the same ones to resume it; or "
            "new_config=True (--new-config) to go on with those of now; or begin anew in another directory "
            "(--directory), or with overwrite=True (--overwrite). Nothing was changed."
        )


def require_same_leaves(checkpoint: Checkpoint, state: TrainState) -> None:
    """Raises CheckpointError if the arrays of a checkpoint have other paths, shapes or dtypes than the state's."""
    differences = _differences(checkpoint.info()["leaves"], describe_leaves(state))
    if differences:
        raise CheckpointError(
            f"{checkpoint.folder} is of another model or optimizer:\n{differences}\nMake the experiment as it was, or "
            "begin anew in another directory (--directory), or with overwrite=True (--overwrite). Nothing was changed."
        )


def _differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Lines that name what differs, or "" if nothing does."""
    names = [name for name in {**there, **here} if there.get(name, "absent") != here.get(name, "absent")]
    lines = [f"  {name}: {there.get(name, 'absent')} there, {here.get(name, 'absent')} now" for name in names]
    more = [f"  and {len(lines) - LINES_SHOWN} more"] if len(lines) > LINES_SHOWN else []
    return "\n".join(lines[:LINES_SHOWN] + more)


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the fields of the config at the same level, named "config.<field>"."""
    others = {name: value for name, value in settings.items() if name != "config"}
    return {**others, **{f"config.{name}": value for name, value in settings["config"].items()}}
