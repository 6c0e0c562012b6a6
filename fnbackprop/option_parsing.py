"""The options of a command and of an experiment, typed by the annotations of their dataclasses."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

from .experiment_checks import ExperimentError


def parse(config: type, options: type | None, argv: Sequence[str], program: str, about: str = "") -> Any:
    """The options as an object with `config` and `options`; tyro answers --help and mistakes, and exits.

    Args:
      config: the experiment's dataclass.
      options: that of the command, if it has options.
      argv: the arguments after the command and its file.
      program: what was typed before them.
      about: what --help begins with.
    """
    import tyro

    parts = {"config": config} | ({"options": options} if options else {})
    names = [field.name for kind in parts.values() for field in dataclasses.fields(kind)]
    if len(set(names)) < len(names):
        twice = ", ".join(name for name in set(names) if names.count(name) > 1)
        raise ExperimentError(f"Config has a field that is an option of the command too: {twice}. Rename it.")
    fields = [(name, Annotated[kind, tyro.conf.arg(name="")]) for name, kind in parts.items()]
    arguments = dataclasses.make_dataclass("Arguments", fields)
    if {"-h", "--help"} & set(argv):
        print(about, end="\n\n")  # as its author wrote it: tyro would join the lines of a paragraph
    return tyro.cli(arguments, args=list(argv), prog=program, description=" ")
