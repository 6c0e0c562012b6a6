"""The command line: options from the config, clear answers to mistakes, exit statuses."""

import dataclasses
import enum
import json
import os
import pathlib
import subprocess
import sys

import pytest
import tyro

from fnbackprop.cli import main, run
from fnbackprop.commands import arguments_of
from fnbackprop.experiment_commands import COMMANDS
from fnbackprop.experiment_files import load
from fnbackprop.training.run_folder import RunFolder, read_metrics

FILE = '''
"""A line through points. What there is to say about it takes more than eighty columns, and is
wrapped.

    python line.py   # not wrapped
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np
import optax

from fnbackprop.cli import run
from fnbackprop.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Config:
    """How the line is fitted."""

    shape: Literal["line", "square"] = "line"
    """What is fitted to the points."""
    steps: int = 3
    """How many weight updates."""
    learning_rate: float = 0.1
    """How far each goes."""


def experiment(config: Config) -> Experiment:
    def loss(params, batch, key):
        x = jnp.tanh(batch) if config.shape == "line" else jnp.square(batch)
        return jnp.mean((params["a"] * x + params["b"] - 1) ** 2)

    return Experiment(
        name=config.shape,
        init=lambda key: {"a": jnp.float32(0.5), "b": jnp.float32(0.1)},
        loss=loss,
        batch=lambda step: np.linspace(-1, 1, 8, dtype=np.float32) + np.float32(step),
        optimizer=optax.sgd(config.learning_rate),
        steps=config.steps,
    )


def demonstrate(config: Config):
    """Show all of it, in a line that is longer than a narrow terminal is wide."""
    print(f"demonstrating {config.shape}")


if __name__ == "__main__":
    run(experiment, default=demonstrate)
'''


