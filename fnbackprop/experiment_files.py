"""Loading experiment files, and modules named on the command line."""

import dataclasses
import importlib
import importlib.util
import inspect
import sys
import traceback
import typing
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from fnbackprop.commands import CommandError, nearest
from fnbackprop.experiment import Experiment, ExperimentError
from fnbackprop.extras import MissingExtra, needed_for

ENTRY = "experiment"  # the function that an experiment file must hold


def load(path: str) -> Callable[[Any], Experiment]:
    """The function `experiment` of a file; raises CommandError if the file is not there, broken, or has none."""
    return entry_of(import_file(path), path)


def entry_of(module: ModuleType, path: str) -> Callable[[Any], Experiment]:
    """The function `experiment` of a file's module; raises CommandError if it has none."""
    if not callable(getattr(module, ENTRY, None)):
        raise CommandError(f"{path} has no function {ENTRY}(config: Config) -> Experiment.", status=1)
    return getattr(module, ENTRY)


def import_module(name: str) -> ModuleType:
    """A module by its dotted name, of the current directory too."""
    sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        file = Path(f"{name}.py")
        said = f" There is a file: {file}." if file.is_file() else ""
        wanted = "" if error.name == name else f", which {name} wants"
        raise CommandError(f"there is no module {error.name}{wanted}.{said}") from None
    except Exception as error:
        raise CommandError(f"{name} cannot be imported.\n{type(error).__name__}: {error}", status=1) from None


def import_file(path: str) -> ModuleType:
    """A Python file as a module."""
    file = Path(path)
    if not file.is_file():
        near = (
            f" Did you mean {path}.py?"
            if Path(f"{path}.py").is_file()
            else nearest(path, map(str, file.parent.glob("*.py")))
        )
        raise CommandError(f"there is no file {path}.{near}")
    spec = importlib.util.spec_from_file_location(f"experiment_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise CommandError(f"{path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(file.parent.resolve()))  # as `python FILE` does
    try:
        with needed_for(path):
            spec.loader.exec_module(module)
    except MissingExtra:
        raise
    except Exception as error:
        raise CommandError(f"{path} cannot be imported.\n{_users_part(error, file)}", status=1) from None
    return module


def config_type(experiment: Callable) -> type:
    """The dataclass that annotates the one parameter of `experiment`."""
    wanted = f"{ENTRY}(config: Config) -> Experiment, with a dataclass Config,"
    parameters = list(inspect.signature(experiment).parameters)
    hints = typing.get_type_hints(experiment)
    found = hints.get(parameters[0]) if len(parameters) == 1 else None
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ExperimentError(f"{wanted} is wanted, but it is {experiment.__name__}{inspect.signature(experiment)}.")
    return found


def _users_part(error: Exception, file: Path) -> str:
    """The traceback from the user's file on."""
    frame = error.__traceback__
    while frame is not None and Path(frame.tb_frame.f_code.co_filename).resolve() != file.resolve():
        frame = frame.tb_next
    return "".join(traceback.format_exception(type(error), error, frame)).rstrip()
