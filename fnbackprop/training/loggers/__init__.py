"""Loggers: where the metrics of a run go besides its own folder, each by its own client.

    fb.train(experiment, loggers=["tensorboard", fb.loggers.WandB(project="digits")])
    fnbackprop train my.py --log tensorboard wandb

One of your own is any object with the four methods of `Logger`.
"""

from .aim_run import Aim
from .csv_file import CSV
from .mlflow_run import MLflow
from .protocol import Logger, RunStart
from .tensorboard_events import TensorBoard
from .wandb_run import WandB

__all__ = ["CSV", "Aim", "Logger", "MLflow", "RunStart", "TensorBoard", "WandB"]