@pytest.fixture
def file(tmp_path, monkeypatch):
    """An experiment file in the current directory."""
    (tmp_path / "line.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "80")
    return "line.py"


def status(*argv):
    """The exit status of `fnbackprop ARGV`, by whichever way it comes."""
    try:
        return main(argv)
    except SystemExit as exit:
        return exit.code


def test_train(file, capsys):
    assert status("train", file, "--steps", "4", "--learning-rate", "0.05") == 0
    assert [record["step"] for record in read_metrics("runs/line")] == [0, 1, 2, 3]
    assert "line: 4 steps, " in capsys.readouterr().out


def test_train_takes_the_commands_own_options(file, capsys):
    options = ["--backward", "automatic", "--directory", "elsewhere", "--name", "mine"]
    assert status("train", file, *options, "--shape", "square") == 0
    assert pathlib.Path("elsewhere/mine/curves.svg").exists()
    assert "mine: 3 steps, " in (printed := capsys.readouterr().out) and "automatic backward" in printed


def test_compare(file, capsys):
    assert status("compare", file, "--json", "result.json", "--after", "2") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("PASS  loss: 2 leaves (float32)") and "numeric PASS" in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert json.loads(pathlib.Path("result.json").read_text())["ok"] is True


def test_the_command_of_options_is_read_as_the_same_options():
    """Nested ones, an enum, a tuple, a flag that is on by default: what is printed for a replay must be accepted."""

    class Kind(enum.Enum):
        FIRST = 1
        SECOND = 2

    @dataclasses.dataclass(frozen=True)
    class Inner:
        rate: float = 0.1
        no_decay: tuple[str, ...] = ("b",)

    @dataclasses.dataclass(frozen=True)
    class Options:
        inner: Inner = Inner()
        kind: Kind = Kind.FIRST
        shuffle: bool = True
        limit: int | None = 3

    Options.__module__ = Inner.__module__ = __name__
    for options in (Options(), Options(Inner(0.5, ("b", "norm*/scale")), Kind.SECOND, False, None)):
        words = arguments_of(options)
        assert tyro.cli(Options, args=words) == options
    assert words[:2] == ["--inner.rate", "0.5"] and ["--kind", "SECOND"] == words[5:7]


def test_no_replay_is_offered_if_no_batch_was_kept(file, capsys, monkeypatch):
    def full(path, batch):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fnbackprop.training.record.nonfinite_batch.write_batch", full)
    pathlib.Path("line.py").write_text(FILE.replace("jnp.tanh(batch)", "jnp.log(batch)"))
    assert status("train", file, "--steps", "9") == 1
    told = capsys.readouterr().err
    assert (
        "could not be kept" in told and "replay" not in told and "To find the line, with the batch made again" in told
    )
    words = told.splitlines()[-1].split()
    assert words == ["fnbackprop", "trace", "line.py", "--steps", "9", "--step", "0"]
    assert status(*words[1:]) == 1
    assert "became NaN at log, line.py:33:" in capsys.readouterr().out


def test_a_trace_of_a_step_of_a_run(file, capsys):
    """The batch of step 3 is the first with a number above 3.5."""
    pathlib.Path("line.py").write_text(FILE.replace("jnp.tanh(batch)", "jnp.log(3.5 - batch)"))
    assert status("train", file, "--steps", "9", "--checkpoint-every", "2") == 1
    capsys.readouterr()
    assert status("trace", file, "--steps", "9", "--step", "2") == 0
    printed = capsys.readouterr().out
    assert "step 2, run again from step 2" in printed and "all finite" in printed
    for options in (["--step", "3"], ["--replay"]):
        assert status("trace", file, "--steps", "9", *options) == 1
        printed = capsys.readouterr().out
        assert "step 3, run again from step 2" in printed and "became NaN at log, line.py:33:" in printed
    assert status("trace", file, "--replay", "--after", "2") == 1
    assert "--after trains a new run" in capsys.readouterr().err
    assert status("trace", file, "--step", "1", "--directory", "elsewhere") == 1
    assert "there is no run of line in elsewhere" in capsys.readouterr().err


def test_a_run_in_the_place_of_its_file(file, capsys, tmp_path, monkeypatch):
    sloped = FILE.replace("steps=config.steps", 'steps=config.steps, predict=lambda params, x: params["a"] * x')
    pathlib.Path(file).write_text(sloped)
    assert status("train", file, "--steps", "5", "--learning-rate", "0.2", "--name", "mine") == 0
    capsys.readouterr()
    run = RunFolder(pathlib.Path("runs/mine"))
    assert run.read_description()["file"] == str(tmp_path / file)
    for given in (["runs/mine", "--output", "one"], ["mine", "--output", "two"]):
        assert status("export", *given) == 0
        said = f"the model of runs/mine after 5 steps is in {given[-1]}: from use import predict\n"
        assert capsys.readouterr().out == said and pathlib.Path(given[-1], "use.py").is_file()
    assert status("train", file, "--steps", "5", "--learning-rate", "0.2", "--name", "mine") == 0
    for trained, there in (("runs/mine", "exported/mine"), ("runs/mine-2", "exported/mine-2")):
        assert status("export", trained) == 0 and pathlib.Path(there, "use.py").is_file()
        written = pathlib.Path(there, "use.py").stat().st_mtime_ns
        capsys.readouterr()
        assert status("export", trained) == 2 and pathlib.Path(there, "use.py").stat().st_mtime_ns == written
        assert f"{there} holds an export already: give another folder, --output, or --over" in capsys.readouterr().err
        assert status("export", trained, "--overwrite") == 0
    assert status("export", "mine", "--output", f"{file}/there") == 1
    said = capsys.readouterr().err
    assert said == f"RunError: {file}/there cannot be made: Not a directory.\n"
    assert status("trace", "mine", "--step", "5") == 0  # which reads a checkpoint only with the run's own config
    assert "run again from step 5" in capsys.readouterr().out
    run.description.write_text(json.dumps(run.read_description() | {"file": None}))
    assert status("export", "mine") == 2
    assert "Name that, and the run: FILE --directory runs/mine" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["trace", "compare"])
