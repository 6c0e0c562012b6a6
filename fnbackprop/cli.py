"""The command line: `fnbackprop COMMAND FILE --options`, or `python FILE COMMAND --options` by the file's last line.

`fnbackprop compare MODULE:FUNCTION --args ...` compares any function: see `comparing/command.py`. A file's options are
the fields of its `Config` and those of the command, typed by their annotations and explained by their docstrings.
"""

import dataclasses
import inspect
import os
import shlex
import sys
import textwrap
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal

from fnbackprop.commands import TOOLS, USAGE_ERROR, CommandError, arguments_of, nearest
from fnbackprop.config_files import with_config_file, with_run
from fnbackprop.experiment import Experiment, ExperimentError
from fnbackprop.experiment_commands import COMMANDS, ExperimentTraceOptions, ReplayOptions, TrainOptions
from fnbackprop.experiment_files import ENTRY, config_type, entry_of, import_file
from fnbackprop.extras import MissingExtra
from fnbackprop.function_commands import OF_A_FUNCTION, function_command, functions_of
from fnbackprop.option_parsing import parse
from fnbackprop.running.start import HELP as RUN_HELP
from fnbackprop.running.start import run_script
from fnbackprop.sweeping.command import HELP as SWEEP_HELP
from fnbackprop.sweeping.command import run_sweep
from fnbackprop.training.errors import NonFiniteLoss, RunError
from fnbackprop.version import __version__
from fnbackprop.writing import WriteError

WIDTH = 80  # of what is printed here
OF_A_RUN = ("export", "replay", "trace", "balance")  # which may be given a run instead of its file


# ---------------------------------------------------------------- the two ways in


def main(argv: Sequence[str] | None = None) -> int:
    """`fnbackprop COMMAND FILE --options`; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["run"]:
        return run_script(arguments[1:])  # what the script raises is its own
    return _guarded(lambda: _main(arguments))


def run(
    experiment: Callable[[Any], Experiment],
    *,
    default: Callable[[Any], int | None] | None = None,
    argv: Sequence[str] | None = None,
) -> typing.NoReturn:
    """The last line of an experiment file: its command line. Ends the program with the command's exit status.

    Args:
      experiment: the file's `experiment(config: Config) -> Experiment`.
      default: `default(config)` is what happens when no command is given; without it, the experiment is trained.
      argv: the arguments; by default, those of the program.

    Returns:
      Never.
    Raises:
      SystemExit: with the status 0; 1 where a check fails or a run breaks; 2 for a mistake in the command.

    Example:
      >>> import dataclasses, fnbackprop as fb, jax.numpy as jnp, optax
      >>> @dataclasses.dataclass(frozen=True)
      ... class Config:
      ...     rate: float = 0.25
      >>> def experiment(config: Config) -> fb.Experiment:
      ...     return fb.Experiment(
      ...         name="line", init=lambda key: jnp.zeros(()), batch=lambda step: jnp.float32(3), steps=2,
      ...         loss=lambda w, batch, key: (w - batch) ** 2, optimizer=optax.sgd(config.rate))
      >>> try:
      ...     fb.run(experiment, default=lambda config: print(config.rate), argv=["--rate", "0.5"])
      ... except SystemExit as done:
      ...     print(done.code)
      0.5
      0
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.exit(_guarded(lambda: run_command(experiment, arguments, f"python {sys.argv[0]}", default)))


