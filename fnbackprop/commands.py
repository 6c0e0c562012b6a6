"""The commands that need no experiment file: `runs`, `report` and `new`."""

import dataclasses
import difflib
import enum
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import tyro

from fnbackprop.training.run_folder import METRICS_FILE, RunFolder, find_runs

USAGE_ERROR = 2
PIPE_WIDTH = 10_000  # of a table that goes to no terminal


class CommandError(Exception):
    """A message for the terminal, instead of a traceback."""

    def __init__(self, message: str, status: int = USAGE_ERROR):
        super().__init__(message)
        self.status = status


def nearest(name: str, known: Iterable[str]) -> str:
    """The sentence "Did you mean ...?" to stand after another one; empty if nothing is near."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {found[0]}?" if found else ""


def arguments_of(options: Any, prefix: str = "") -> list[str]:
    """The command line that gives these options: those that are not the default."""
    words: list[str] = []
    for field in dataclasses.fields(options):
        value, name = getattr(options, field.name), field.name.replace("_", "-")
        factory = field.default_factory
        if value == (field.default if factory is dataclasses.MISSING else factory()):
            continue
        if dataclasses.is_dataclass(value):
            words += arguments_of(value, f"{prefix}{name}.")
        elif isinstance(value, bool):
            words.append(f"--{prefix}{name}" if value else f"--{prefix}no-{name}")
        else:
            given = value if isinstance(value, (tuple, list)) else [value]
            words += [f"--{prefix}{name}", *(item.name if isinstance(item, enum.Enum) else str(item) for item in given)]
    return words


@dataclasses.dataclass(frozen=True)
class RunsOptions:
    """What `runs` takes."""

    directory: tyro.conf.Positional[Path] = Path("runs")
    """Where the runs are."""


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """What `report` takes."""

    run: tyro.conf.Positional[Path]
    """A run's folder, runs/digits-mlp for instance."""
    against: tyro.conf.Positional[Path | None] = None
    """Another run, to stand beside it."""
    output: Path | None = None
    """The page to write; by default report.html, or against-<other run>.html, in the first run's folder."""


@dataclasses.dataclass(frozen=True)
class NewOptions:
    """What `new` takes."""

    file: tyro.conf.Positional[Path]
    """The file to write, my_experiment.py for instance."""


@dataclasses.dataclass(frozen=True)
class DoctorOptions:
    """What `doctor` takes: nothing."""


@dataclasses.dataclass(frozen=True)
class Tool:
    """One command that is no experiment's.

    Attributes:
      run: `run(options) -> exit status`.
      options: the dataclass of its options.
      help: one line.
    """

    run: Callable[[Any], int]
    options: type
    help: str


def runs_command(options: RunsOptions) -> int:
    import rich
    from rich.console import Console
    from rich.table import Table

    if not options.directory.is_dir():
        raise CommandError(f"there is no folder {options.directory}.")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("run", "status", "step", "loss", "evaluation", "began"):
        table.add_column(name, overflow="fold", justify="right" if name in ("step", "loss") else "left")
    for folder in find_runs(options.directory):
        table.add_row(*_row(folder, options.directory))
    console = rich.get_console()
    if not console.file.isatty():  # a line for each run, whatever its length, for grep and its like: no colours either
        console = Console(file=console.file, width=PIPE_WIDTH, force_terminal=False)
    console.print(table if table.rows else f"no runs in {options.directory}")
    return 0


def _row(folder: RunFolder, directory: Path) -> tuple[str, ...]:
    """A run as one row of the table."""
    run, rows = folder.read_description(), folder.read_metrics()
    last = {name: value for row in rows for name, value in row.items()}
    updates = last["step"] + ("loss" in rows[-1]) if rows else 0  # the row of a step precedes its update
    evaluated = {name.removeprefix("evaluate/"): value for name, value in last.items() if name.startswith("evaluate/")}
    began = run.get("began", "").removesuffix("+00:00").replace("T", " ")
    return (
        str(folder.path.relative_to(directory)),
        run["status"] + (f", {bad} bad lines" if (bad := folder.bad_lines()) else ""),
        str(updates),
        f"{last.get('loss', math.nan):.4g}",
        ", ".join(f"{name} {value:.4g}" for name, value in evaluated.items()),
        began[:16],
    )


def report_command(options: ReportOptions) -> int:
    from fnbackprop.training.record.run_report import write_run_report

    folders = [RunFolder(path) for path in (options.run, options.against) if path is not None]
    for folder in folders:
        if not folder.metrics.is_file():
            raise CommandError(f"{folder.path} is no run: it has no {METRICS_FILE}. To list runs: fnbackprop runs")
    page = folders[0].report
    if options.against is not None:
        page = page.with_name(f"against-{options.against.resolve().name}.html")
    print(write_run_report(folders, options.output or page))
    return 0


def new_command(options: NewOptions) -> int:
    from importlib.resources import files

    if options.file.suffix != ".py":
        raise CommandError(f"{options.file} must end in .py.")
    template = files("fnbackprop.training").joinpath("template.py").read_text(encoding="utf-8")
    try:
        with open(options.file, "x", encoding="utf-8") as file:  # an existing file is not overwritten
            file.write(template.replace("my_experiment.py", options.file.name))
    except FileExistsError:
        raise CommandError(f"{options.file} exists already.") from None
    except OSError as error:
        raise CommandError(f"{options.file} cannot be written: {error.strerror}.") from None
    print(f"{options.file} is ready. To run it: python {options.file}")
    return 0


def doctor_command(options: DoctorOptions) -> int:
    from fnbackprop.doctor import report

    return report()


TOOLS = {
    "doctor": Tool(doctor_command, DoctorOptions, "versions, devices, a gradient compared, and what is not installed"),
    "runs": Tool(runs_command, RunsOptions, "list the runs of a folder"),
    "report": Tool(report_command, ReportOptions, "write the page of one run, or of two side by side"),
    "new": Tool(new_command, NewOptions, "write a commented experiment file that runs as it stands"),
}