@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_page_that_cannot_be_written_is_one_line(file, command, option, capsys):
    assert status(command, file, option, f"{file}/there.html") == 1
    assert capsys.readouterr().err == f"fnbackprop: {file}/there.html cannot be written: its folder is a file.\n"


def test_a_loss_that_is_nan_is_answered_with_what_to_type_next(file, capsys):
    pathlib.Path("line.py").write_text(FILE.replace("jnp.tanh(batch)", "jnp.log(batch)"))
    config = ["--steps", "9", "--learning-rate", "0.5"]
    assert status("train", file, *config, "--checkpoint-every", "1", "--name", "mine") == 1
    told = capsys.readouterr().err
    assert "To run that step again: fb.replay(experiment); or type" in told
    words = told.splitlines()[-1].split()
    assert words == ["fnbackprop", "replay", "line.py", *config, "--name", "mine"]
    assert status(*words[1:]) == 0
    printed = capsys.readouterr().out
    assert "step 0, run again from step 0: the loss is nan" in printed
    assert "became NaN at log, line.py:33:" in printed and "x = jnp.log(batch)" in printed


def test_a_comparison_that_is_not_finite_ends_in_the_line(file, capsys):
    pathlib.Path("line.py").write_text(FILE.replace("jnp.tanh(batch)", "jnp.log(batch)"))
    assert status("compare", file, "--directions", "0") == 1
    printed = capsys.readouterr().out
    assert printed.startswith("NON-FINITE  loss") and "became NaN at log, line.py:33:" in printed.split("\n\n")[-1]


def test_compare_in_float64(file, capsys):
    assert status("compare", file, "--float64", "--directions", "0") == 0
    assert "2 leaves (float64)" in capsys.readouterr().out


def test_compare_fails_with_status_one(file, capsys, monkeypatch):
    from fnbackprop.comparing import gradient_sources

    manual = gradient_sources.BACKWARDS["manual"]

    def wrong(fun, **options):
        def negated(*args):
            value, gradients = manual(fun, **options)(*args)
            return value, ({**gradients[0], "a": -gradients[0]["a"]},)

        return negated

    monkeypatch.setitem(gradient_sources.BACKWARDS, "manual", wrong)
    assert status("compare", file) == 1
    assert capsys.readouterr().out.startswith("FAIL  loss")


def test_help_names_commands_options_and_their_meaning(file, capsys):
    assert status("train", file, "--help") == 0
    printed = capsys.readouterr().out
    for text in (
        "A line through points. What there is to say about it takes more than eighty\ncolumns, and is wrapped.",
        "\n\n    python line.py   # not wrapped\n",
        "--backward {manual,automatic,both}",
        "Who does the backward pass",
        "--steps INT",
    ):
        assert text in printed
    assert "What is fitted to the points." in printed and "tyro" not in printed
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize(
    "command, function, option", [("train", False, "--mesh"), ("trace", True, "--lines"), ("memory", True, "--fit")]
)
def test_the_help_of_a_command_needs_no_experiment(capsys, command, function, option):
    assert status(command, "--help") == 0
    shown = capsys.readouterr().out
    assert f"fnbackprop {command} FILE.py --help" in shown and option in shown
    assert (f"fnbackprop {command} FILE.py:FUNCTION --args" in shown) == function


