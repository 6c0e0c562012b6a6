"""A sweep of two runs: the table and the page name the best; the same command goes on with what is not finished."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from fnbackprop.cli import main
from fnbackprop.sweeping import processes
from fnbackprop.sweeping.metric_check import ABSENT

FILE = """
import dataclasses
import fnbackprop as fb

@dataclasses.dataclass(frozen=True)
class Config:
    rate: float = 0.1
    steps: int = 4

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

    def run(command, stdout=None, **settings):
        if stdout is None:  # which metrics the runs will have
            known = ["loss", "size"]
            return SimpleNamespace(returncode=0 if command[4] in known else ABSENT, stdout=", ".join(known))
        words = command[command.index("train") :]
        commands.append(words)
        rate, folder = float(words[words.index("--rate") + 1]), Path(words[words.index("--directory") + 1]) / "line"
        if rate > 0.3 and not Path("allowed").exists():
            stdout.write("not yet\n")
            return SimpleNamespace(returncode=1)
        folder.mkdir(exist_ok=True)
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
    ("--rate 0.1,0.2 --metric size2 --mode max", "no run has the metric 'size2'; they have loss, size"),
    ("--rate 0.1,0.2 --metric size", "the name 'size' does not tell whether the highest or the lowest is best"),
    ("--rate 0.1,0.2 --name a/b", "usable as the name of a folder"),
])  # fmt: skip
def test_what_is_no_sweep(trained, words, message, capsys):
    assert main(["sweep", "line.py", *words.split()]) == 2
    assert message in capsys.readouterr().err
    assert trained == [] and not Path("runs").exists()


@pytest.mark.parametrize(
    "words", ["--rat 0.1,0.2", "--rate 0.1,x", "--rate 0.1,0.2 --stps 3", "--rate 0.1,0.2 --keep x"]
)
def test_a_mistake_in_an_option_is_told_before_anything_runs(trained, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "line.py", *words.split()])
    assert ended.value.code == 2 and trained == [] and not Path("runs").exists()


@pytest.mark.parametrize("change, named", [
    ("--steps 9", "config.steps: 4 there, 9 now"), ("--backward automatic", "options.backward: manual there"),
    ("edited", "code of line.py: "),
])  # fmt: skip
def test_results_of_other_settings_are_not_ranked_together(trained, tmp_path, change, named, capsys):
    first = "sweep line.py --rate 0.1,0.2".split()
    assert main(first) == 0
    again = ["sweep", "line.py", "--rate", "0.1,0.3", *([] if change == "edited" else change.split())]
    (tmp_path / "line.py").write_text(f"# another comment\n{FILE}")
    assert main(first) == 0 and len(trained) == 2
    if change == "edited":
        (tmp_path / "line.py").write_text(FILE.replace("NotImplementedError", "ValueError"))
    page, there = tmp_path / "runs/line-sweep/sweep.html", sorted(tmp_path.rglob("*"))
    written = page.read_bytes()
    capsys.readouterr()
    assert main(again) == 2
    said = capsys.readouterr().err
    assert "rate=0.1 was trained with other settings" in said and named in said and "--name NAME" in said
    assert len(trained) == 2 and page.read_bytes() == written and sorted(tmp_path.rglob("*")) == there
    assert main([*again, "--name", "other"]) == 0 and len(trained) == 4  # a folder of its own
    assert main([*again, "--new-config"]) == 0 and len(trained) == 5  # what is there as it is


def test_a_run_that_left_nothing_begins_with_other_settings(trained, capsys):
    assert main("sweep line.py --rate 0.4,0.5".split()) == 1
    assert capsys.readouterr().out.count("failed") == 2
    Path("allowed").touch()
    assert main("sweep line.py --rate 0.4,0.5 --steps 9".split()) == 0
    assert main("sweep line.py --rate 0.4,0.5".split()) == 2  # which they now have


def test_the_help_says_what_else_is_taken(trained, capsys):
    with pytest.raises(SystemExit):
        main("sweep line.py --help".split())
    assert "of the experiment and of train, which fnbackprop train line.py --help lists" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_folder_that_cannot_be_made_is_one_line(trained, capsys):
    assert main("sweep line.py --rate 0.1,0.2 --directory line.py".split()) == 1
    said = capsys.readouterr().err
    assert said.startswith("fnbackprop: line.py/line-sweep/rate=0.1/settings.json cannot be written: ")
    assert said.count("\n") == 1 and trained == []
