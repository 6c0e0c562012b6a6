"""`fnbackprop compare MODULE:FUNCTION --args ...`, and trace and memory: the commands that take any function."""

import inspect
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import jax

from fnbackprop.commands import CommandError
from fnbackprop.experiment_commands import COMMANDS
from fnbackprop.experiment_files import import_file, import_module

OF_A_FUNCTION = ("compare", "trace", "memory")


def function_command(command: str, target: str, argv: Sequence[str]) -> int:
    """Run a command on MODULE:FUNCTION, the module by its dotted name or as a file; returns the exit status."""
    import tyro

    from fnbackprop.comparing.command import FORMS, FunctionOptions, TargetError
    from fnbackprop.memory_command import FunctionMemoryOptions, memory_of_function
    from fnbackprop.tracing.command import FunctionTraceOptions, compare_function, trace_function

    kind, action = {
        "compare": (FunctionOptions, compare_function),
        "trace": (FunctionTraceOptions, trace_function),
        "memory": (FunctionMemoryOptions, memory_of_function),
    }[command]
    where, _, name = target.partition(":")
    module = import_file(where) if where.endswith(".py") else import_module(where)
    about = "\n  ".join([f"{command} {name}: {COMMANDS[command].help}. An argument is", *FORMS])
    options = tyro.cli(kind, args=list(argv), prog=f"fnbackprop {command} {target}", description=about)
    try:
        return action(module, name, options)
    except TargetError as error:
        raise CommandError(str(error)) from None
    except Exception as error:
        told = users_traceback(error)
        if not told:
            raise
        raise CommandError(f"{target} fails.\n{told}", status=1) from None


def functions_of(module: ModuleType) -> list[str]:
    """The names of the public functions that a module defines."""
    found = (name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__)
    return [name for name in found if not name.startswith("_") and not inspect.isclass(getattr(module, name))]


def users_traceback(error: Exception) -> str:
    """An error of the user's code, with the frames of that code alone; empty if it may be one of ours.

    JAX_TRACEBACK_FILTERING=off shows all frames, as it does in JAX."""
    frames = traceback.extract_tb(error.__traceback__)
    traced = error.__cause__ if type(error.__cause__).__name__ == "JaxStackTraceBeforeTransformation" else None
    is_by_jax = any("JAX has removed its internal frames" in note for note in getattr(error, "__notes__", ()))
    if jax.config.jax_traceback_filtering == "off" or (_is_ours(frames[-1]) and not is_by_jax):
        return ""
    frames = [*(traceback.extract_tb(traced.__traceback__) if traced else ()), *frames]
    shown = traceback.format_list([frame for frame in frames if not _is_ours(frame)])
    return "".join([*shown, f"{type(error).__name__}: {error}"])


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith((str(Path(__file__).parent), "<frozen"))
