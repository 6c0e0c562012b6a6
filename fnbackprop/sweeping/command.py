"""`fnbackprop sweep FILE --option V1,V2 ...`: a run for each combination of values, a table and a page."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..commands import CommandError
from ..experiment_files import load
from .points import SweepError, drawn, grid, label, split_arguments
from .processes import runs_of_sweep, train_all
from .table import as_text, rows_of

HELP = "train once for each combination of values (--width 64,128 --learning-rate 1e-4:1e-2)"


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
    mode: Literal["min", "max"] = "min"
    """Whether the lowest or the highest is best."""
    directory: Path = Path("runs")
    """Where the folder of the sweep is made, <file>-sweep."""


def run_sweep(argv: Sequence[str]) -> int:
    """The command `sweep` with its arguments; what is no option of the sweep is handed to each run."""
    import tyro

    wants_help = bool({"-h", "--help"} & set(argv))
    if not wants_help and (not argv or argv[0].startswith("-")):
        raise CommandError("which experiment? For example: fnbackprop sweep FILE --learning-rate 1e-3,3e-3")
    file = "FILE" if argv[0].startswith("-") else argv[0]
    words = [word for word in argv if word != file]
    options, rest = tyro.cli(
        SweepOptions, args=words, prog=f"fnbackprop sweep {file}", description=HELP, return_unknown_args=True
    )
    load(file)  # a mistake in the file is told once, and at once
    try:
        return sweep(file, options, rest)
    except SweepError as error:
        raise CommandError(str(error)) from None


def sweep(file: str, options: SweepOptions, arguments: Sequence[str]) -> int:
    """Run a sweep, or go on with it: runs that are finished stay. Returns 0 if all are finished, else 1."""
    swept, rest = split_arguments(arguments)
    if not swept:
        raise SweepError("nothing is swept: give an option several values, such as --learning-rate 1e-3,3e-3.")
    if options.parallel < 1:
        raise SweepError(f"--parallel must be at least 1, not {options.parallel}.")
    from .page import write_page

    points = grid(swept) if options.random is None else drawn(swept, options.random, options.sweep_seed)
    directory = options.directory / f"{Path(file).stem}-sweep"
    runs = runs_of_sweep(points, directory)
    print(f"{len(runs)} runs in {directory}, {options.parallel} at a time: {label(points[0])} ...", flush=True)
    try:
        finished = train_all(runs, file, rest, options.parallel, lambda line: print(line, flush=True))
    finally:
        rows = rows_of(runs, options.metric, options.mode)
        print(as_text(rows, options.metric))
        if directory.is_dir():
            page = write_page(rows, options.metric, f"Sweep of {Path(file).name}", directory / "sweep.html")
            print(f"written to {page}")
    return 0 if finished else 1