def _main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else USAGE_ERROR
    if argv[0] == "--version":
        print(f"fnbackprop {__version__}")
        return 0
    name, *rest = argv
    if name.endswith(".py"):
        raise CommandError(f"a command comes first: fnbackprop train {name}, or fnbackprop compare {name}.")
    if name in TOOLS:
        return _run_tool(name, rest)
    if name == "sweep":
        return run_sweep(rest)
    _require_command(name)
    if rest[:1] in (["-h"], ["--help"]):
        return _print_help(name)
    if not rest or rest[0].startswith("-"):
        what = f"{name} FILE.py, or {name} FILE.py:FUNCTION" if name in OF_A_FUNCTION else f"{name} FILE.py"
        raise CommandError(f"which experiment? It is fnbackprop {what}. A new one is written by fnbackprop new FILE.py")
    if name in OF_A_FUNCTION and ":" in rest[0]:
        return function_command(name, rest[0], rest[1:])
    if name in OF_A_RUN:
        rest = with_run(rest)
        if not rest[0].endswith(".py") and not os.path.isfile(rest[0]):
            raise CommandError(f"there is neither a file nor a run {rest[0]}. To list runs: fnbackprop runs")
    module = import_file(rest[0])
    if name in OF_A_FUNCTION and not hasattr(module, ENTRY) and (of_functions := functions_of(module)):
        targets = ", ".join(f"{rest[0]}:{function}" for function in of_functions[:5])
        raise CommandError(f"{rest[0]} has no function {ENTRY}(config: Config). To {name} one that it has: {targets}")
    return run_command(entry_of(module, rest[0]), [name, *rest[1:]], "fnbackprop", file=rest[0])


def _run_tool(name: str, argv: list[str]) -> int:
    """Run a command that takes no experiment file."""
    import tyro

    tool = TOOLS[name]
    return tool.run(tyro.cli(tool.options, args=argv, prog=f"fnbackprop {name}", description=tool.help))


def run_command(
    experiment: Callable,
    argv: Sequence[str],
    program: str,
    default: Callable[[Any], int | None] | None = None,
    file: str = "",
) -> int:
    """Read command and options, make the experiment, run the command; returns the exit status."""
    argv = with_config_file(argv)
    named = bool(argv) and not argv[0].startswith("-")
    if named:
        _require_command(argv[0])
    name = argv[0] if named else "" if default else "train"
    command = COMMANDS.get(name)
    title = " ".join(filter(None, (program, argv[0] if named else "", file)))
    about = _about(experiment, command.help if named and command else "", [] if named else _command_lines(default))
    parsed = parse(config_type(experiment), command.options if command else None, argv[named:], title, about)
    if command is None:
        assert default is not None, "without a command there is a default"
        return default(parsed.config) or 0
    if isinstance(parsed.options, TrainOptions):
        from fnbackprop.training.mesh import join_processes

        join_processes(parsed.options.distributed)  # before the experiment makes its first array
    try:
        return command.run(_experiment(experiment, parsed.config, parsed.options), parsed.options)
    except FloatingPointError as error:
        if name == "train" and isinstance(error, NonFiniteLoss):
            told, command, again = _what_to_type(error, parsed.options)
            words = [
                *program.split(),
                command,
                *filter(None, [file]),
                *arguments_of(parsed.config),
                *arguments_of(again),
            ]
            error.args = (f"{error}{told}\n  {shlex.join(words)}",)
        raise


def _experiment(make: Callable[[Any], Experiment], config: Any, options: Any) -> Experiment:
    """What the file makes of its config, by the name that the run is to have."""
    made = make(config)
    if not isinstance(made, Experiment):
        raise ExperimentError(f"{ENTRY}(config) must return an Experiment, but it returned {made!r}.")
    name = getattr(options, "name", None)
    changes = ({"config": config} if made.config is None else {}) | ({} if name is None else {"name": name})
    return dataclasses.replace(made, **changes)


def _what_to_type(error: NonFiniteLoss, options: TrainOptions) -> tuple[str, str, Any]:
    """The command that finds the line, and its options: with the batch that was kept, or else with it made again."""
    if error.kept is None:
        again = ExperimentTraceOptions(step=error.step, name=options.name, directory=options.directory)
        return "\nTo find the line, with the batch made again, type", "trace", again
    by: Literal["manual", "automatic"] = "automatic" if options.backward == "automatic" else "manual"
    return "; or type", "replay", ReplayOptions(name=options.name, directory=options.directory, backward=by)


