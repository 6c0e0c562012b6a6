"""The loggers of a run together: made by their names, started, and dropped where they fail."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fnbackprop.experiment import ExperimentError
from fnbackprop.extras import EXTRAS, require

from ..run_folder import MetricsRow
from . import CSV, Aim, Logger, MLflow, RunStart, TensorBoard, WandB

BY_NAME = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow, "aim": Aim, "csv": CSV}
METHODS = ("start", "log", "artifact", "finish")


def make_logger(given: Any) -> Logger:
    """A logger by its name, or the logger itself.

    Raises:
      ExperimentError: there is none of this name, or the object lacks a method.
      MissingExtra: what it needs is not installed.
    """
    if isinstance(given, str):
        if given not in BY_NAME:
            raise ExperimentError(f"there is no logger {given!r}; they are {', '.join(BY_NAME)}.")
        if given in EXTRAS:
            require(given, f"the logger {given}")
        return BY_NAME[given]()
    absent = [name for name in METHODS if not callable(getattr(given, name, None))]
    if absent or isinstance(given, type):
        lacks = "it is a class" if isinstance(given, type) else f"it has no {absent[0]}"
        raise ExperimentError(f"a logger has the methods {', '.join(METHODS)}, but {given!r} is none: {lacks}.")
    return given


class Loggers:
    """Hands everything to each logger; one that fails is told of and left out from then on.

    Args:
      given: names or loggers.
      say: tells of an error.
    """

    def __init__(self, given: Sequence[Any], say: Callable[[str], None]):
        self._given, self._say = [make_logger(one) for one in given], say
        self._started: list[Logger] = []

    def start(self, run: RunStart) -> None:
        for logger in self._given:
            logger.start(run)
            self._started.append(logger)

    def write(self, rows: Iterable[MetricsRow]) -> None:
        for row in rows if self._started else ():
            values = {name: value for name, value in row.items() if name != "step"}
            self._each("log", row["step"], values)

    def finish(self, status: str, artifacts: Iterable[Path]) -> None:
        for path in artifacts:
            self._each("artifact", path)
        self._each("finish", status)
        self._started = []

    def _each(self, method: str, *arguments: Any) -> None:
        for logger in list(self._started):
            try:
                getattr(logger, method)(*arguments)
            except Exception as error:  # whatever its client and the network raise: the run is worth more
                self._started.remove(logger)
                name, reason = type(logger).__name__, str(error) or type(error).__name__
                self._say(f"the logger {name} failed in {method}: {reason}. The run goes on without it.")
