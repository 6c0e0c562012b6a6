"""A run for loggers, without training."""

from pathlib import Path

from fnbackprop.training.loggers.protocol import RunStart

CONFIG = {"width": 8, "optimizer": {"name": "lion"}}
FACTS = {"seed": 0, "command": "python my.py"}


def start(folder: Path | None, step: int = 0) -> RunStart:
    return RunStart("waves-2", "waves", folder, step, CONFIG, FACTS)


def log_some(logger, run: RunStart) -> None:
    """Three steps from the first of the run on, with an evaluation, a number that is none, and a file."""
    logger.start(run)
    for step in range(run.step, run.step + 3):
        logger.log(step, {"loss": 0.5 * step, "gradient_norm": float("nan")})
    logger.log(run.step + 3, {"evaluate/error": 0.25})
    (run.folder / "report.html").write_text("a report")
    logger.artifact(run.folder / "report.html")
    logger.finish("finished")