@pytest.mark.parametrize(
    "argv, message",
    [
        (["train", "line.py", "--stps", "4"], "--steps"),
        (["train", "line.py", "--steps", "four"], "four"),
        (["train", "line.py", "--shape", "circle"], "invalid choice 'circle' for argument"),
        (["trian", "line.py"], "there is no command 'trian'. Did you mean train? The commands are: train, "),
        (["train"], "which experiment? It is fnbackprop train FILE.py. A new one"),
        (["memory"], "It is fnbackprop memory FILE.py, or memory FILE.py:FUNCTION."),
        (["train", "--steps", "4"], "which experiment?"),
        (["line.py"], "a command comes first: fnbackprop train line.py"),
        (["train", "lime.py"], "there is no file lime.py. Did you mean line.py?"),
        (["train", "line"], "there is no file line. Did you mean line.py?"),
        (["compare", "functions.py"], "To compare one that it has: functions.py:loss, functions.py:metric"),
        (["train", "nowhere/at_all.py"], "there is no file nowhere/at_all.py."),
        (["train", "notes.txt"], "notes.txt is no Python file"),
        (["export", "nowhere"], "there is neither a file nor a run nowhere."),
    ],
)
def test_mistakes_are_answered_with_status_two(file, capsys, argv, message):
    pathlib.Path("notes.txt").write_text("no code")
    pathlib.Path("functions.py").write_text("def loss(x): ...\ndef metric(x): ...\ndef _hidden(x): ...")
    assert status(*argv) == 2
    printed = capsys.readouterr()
    assert message in printed.err and "Traceback" not in printed.err


@pytest.mark.parametrize(
    "change, message",
    [
        (("def experiment(", "def experimant("), "line.py has no function experiment(config: Config) -> Experiment"),
        (("import optax", "import optacks"), "No module named 'optacks'"),
        (("import optax", "import optax\n1 / 0"), "line 14, in <module>"),
        (("def demonstrate(config: Config):", "def demonstrate(config: Config)"), "line 46"),
        (("config: Config) -> Experiment", "config) -> Experiment"), "with a dataclass Config, is wanted"),
        (("steps=config.steps", "steps=0"), "ExperimentError: steps must be an integer of at least 1, not 0"),
        (("return Experiment(", "Experiment("), "ExperimentError: experiment(config) must return an Experiment"),
        (
            ("learning_rate: float", "backward: str = 'x'\n    learning_rate: float"),
            "option of the command too: backward",
        ),
        (("0.1)}", "np.nan)}"), "NonFiniteLoss: the loss of line is nan at step 0"),
    ],
)
def test_broken_files_are_answered_with_status_one(file, capsys, change, message):
    pathlib.Path("line.py").write_text(FILE.replace(*change))
    assert status("train", file) == 1
    printed = capsys.readouterr().err
    assert message in printed and "cli.py" not in printed and "importlib" not in printed


def test_version_and_usage(capsys):
    assert status("--version") == 0 and capsys.readouterr().out.startswith("fnbackprop ")
    assert status("--help") == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in COMMANDS) and max(map(len, printed.splitlines())) <= 80
    assert status() == 2
    done = subprocess.run([sys.executable, "-m", "fnbackprop", "--help"], capture_output=True, text=True)
    assert done.stdout == printed


@pytest.mark.parametrize(
    "argv, code, text",
    [
        ([], 0, "demonstrating line"),
        (["--shape", "square"], 0, "demonstrating square"),
        (["train", "--steps", "2"], 0, "line: 2 steps, "),
        (
            ["--help"],
            0,
            "(none)    Show all of it, in a line that is longer than a narrow terminal is\n            wide.",
        ),
        (["--shpe", "square"], 2, "--shape"),
        (["compair"], 2, "Did you mean compare?"),
    ],
)
def test_an_experiment_files_own_command_line(file, argv, code, text):
    root = pathlib.Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, file, *argv], capture_output=True, text=True, env=environment)
    assert done.returncode == code and text in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough(file):
    """As `| head -1` does."""
    root = pathlib.Path(__file__).parent.parent
    command = [sys.executable, file, "train", "--steps", "1000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(root)}, **pipes) as process:
        process.stdout.readline()
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 141


def test_without_a_default_it_trains(file, capsys):
    with pytest.raises(SystemExit) as ended:
        run(load(file), argv=["--steps", "2"])
    assert ended.value.code == 0 and "line: 2 steps" in capsys.readouterr().out
