"""The commands that need no experiment: runs, report, new."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import fnbackprop
from fnbackprop.cli import main
from tests.training.record.test_run_description import line


def status(*argv):
    """The exit status of `fnbackprop ARGV`, by whichever way it comes."""
    try:
        return main(argv)
    except SystemExit as exit:
        return exit.code


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def test_runs_and_report(here, capsys, monkeypatch):
    from fnbackprop.training.loop import train

    for name in ("one", "two"):
        train(line(name=name, steps=3, evaluate=lambda params: {"size": 1.5}), progress=False)
    assert status("runs") == 0
    printed = capsys.readouterr().out.splitlines()
    assert [row.split()[:3] for row in printed[1:]] == [["one", "finished", "3"], ["two", "finished", "3"]]
    assert "size 1.5" in printed[1] and max(map(len, printed)) <= 80
    long = "an-experiment-whose-name-is-longer-than-a-terminal-is-wide-" * 2
    pathlib.Path("runs", long).mkdir()
    pathlib.Path("runs", long, "metrics.jsonl").write_text("nonsense\n")
    assert status("runs") == 0
    first = capsys.readouterr().out.splitlines()[1].split()
    assert first[:4] == [long, "unknown,", "1", "bad"], "in a pipe, a run is one line, and a bad one does no harm"
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert status("runs") == 0 and "\x1b" not in capsys.readouterr().out, "nor are there colours for grep to stumble on"
    assert status("report", "runs/one", "runs/two") == 0
    assert "one and two" in pathlib.Path("runs/one/against-two.html").read_text()
    shutil.copytree("runs/two", "runs/three")
    assert status("report", "runs/one", "runs/two", "runs/three") == 0
    page = pathlib.Path("runs/one/compared.html").read_text()
    assert "one, two and three" in page and page.count("<th>three</th>") == 1
    assert status("report", "runs/two", "--output", "page.html") == 0 and pathlib.Path("page.html").exists()


@pytest.mark.parametrize(
    "argv, message",
    [
        (["runs"], "there is no folder runs"),
        (["report", "runs/nowhere"], "runs/nowhere is no run: it has no metrics.jsonl"),
        (["new", "notes.txt"], "notes.txt must end in .py"),
        (["new", "nowhere/my.py"], "nowhere/my.py cannot be written: No such file"),
        (["rum"], "there is no command 'rum'. Did you mean run?"),
    ],
)
def test_mistakes(here, capsys, argv, message):
    assert status(*argv) == 2
    assert message in capsys.readouterr().err


def test_a_new_experiment_runs_as_it_stands(here, capsys):
    assert status("new", "mine.py") == 0 and "python mine.py" in capsys.readouterr().out
    assert status("new", "mine.py") == 2 and "mine.py exists already" in capsys.readouterr().err
    text = pathlib.Path("mine.py").read_text()
    assert "my_experiment" not in text and "python mine.py compare" in text
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(fnbackprop.__file__).parents[1])}
    done = subprocess.run([sys.executable, "mine.py"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    [losses] = [line for line in done.stdout.splitlines() if line.startswith("waves  step 1000  evaluate: test_loss ")]
    assert float(losses.split()[-1]) < 0.02
    assert status("train", "mine.py", "--help") == 0
    assert "\n    python mine.py compare  " in capsys.readouterr().out


def test_a_report_that_cannot_be_written_is_one_line(here, capsys):
    (here / "one").mkdir()
    (here / "one/metrics.jsonl").write_text('{"step": 0, "loss": 1.0}\n')
    assert status("report", "one", "--output", "one/metrics.jsonl/page.html") == 1
    said = capsys.readouterr().err
    assert said == "fnbackprop: one/metrics.jsonl/page.html cannot be written: its folder is a file.\n"
