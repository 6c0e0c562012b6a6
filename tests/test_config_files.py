"""Options of a file stand below those of the command line."""

import dataclasses

import pytest

from fnbackprop import cli
from fnbackprop.commands import CommandError
from fnbackprop.config_files import with_config_file

TOML = """
learning_rate = 1e-3
hidden = [8, 16]
flag = true
other = false
[optimizer]
name = "lion"
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(TOML)
    return str(path)


def test_what_is_given_counts_before_the_file(file):
    of_file = "--learning-rate 0.001 --hidden 8 16 --flag --no-other --optimizer.name lion".split()
    assert with_config_file(["train", "--config", file, "--steps", "3"]) == ["train", *of_file, "--steps", "3"]
    argv = [f"--config={file}", "--learning_rate=3", "--optimizer.name", "sgd", "--other", "--no-flag"]
    assert with_config_file(argv) == ["--hidden", "8", "16", *argv[1:]]
    assert with_config_file(["train", "--steps", "3"]) == ["train", "--steps", "3"]


def test_yaml_is_the_same(tmp_path):
    pytest.importorskip("yaml")
    (tmp_path / "my.yaml").write_text("steps: 5\noptimizer:\n  name: lion\n")
    found = with_config_file(["--config", str(tmp_path / "my.yaml")])
    assert found == ["--steps", "5", "--optimizer.name", "lion"]


@dataclasses.dataclass(frozen=True)
class Inner:
    name: str = "adam"


@dataclasses.dataclass(frozen=True)
class Config:
    learning_rate: float = 0.1
    hidden: tuple[int, ...] = (4,)
    flag: bool = False
    other: bool = True
    optimizer: Inner = dataclasses.field(default_factory=Inner)


def experiment(config: Config):
    raise NotImplementedError


def test_it_reaches_the_config(file):
    found = []
    assert cli.run_command(experiment, ["--config", file, "--hidden", "32"], "python my.py", found.append) == 0
    assert found == [Config(1e-3, (32,), True, False, Inner("lion"))]


def test_what_is_no_in_it_is_no_whatever_the_default(tmp_path):
    path, found = tmp_path / "my.toml", []
    path.write_text("flag = false\nother = false")
    assert cli.run_command(experiment, ["--config", str(path)], "python my.py", found.append) == 0
    assert cli.run_command(experiment, ["--config", str(path), "--other"], "python my.py", found.append) == 0
    assert found == [Config(other=False), Config(other=True)]


@pytest.mark.parametrize("content, message", [
    (None, "there is no file"), ("steps = ", "cannot be read"),
])  # fmt: skip
def test_a_file_that_is_none(content, message, tmp_path):
    path = tmp_path / "my.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CommandError, match=message):
        with_config_file(["--config", str(path)])
