"""`fnbackprop balance FILE`: what is asked for, and how it is told."""

import dataclasses
import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..writing import writing
from .config_rate import find_rate, with_rate

if TYPE_CHECKING:
    from .result import Balance


@dataclasses.dataclass(frozen=True)
class BalanceOptions:
    """What of a balance is measured and shown."""

    at: tuple[int, ...] = ()
    """The steps of a run whose checkpoints are balanced; by default, the initial state."""
    update: str | None = None
    """Of an experiment with several updates, the one of this name; by default, all of them."""
    name: str | None = None
    """Of the run, if it was trained with --name."""
    directory: Path = Path("runs")
    """The run's own folder, or where the runs are; the page is written there."""
    check: bool = True
    """Compare the gradient first, and check every rule in place."""
    range_test: bool = True
    """Take steps at a growing rate, too."""
    mesh: str | None = None
    """The devices, data=4,model=2 for instance."""
    apply: bool = False
    """Print the command of the run that is suggested."""
    json: Path | None = None
    """Write the balance to this file as well."""
    html: Path | None = None
    """The page to write; by default <name>.balance.html in the directory of runs, with the step of a run."""


def show(found: "Balance", options: BalanceOptions, config: Any, arguments_of: Callable[[Any], list[str]]) -> None:
    """Print a balance, and write it where it is wanted.

    Args:
      found: the balance.
      options: of the command.
      config: of the experiment.
      arguments_of: the command line that gives a config.
    """
    print(found)
    if options.json is not None:
        with writing(options.json):
            options.json.write_text(found.to_json() + "\n", encoding="utf-8")
    at = f".step-{found.facts.step}" if found.facts.step else ""
    path = options.html or options.directory / f"{found.facts.name}{at}.balance.html"
    with writing(path):
        found.html(path)
    print(f"written to {path}")
    if options.apply:
        print(f"\n{recommended_command(found, options, config, arguments_of)}")


def recommended_command(
    found: "Balance", options: BalanceOptions, config: Any, arguments_of: Callable[[Any], list[str]]
) -> str:
    """The command of the run that is suggested; where no option is the learning rate, a sentence."""
    if found.suggestion is None:
        return f"No learning rate is suggested: {found.why_no_suggestion}."
    rate = find_rate(config)
    if rate is None:
        return f"No single option of the experiment is its learning rate: multiply it by {found.multiplier:.2g}."
    path, value = rate
    changed = config if found.multiplier == 1 else with_rate(config, path, _two_digits(value * found.multiplier))
    file = getattr(sys.modules.get(type(config).__module__), "__file__", None) or "FILE"
    of_run = arguments_of(BalanceOptions(name=options.name, mesh=options.mesh))  # `train` calls them the same
    return shlex.join(["fnbackprop", "train", _shortest(file), *arguments_of(changed), *of_run])


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}") if math.isfinite(value) else value


def _shortest(file: str) -> str:
    """The path from the current directory, if the file lies below it."""
    path = Path(file).resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
