"""Options that are not typed: of a TOML or YAML file, `--config FILE`, or those that a run was trained with, which a
command may name in the place of the experiment's file. Those of the command line count before them.

learning_rate = 1e-3
steps = 500

[optimizer]
name = "lion"
"""

import importlib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .commands import CommandError
from .training.run_folder import RunFolder

OPTION = "--config"


def with_config_file(argv: Sequence[str]) -> list[str]:
    """The arguments with the options of the file that `--config` names in its place, but for those that are given.

    Raises:
      CommandError: there is no such file, it cannot be read, or holds what is no option.
    """
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith(f"{OPTION}=") else [word])]
    if OPTION not in words:
        return list(argv)
    place = words.index(OPTION)
    if place + 1 == len(words):
        raise CommandError(f"{OPTION} needs a file: {OPTION} my.toml")
    rest = words[:place] + words[place + 2 :]
    head = 0 if not rest or rest[0].startswith("-") else 1  # after the command
    return [*rest[:head], *_not_given(_read(Path(words[place + 1])), rest), *rest[head:]]


def with_run(argv: Sequence[str]) -> list[str]:
    """The arguments, RUN --options, with the experiment's file and the config of the run in the place of a run's folder
    or name; others as they are.

    Raises:
      CommandError: the run does not say of which file it is.
    """
    place, *rest = argv
    folder = next((path for path in _folders(place, rest) if RunFolder(path).description.is_file()), None)
    if folder is None or Path(place).is_file():
        return list(argv)
    found = RunFolder(folder).read_description()
    if not found.get("file"):
        raise CommandError(
            f"{folder} does not say of which file it is. Name that, and the run: FILE --directory {folder}"
        )
    given = _without(rest, "--directory")
    return [found["file"], *_not_given(found.get("config", {}), given), *given, "--directory", str(folder)]


def _folders(place: str, rest: Sequence[str]) -> list[Path]:
    """Where a run may be that is so called."""
    where = rest[rest.index("--directory") + 1] if "--directory" in rest[:-1] else "runs"
    return [Path(place), Path(where) / place]


def _without(words: Sequence[str], option: str) -> list[str]:
    """The words without an option and its value."""
    place = words.index(option) if option in words else len(words)
    return [*words[:place], *words[place + 2 :]]


def _not_given(values: dict[str, Any], words: Sequence[str]) -> list[str]:
    """The words of those options that are not among these."""
    given = {_plain(word) for word in words if word.startswith("--")}
    return [word for name, own in _options(values, "").items() if name not in given for word in own]


def _plain(word: str) -> str:
    """The name of an option as it is compared: --no-flag is --flag, and _ is -."""
    name = word.partition("=")[0].removeprefix("--").replace("_", "-")
    head, dot, last = name.rpartition(".")
    return head + dot + last.removeprefix("no-")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CommandError(f"there is no file {path}, which {OPTION} names.")
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix in (".yaml", ".yml"):
            found = _yaml(text, path)
        else:
            found = tomllib.loads(text)
    except ValueError as error:
        raise CommandError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise CommandError(f"{path} must hold options, NAME = VALUE, not {type(found).__name__}.")
    return found


def _yaml(text: str, path: Path) -> Any:
    try:
        yaml = importlib.import_module("yaml")  # of no extra: whoever writes YAML has it
    except ImportError:
        raise CommandError(f"{path}: to read YAML, install PyYAML; or write it as TOML.") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _options(values: dict[str, Any], prefix: str) -> dict[str, list[str]]:
    """Each option's name, and how it is typed."""
    found: dict[str, list[str]] = {}
    for key, value in values.items():
        name = f"{prefix}{key}".replace("_", "-")
        if isinstance(value, dict):
            found |= _options(value, f"{name}.")
        elif isinstance(value, bool):
            found[name] = [f"--{name}" if value else f"--{prefix}no-{key}".replace("_", "-")]
        else:
            given = value if isinstance(value, list) else [value]
            found[name] = [f"--{name}", *("None" if item is None else str(item) for item in given)]
    return found
