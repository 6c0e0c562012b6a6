"""Training: data, one compiled step, the loop around it, checkpoints, and what one sees of a run."""

from . import loggers as loggers
