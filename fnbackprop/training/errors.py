"""The errors of a run; each message says what is left and what to do."""

from pathlib import Path


class RunError(OSError):
    """A file of a run could not be written or read."""


class CheckpointError(RunError):
    """A checkpoint could not be written or read, or does not belong to the run."""


class NonFiniteLoss(FloatingPointError):
    """The loss became NaN or infinite, or the gradient did at every loss scale.

    Attributes:
      step: the first at which one of them did: where the gradient broke first, that step, and the loss the next one.
      kept: the file that holds its batch, for a replay; None if there is none.
    """

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step
        self.kept: Path | None = None
