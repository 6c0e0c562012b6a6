"""A sweep of two runs: the table and the page name the best; the same command goes on with what is not finished."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from fnbackprop.cli import main
from fnbackprop.sweeping import processes

FILE = """
import dataclasses
import fnbackprop as fb

@dataclasses.dataclass(frozen=True)
class Config:
    rate: float = 0.1

def experiment(config: Config) -> fb.Experiment:
    raise NotImplementedError
"""


def last_row(rate):
    """Of the last step: the evaluation's size is not that of the training batch."""
    return {"step": 3, "loss": 1 - rate, "size": 1 - rate, "evaluate/loss": rate, "evaluate/size": rate}


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """The commands that were started; in their place, a run of loss 1 - rate is written, or its process fails."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "line.py").write_text(FILE)
    commands = []

    def run(command, stdout, **settings):
        words = command[command.index("train") :]
        commands.append(words)
        rate, folder = float(words[words.index("--rate") + 1]), Path(words[words.index("--directory") + 1]) / "line"
        if rate > 0.3 and not Path("allowed").exists():
            stdout.write("not yet\n")
            return SimpleNamespace(returncode=1)
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({"name": "line", "status": "finished"}))
        (folder / "metrics.jsonl").write_text(json.dumps(last_row(rate)) + "\n")
        (folder / "report.html").touch()
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(processes.subprocess, "run", run)
    return commands


def test_a_sweep_goes_on_where_it_failed(trained, tmp_path, capsys):
    command = "sweep line.py --rate 0.1,0.4 --steps 4 --parallel 2".split()
    assert main(command) == 1
    said = capsys.readouterr().out
    assert "rate=0.4: exit status 1" in said and "not yet" in said and "rate=0.1: finished" in said
    (tmp_path / "allowed").touch()
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "rate=0.1: finished before" in said and len(trained) == 3
    place = ["--directory", "runs/line-sweep/rate=0.4", "--resume"]
    assert trained[-1] == ["train", "line.py", "--rate", "0.4", "--steps", "4", *place]
    table = [line.split() for line in said.splitlines() if line.startswith(" 0.")]
    assert table == [["0.4", "0.6", "finished"], ["0.1", "0.9", "finished"]]
    page = (tmp_path / "runs/line-sweep/sweep.html").read_text()
    assert page.count("<path d=") == 2 and "<title>rate 0.4: loss 0.6" in page
    assert 'href="rate%3D0.4/line/report.html"' in page


def test_the_best_by_a_metric_of_evaluate(trained, capsys):
    assert main("sweep line.py --rate 0.1:0.3 --random 3 --metric size --mode max".split()) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip().startswith("0.")]
    sizes = [float(row[1]) for row in table]
    assert len(sizes) == 3 and sizes == sorted(sizes, reverse=True)
    assert sizes == pytest.approx([float(row[0]) for row in table], rel=1e-3)  # not the training batch's size


@pytest.mark.parametrize("words, message", [
    ("--steps 4", "nothing is swept"), ("--rate 0.1,0.2 --parallel 0", "at least 1"), ("--rate 1:2", "--random 20"),
    ("--rate 0.1,0.2 --metric size2", "no run has the metric 'size2'; they have loss, size"),
])  # fmt: skip
def test_what_is_no_sweep(trained, words, message, capsys):
    assert main(["sweep", "line.py", *words.split()]) == 2
    assert message in capsys.readouterr().err
