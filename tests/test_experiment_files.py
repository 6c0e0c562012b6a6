"""From the name of a file or a module to the function in it."""

import pathlib
import sys

import pytest

from fnbackprop.commands import CommandError
from fnbackprop.experiment import ExperimentError
from fnbackprop.experiment_files import config_type, import_module, load

FILE = """
import dataclasses
from neighbour import STEPS


@dataclasses.dataclass(frozen=True)
class Config:
    steps: int = STEPS


def experiment(config: Config):
    return config.steps
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "counting.py").write_text(FILE)
    (tmp_path / "parts" / "neighbour.py").write_text("STEPS = 2\n")


def test_a_file_may_import_its_neighbours():
    experiment = load("parts/counting.py")
    assert experiment(config_type(experiment)()) == 2


def test_a_module_of_the_current_directory_is_found_by_its_name(tmp_path):
    (tmp_path / "fnbackprop_test_module.py").write_text("VALUE = 3\n")
    assert import_module("fnbackprop_test_module").VALUE == 3


def test_an_error_while_importing_shows_the_users_lines_alone():
    pathlib.Path("parts/counting.py").write_text(FILE + "\n1 / 0\n")
    with pytest.raises(CommandError, match=r"counting.py cannot be imported.\nTraceback") as raised:
        load("parts/counting.py")
    assert "1 / 0" in str(raised.value) and "experiment_files.py" not in str(raised.value)


def test_a_module_that_is_not_there_is_named(tmp_path):
    (tmp_path / "lacking.py").write_text("import nowhere.at_all\n")
    for name in ("nowhere.at_all", "lacking"):
        with pytest.raises(CommandError, match=rf"there is no module nowhere, which {name} wants\."):
            import_module(name)


def test_a_config_must_be_a_dataclass():
    with pytest.raises(ExperimentError, match=r"with a dataclass Config, is wanted, but it is plain\(config\)"):

        def plain(config):
            return config

        config_type(plain)
