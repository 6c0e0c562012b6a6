"""The commands that need no experiment file: `runs`, `report` and `new`."""

import dataclasses
import difflib
import enum
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import tyro

from fnbackprop.run_list import RunListError, RunsOptions, list_runs
from fnbackprop.training.run_folder import METRICS_FILE, RunFolder
from fnbackprop.writing import writing

USAGE_ERROR = 2


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
class ReportOptions:
    """What `report` takes."""

    run: tyro.conf.Positional[Path]
    """A run's folder, runs/digits-mlp for instance."""
    against: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Other runs, to stand beside it."""
    output: Path | None = None
    """The page to write; by default, in the first run's folder: report.html, of two runs against-<the other>.html, of
    more compared.html."""


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
    if not options.directory.is_dir():
        raise CommandError(f"there is no folder {options.directory}.")
    try:
        list_runs(options)
    except RunListError as error:
        raise CommandError(str(error)) from None
    return 0


def report_command(options: ReportOptions) -> int:
    from fnbackprop.training.record.run_report import write_run_report

    folders = [RunFolder(path) for path in (options.run, *options.against)]
    for folder in folders:
        if not folder.metrics.is_file():
            raise CommandError(f"{folder.path} is no run: it has no {METRICS_FILE}. To list runs: fnbackprop runs")
    page = folders[0].report
    if len(options.against) == 1:
        page = page.with_name(f"against-{options.against[0].resolve().name}.html")
    elif options.against:
        page = page.with_name("compared.html")
    with writing(page := options.output or page):
        print(write_run_report(folders, page))
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
    "report": Tool(report_command, ReportOptions, "write the page of one run, or of several side by side"),
    "new": Tool(new_command, NewOptions, "write a commented experiment file that runs as it stands"),
}
