"""`fnbackprop runs`: the runs of a folder as a table or as JSON, with columns of their configs, filtered and sorted."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from fnbackprop.training.run_folder import RunFolder, find_runs, flat

VALUES_SHOWN = 12  # where no run has the one that is asked for
PIPE_WIDTH = 10_000  # of a table that goes to no terminal


class RunListError(ValueError):
    """A filter or a column that no run has; the message names those that there are."""


@dataclasses.dataclass(frozen=True)
class RunsOptions:
    """What `runs` takes."""

    directory: tyro.conf.Positional[Path] = Path("runs")
    """Where the runs are."""
    columns: tuple[str, ...] = ()
    """Options of the experiment, or metrics, to be shown too: learning-rate, optimizer.name, test_accuracy."""
    where: tuple[str, ...] = ()
    """Only the runs that have these values: status=finished learning-rate=0.001."""
    sort: str | None = None
    """By this column, the lowest first; with + before it, the highest: +test_accuracy."""
    json: bool = False
    """Print a list of objects instead, with each run's whole config and the last value of each metric."""


@dataclasses.dataclass(frozen=True)
class ListedRun:
    """What is known of one run: the facts of every run, its config at one level, the last value of each metric."""

    facts: dict[str, Any]
    config: dict[str, Any]
    metrics: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        """A fact, an option or a metric by its name, that of the evaluation first; None if there is none."""
        plain = name.replace("-", "_")
        for part, key in ((self.facts, plain), (self.config, plain), (self.metrics, f"evaluate/{name}")):
            if key in part:
                return part[key]
        return self.metrics.get(name)

    def names(self) -> list[str]:
        own = [name.removeprefix("evaluate/") for name in self.metrics if not name.startswith("gradient_norm/")]
        return [*self.facts, *self.config, *own]


def listed(folder: RunFolder, directory: Path) -> ListedRun:
    """What is known of the run in a folder below the directory."""
    run, (rows, bad) = folder.read_description(), folder.read_records()
    last = {name: value for row in rows for name, value in row.items()}
    updates = last["step"] + ("loss" in rows[-1]) if rows else 0  # the row of a step precedes its update
    facts = {
        "run": str(folder.path.relative_to(directory)),
        "status": run["status"] + (f", {bad} bad lines" if bad else ""),
        "step": updates,
        "loss": last.get("loss", math.nan),
        "seconds": run.get("seconds", 0.0),
        "began": run.get("began", ""),
    }
    config = {"seed": run["seed"]} if "seed" in run else {}
    return ListedRun(facts, config | flat(run.get("config", {})), {n: x for n, x in last.items() if n != "step"})


def chosen(runs: Sequence[ListedRun], options: RunsOptions) -> list[ListedRun]:
    """The runs that are asked for, in the order that is asked for.

    Raises:
      RunListError: a filter is none, or no run has what is named.
    """
    for term in options.where:
        name, equals, wanted = term.partition("=")
        if not equals:
            raise RunListError(f"--where takes NAME=VALUE, status=finished for instance, not {term}.")
        _require_known(runs, name)
        runs = [run for run in runs if _same(run[name], wanted)]
    for name in options.columns:
        _require_known(runs, name)
    if options.sort is None:
        return list(runs)
    name = options.sort.removeprefix("+")
    _require_known(runs, name)
    return sorted(runs, key=lambda run: _order(run[name], highest=options.sort.startswith("+")))


def show(runs: Sequence[ListedRun], options: RunsOptions) -> None:
    """Print the runs."""
    if options.json:
        rows = [run.facts | {"config": run.config, "metrics": run.metrics} for run in runs]
        print(json.dumps(_finite(rows), indent=1))
        return
    import rich
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    head = ["run", "status", "step", "loss", *options.columns, "evaluation", "began"]
    for name in head:
        table.add_column(
            name, overflow="fold", justify="right" if name in ("step", "loss", *options.columns) else "left"
        )
    for run in runs:
        table.add_row(*_row(run, options.columns))
    console = rich.get_console()
    if not console.file.isatty():  # a line for each run, whatever its length, for grep and its like: no colours either
        console = Console(file=console.file, width=PIPE_WIDTH, force_terminal=False)
    console.print(table if table.rows else f"no runs in {options.directory}")


def list_runs(options: RunsOptions) -> None:
    """The command; raises RunListError for what no run has."""
    runs = [listed(folder, options.directory) for folder in find_runs(options.directory)]
    found = chosen(runs, options)
    if runs and not found and not options.json:
        print(f"no runs like these in {options.directory}: {'; '.join(_values(runs, options.where))}")
        return
    show(found, options)


def _values(runs: Sequence[ListedRun], where: Sequence[str]) -> list[str]:
    """Which values there are of what is asked for."""
    names = dict.fromkeys(term.partition("=")[0] for term in where)
    values = {name: dict.fromkeys(_text(run[name]) for run in runs if run[name] is not None) for name in names}
    return [f"{name} is {', '.join([*found][:VALUES_SHOWN])}{' ...' * (len(found) > VALUES_SHOWN)}"
            for name, found in values.items()]  # fmt: skip


def _row(run: ListedRun, columns: Sequence[str]) -> tuple[str, ...]:
    facts = run.facts
    evaluated = {n.removeprefix("evaluate/"): x for n, x in run.metrics.items() if n.startswith("evaluate/")}
    shown = ", ".join(f"{name} {value:.4g}" for name, value in evaluated.items() if name not in columns)
    own = ("" if run[name] is None else _text(run[name]) for name in columns)
    loss = f"{facts['loss']:.4g}" if "loss" in run.metrics else ""  # of a run without a step there is none
    began = facts["began"].removesuffix("+00:00").replace("T", " ")[:16]
    return (facts["run"], facts["status"], str(facts["step"]), loss, *own, shown, began)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _require_known(runs: Sequence[ListedRun], name: str) -> None:
    if runs and all(run[name] is None for run in runs):
        known = dict.fromkeys(known for run in runs for known in run.names())
        raise RunListError(f"no run has {name!r}; they have {', '.join(known)}.")


def _same(value: Any, wanted: str) -> bool:
    """Whether a value is what was typed: numbers are compared as numbers."""
    try:
        return float(value) == float(wanted)
    except (TypeError, ValueError):
        return str(value) == wanted


def _order(value: Any, highest: bool) -> tuple[int, float, str]:
    """Numbers by their size, then text, then what is missing or no number."""
    if isinstance(value, int | float) and math.isfinite(value):
        return 0, -value if highest else value, ""
    return (2, 0.0, "") if value is None or isinstance(value, float) else (1, 0.0, str(value))


def _finite(value: Any) -> Any:
    """A value as JSON has it: null for a number that is not finite."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
