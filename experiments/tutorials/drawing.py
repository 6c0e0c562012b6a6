"""What the tutorials' pictures have in common: colours, sizes, and where they are saved."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.rcParams.update(
    {
        "figure.dpi": 110,
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
    }
)
from matplotlib import pyplot  # noqa: E402

BLUE, ORANGE, GREEN, RED, GREY = "#3b6fb6", "#d9822b", "#3a8f5c", "#b83a3a", "#7a7a7a"
FOLDER = Path("pictures")  # in the current directory


def panels(columns: int, rows: int = 1, width: float = 8.0, height: float = 2.7) -> tuple[Any, Any]:
    """A figure and its axes, `columns` beside each other; width and height in inches."""
    return pyplot.subplots(rows, columns, figsize=(width, height), layout="constrained")


def save(figure: Any, name: str) -> None:
    """Write `pictures/<name>.png`."""
    FOLDER.mkdir(exist_ok=True)
    figure.savefig(FOLDER / f"{name}.png")
    pyplot.close(figure)
