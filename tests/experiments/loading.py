"""The module of an experiment file."""

import importlib.util
import pathlib
import re
import sys
from types import ModuleType

FOLDER = pathlib.Path(__file__).parents[2] / "experiments"


def load_module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"experiment_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def expected_last_line(module: ModuleType) -> str:
    """The line that the head of the file promises."""
    lines = module.__doc__.splitlines()
    promise = next(number for number, line in enumerate(lines) if "Expected last line" in line)
    return next(line.strip() for line in lines[promise + 1 :] if line.startswith("    "))


def words(line: str) -> str:
    """A line without its numbers."""
    return " ".join("#" if any(mark.isdigit() for mark in word) else word for word in line.split())


def promised_numbers(module: ModuleType, output: str) -> list[float]:
    """The numbers in the last line of the output, which is otherwise the one that the head of the file promises."""
    last = output.splitlines()[-1]
    assert words(last) == words(expected_last_line(module)), last
    return [float(number) for number in re.findall(r"[\d.]+(?:e-?\d+)?", last)]
