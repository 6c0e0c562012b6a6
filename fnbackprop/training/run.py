"""One run of training: the experiment, and what `train` was asked to do with it."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fnbackprop.experiment import Experiment, ExperimentError, require_experiment
from fnbackprop.experiment_checks import check_bool, check_function, check_integer

from .best import BestMode, best_mode_of
from .callbacks import Callback
from .loggers.group import make_logger
from .run_folder import local_directory
from .step.mixed_precision import precision_of
from .step.state import TrainState, require_state

if TYPE_CHECKING:
    from jax.sharding import Mesh

BACKWARDS = ("manual", "automatic", "both")
SWITCHES = ("fuse", "progress", "profile", "resume", "overwrite", "new_config", "trial")
COUNTS = {"prefetch": 0, "compare_every": 1, "watch": 0}  # the least of each
COUNTS_OR_NONE = {"steps": 0, "checkpoint_every": 0, "keep": 1, "keep_every": 1, "balance_every": 1, "patience": 1}


@dataclasses.dataclass(frozen=True)
class Run:
    """The experiment and the keywords of `train`, which explains them.

    Raises:
      ExperimentError: they contradict each other, or one of them makes no sense.
    """

    experiment: Experiment
    backward: str = "manual"
    fuse: bool = False
    steps: int | None = None
    state: TrainState | None = None
    directory: str | Path | None = "runs"
    progress: bool = True
    prefetch: int = 2
    profile: bool = False
    loggers: Sequence[Any] = ()
    callbacks: Sequence[Callback] = ()
    compare_every: int = 100
    balance_every: int | None = None
    watch: int = 0
    mesh: "str | Mapping[str, int] | Mesh | None" = None
    checkpoint_every: int | None = None
    keep: int | None = 3
    keep_every: int | None = None
    best: str | None = None
    best_mode: BestMode | None = None
    resume: bool = False
    overwrite: bool = False
    new_config: bool = False
    patience: int | None = None
    batch_timeout: float = 1800.0
    trial: bool = True

    def __post_init__(self):
        require_experiment("train", self.experiment)
        if self.backward not in BACKWARDS:
            fused = "; blocks are put in by fuse=True" if self.backward == "fused" else ""
            raise ExperimentError(f"backward must be one of {', '.join(BACKWARDS)}, not {self.backward!r}{fused}.")
        for name in SWITCHES:
            check_bool(name, getattr(self, name))
        if self.resume and self.state is not None:
            raise ExperimentError("resume goes on from the run's own checkpoint, not from a state: give one of them.")
        if self.resume and self.overwrite:
            raise ExperimentError("resume goes on with an earlier run and overwrite throws it away: give one of them.")
        if self.state is not None:
            require_state(self.state)
        for name, least in COUNTS.items():
            check_integer(name, getattr(self, name), at_least=least)
        for name, least in COUNTS_OR_NONE.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ExperimentError(f"{name} must be an integer of at least {least}, or None, not {value!r}.")
        if self.fuse and self.backward == "automatic":
            raise ExperimentError(
                'fuse puts blocks into what the manual backward differentiates: not backward="automatic".'
            )
        if self.directory is not None:
            local_directory(self.directory)
        for name in ("loggers", "callbacks"):
            if isinstance(given := getattr(self, name), str) or not isinstance(given, Sequence):
                raise ExperimentError(f"{name} must be a list, {name}=[...], not {given!r}.")
        for logger in self.loggers:
            make_logger(logger)
        for callback in self.callbacks:
            check_function("a callback", callback, "step", "state", "values")
        if self.patience is not None and self.best is None:
            raise ExperimentError("patience counts evaluations without a better metric: name it, best=... (--best).")
        if not self.batch_timeout > 0:
            raise ExperimentError(f"batch_timeout must be a number of seconds above 0, not {self.batch_timeout!r}.")
        best_mode_of(self.best or "loss", self.best_mode)
        if self.best is not None and self.experiment.evaluate is None:
            raise ExperimentError(
                f"best={self.best!r} is to be a metric of evaluate, but the experiment has no evaluate."
            )

    @property
    def name(self) -> str:
        return self.experiment.name

    @property
    def stop(self) -> int:
        """The step to stop at."""
        return self.experiment.steps if self.steps is None else self.steps

    @functools.cached_property  # it is asked for at every step
    def best_direction(self) -> BestMode:
        """Which value of `best` is the best."""
        return best_mode_of(self.best or "loss", self.best_mode)

    @property
    def differentiator(self) -> str:
        """Whose gradient the update uses, "manual", "fused" or "automatic"; "both" updates by one of the first two."""
        return "fused" if self.fuse else "manual" if self.backward == "both" else self.backward

    @property
    def settings(self) -> dict[str, Any]:
        """All that the run's numbers depend on, as JSON: a resumed run must have the same."""
        experiment = self.experiment
        config = {} if experiment.config is None else dataclasses.asdict(experiment.config)
        names = ("seed", "accumulate", "ema", *(("ema_of_state",) if experiment.has_state else ()))
        own = {name: getattr(experiment, name) for name in names}
        precision = dataclasses.asdict(precision_of(experiment.precision))
        later = ("skip_nonfinite", "skip_spikes", "trainable")  # which earlier versions did not have
        own |= {name: value for name in later if (value := getattr(experiment, name)) is not None}
        if experiment.updates:
            parts = ("parameters", "every", "times")
            own["updates"] = {
                update.name: {part: getattr(update, part) for part in parts} for update in experiment.updates
            }
        return _as_json({**own, "precision": precision, "backward": self.differentiator, "config": config})


def _as_json(value: Any) -> Any:
    """The value as it comes back from a JSON file."""
    return json.loads(json.dumps(value, default=lambda other: getattr(other, "__qualname__", None) or str(other)))