def _guarded(action: Callable[[], int]) -> int:
    """The exit status of an action; an error that the user can correct is printed as a message, without a traceback."""
    from fnbackprop.backprop.missing_rule import MissingRule
    from fnbackprop.comparing.comparison import GradientMismatch
    from fnbackprop.tracing.show.rows import LinesError

    try:
        return action()
    except CommandError as error:
        print(f"fnbackprop: {error}", file=sys.stderr)
        return error.status
    except (MissingExtra, WriteError) as error:
        print(f"fnbackprop: {error}", file=sys.stderr)
        return 1
    except LinesError as error:
        print(f"fnbackprop: {error}", file=sys.stderr)
        return USAGE_ERROR
    except (ExperimentError, FloatingPointError, GradientMismatch, MissingRule, RunError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, `head` for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as the shell has it: 128 + SIGPIPE


# ---------------------------------------------------------------- options and help


def _print_help(name: str) -> int:
    """What a command does, before its experiment is named; returns the exit status."""
    import tyro

    lines = [COMMANDS[name].help, "", f"An experiment has options of its own: fnbackprop {name} FILE.py --help"]
    if name in OF_A_FUNCTION:
        lines.append(f"Of any function: fnbackprop {name} FILE.py:FUNCTION --args ..., and its options by --help")
    print("\n".join(lines), end="\n\n")
    tyro.cli(COMMANDS[name].options, args=["--help"], prog=f"fnbackprop {name} FILE.py", description=" ")
    return 0


def _require_command(name: str) -> None:
    """Raises CommandError for a name that is not a command on an experiment."""
    if name in TOOLS:
        raise CommandError(f"{name} takes no experiment: fnbackprop {name}")
    if name not in COMMANDS:
        known = [*COMMANDS, *TOOLS, "sweep", "run"]
        listed = ", ".join(known)
        raise CommandError(f"there is no command {name!r}.{nearest(name, known)} The commands are: {listed}.")


def _about(experiment: Callable, command: str, commands: list[str]) -> str:
    """The head of the help: the file's docstring, and what the command does or which commands there are."""
    paragraphs = (inspect.getdoc(sys.modules.get(experiment.__module__)) or "").split("\n\n")
    text = "\n\n".join(part if "\n " in f"\n{part}" else textwrap.fill(part, WIDTH) for part in paragraphs)
    return "\n".join([text, *([f"\n{command}"] if command else []), *commands])


def _command_lines(default: Callable | None) -> list[str]:
    first = (inspect.getdoc(default) or "").split("\n")[0] if default else COMMANDS["train"].help
    rows = {"(none)": first, **{name: command.help for name, command in COMMANDS.items()}}
    return ["\ncommands, before the options:", *_rows(rows)]


def _rows(rows: dict[str, str]) -> list[str]:
    """Names and what they mean."""
    return [textwrap.fill(f"  {name:<9} {text}", WIDTH, subsequent_indent=" " * 12) for name, text in rows.items()]


def _usage() -> str:
    return "\n".join(
        [
            "usage: fnbackprop COMMAND FILE [--options]",
            "       fnbackprop run [--compare] [--budget B] [--fuse] SCRIPT ...",
            "       fnbackprop runs | report RUN [RUN ...] | new FILE | doctor",
            "",
            "FILE holds an experiment: a dataclass Config and a function experiment(config).",
            "export, replay, trace and balance take a run as well: runs/digits-mlp.",
            "compare, trace and memory take any function too, at arguments so described:",
            "       fnbackprop compare package.module:function --args f32[8,3] f32[3]",
            "",
            "commands:",
            *_rows(
                {name: command.help for name, command in {**COMMANDS, **TOOLS}.items()}
                | {"sweep": SWEEP_HELP, "run": RUN_HELP}
            ),
            "",
            "The options of a command and of an experiment: fnbackprop COMMAND FILE --help",
        ]
    )
