"""`fnbackprop sweep FILE --option V1,V2 ...`: a run for each combination of values, a table and a page."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from ..commands import CommandError
from ..experiment import Experiment
from ..experiment_checks import ExperimentError, check_name
from ..experiment_files import load
from ..training.best import best_mode_of, in_words
from ..writing import writing
from .points import SweepError, drawn, grid, label, split_arguments
from .processes import SweptRun, runs_of_sweep, train_all
from .table import as_text, has_metric, rows_of

HELP = "train once for each combination of values (--width 64,128 --learning-rate 1e-4:1e-2)"
ALSO = """

Besides these options, it takes those of the experiment and of train, which fnbackprop train {file} --help lists.
Each run gets them; one with several values, --width 64,128, or with a range, --learning-rate 1e-4:1e-2, is swept."""


@dataclasses.dataclass(frozen=True)
class SweepOptions:
    """Options of `sweep` itself. Every other option is the experiment's or that of `train`, and is handed to each run;
    one with several values, --width 64,128, or with a range, --learning-rate 1e-4:1e-2, is swept."""

    random: int | None = None
    """Draw so many points instead of taking all combinations."""
    sweep_seed: int = 0
    """Of the points that are drawn."""
    parallel: int = 1
    """How many runs there are at a time."""
    metric: str = "loss"
    """What the runs are sorted by: the loss, or a metric of evaluate."""
    mode: Literal["min", "max"] | None = None
    """Whether the lowest or the highest is best; None: what the metric's name says, min of a loss or an error."""
    directory: Path = Path("runs")
    """Where the folder of the sweep is made, <file>-sweep."""
    name: str | None = None
    """Names that folder, in the place of <file>-sweep."""


def run_sweep(argv: Sequence[str]) -> int:
    """The command `sweep` with its arguments; what is no option of the sweep is handed to each run."""
    import tyro

    wants_help = bool({"-h", "--help"} & set(argv))
    if not wants_help and (not argv or argv[0].startswith("-")):
        raise CommandError("which experiment? For example: fnbackprop sweep FILE --learning-rate 1e-3,3e-3")
    file, *words = argv if not argv[0].startswith("-") else ["FILE", *argv]
    about = HELP + ALSO.format(file=file)
    options, rest = tyro.cli(
        SweepOptions, args=words, prog=f"fnbackprop sweep {file}", description=about, return_unknown_args=True
    )
    experiment = load(file)  # a mistake in the file is told once, and at once
    try:
        return sweep(file, experiment, options, rest)
    except (SweepError, ExperimentError) as error:
        raise CommandError(str(error)) from None


def sweep(file: str, experiment: Callable[[Any], Experiment], options: SweepOptions, arguments: Sequence[str]) -> int:
    """Run a sweep, or go on with it: runs that are finished stay. Returns 0 if all are finished, else 1."""
    swept, rest = split_arguments(arguments)
    if not swept:
        raise SweepError("nothing is swept: give an option several values, such as --learning-rate 1e-3,3e-3.")
    if options.parallel < 1:
        raise SweepError(f"--parallel must be at least 1, not {options.parallel}.")
    if options.name is not None:
        check_name(options.name)
    directory = options.directory / (options.name or f"{Path(file).stem}-sweep")
    points = grid(swept) if options.random is None else drawn(swept, options.random, options.sweep_seed)
    from .settings import require_same_settings, settings_of  # here: it needs what `[train]` brings

    runs = runs_of_sweep(points, directory, lambda words: settings_of(file, experiment, [*words, *rest]))
    if "--new-config" not in rest:
        for run in runs:
            require_same_settings(run)
    _require_metric(runs, file, options.metric, rest)
    mode = best_mode_of(options.metric, options.mode)
    print(f"{len(runs)} runs in {directory}, {options.parallel} at a time: {label(points[0])} ...", flush=True)
    try:
        finished = train_all(runs, file, rest, options.parallel, lambda line: print(line, flush=True))
    finally:
        _show(runs, options.metric, mode, f"Sweep of {Path(file).name}", directory)
    return 0 if finished else 1


def _require_metric(runs: Sequence[SweptRun], file: str, metric: str, rest: Sequence[str]) -> None:
    """Raises SweepError if the runs will have no such metric: looked at where no run shows it."""
    if metric != "loss" and not any(has_metric(run.last_metrics(), metric) for run in runs):
        from .metric_check import require_metric

        require_metric(file, metric, [*runs[0].words, *rest])


def _show(runs: Sequence[SweptRun], metric: str, mode: Literal["min", "max"], title: str, directory: Path) -> None:
    """Print the table, and write the page."""
    from .page import write_page

    rows = rows_of(runs, metric, mode)
    print(as_text(rows, metric))
    print(f"the {in_words(mode)} {metric} first")
    if directory.is_dir():
        with writing(page := directory / "sweep.html"):
            write_page(rows, metric, title, page)
        print(f"written to {page}")
