"""With what each run of a sweep is trained, kept beside it: results of other settings are not ranked together."""

import ast
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..config_files import with_config_file
from ..experiment import Experiment
from ..experiment_commands import TrainOptions
from ..experiment_files import config_type
from ..option_parsing import parse
from ..training.checkpoints.compatibility import differing_settings
from ..training.record.run_description import plain
from .points import SweepError
from .processes import SweptRun

DECISIVE = ("backward", "fuse", "patience", "best", "best_mode")  # the options of `train` that results depend on


def settings_of(file: str, experiment: Callable[[Any], Experiment], words: Sequence[str]) -> dict[str, Any]:
    """All that the result of a run depends on, as JSON: config, options of `train`, and the experiment's file.

    A word that is no option ends the program, as it would end `train`; so a mistake is told before anything runs.
    """
    argv = with_config_file(["train", *words])[1:]
    parsed = parse(config_type(experiment), TrainOptions, argv, f"fnbackprop sweep {file}")
    options = {name: getattr(parsed.options, name) for name in DECISIVE}
    code = {f"code of {Path(file).name}": _version_of(Path(file))}
    return {"config": plain(dataclasses.asdict(parsed.config)), "options": options, **code}


def require_same_settings(run: SweptRun) -> None:
    """Raises SweepError if what a run has to show was made with other settings than it would be now."""
    if not run.holds_something():
        return
    if differences := differing_settings(run.kept_settings(), run.settings):
        raise SweepError(
            f"{run.folder} was trained with other settings, and is not ranked beside runs with those of now:\n"
            f"{differences}\nUse the same ones to go on with that sweep; or --name NAME, for one in a folder of its "
            "own; or --new-config, to take what is there as it is. Nothing was changed."
        )


def _version_of(file: Path) -> str:
    """A fingerprint of the code in a file, whatever its comments and its layout."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:12]
