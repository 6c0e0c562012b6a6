"""Runs are filtered, sorted and shown with what their configs and metrics hold."""

import json

import pytest

from fnbackprop.cli import main

RUNS = {
    "a": ("finished", 0.1, {"learning_rate": 0.01, "optimizer": {"name": "adam"}}, 0.5),
    "b": ("stopped", 0.3, {"learning_rate": 0.001, "optimizer": {"name": "lion"}}, 0.9),
    "c": ("finished", float("nan"), {"learning_rate": 0.01, "optimizer": {"name": "lion"}}, None),
}


@pytest.fixture
def runs(tmp_path):
    for name, (status, loss, config, accuracy) in RUNS.items():
        (tmp_path / name).mkdir()
        facts = {"name": name, "status": status, "config": config, "seed": 0, "began": "2026-01-01T10:00:00+00:00"}
        (tmp_path / name / "run.json").write_text(json.dumps(facts))
        rows = [{"step": 4, "loss": None if loss != loss else loss}]
        rows += [] if accuracy is None else [{"step": 5, "evaluate/accuracy": accuracy}]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path)


@pytest.mark.parametrize("words, names", [
    ("", "abc"), ("--sort +accuracy", "bac"), ("--sort loss", "abc"), ("--sort +loss", "bac"),
    ("--where learning-rate=1e-2", "ac"), ("--where learning_rate=0.01 optimizer.name=lion", "c"),
    ("--where status=stopped", "b"), ("--sort optimizer.name", "abc"),
])  # fmt: skip
def test_which_runs_in_which_order(runs, words, names, capsys):
    assert main(["runs", runs, *words.split()]) == 0
    assert "".join(line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]) == names


def test_columns_and_json(runs, capsys):
    assert main(["runs", runs, "--columns", "learning-rate", "accuracy"]) == 0
    head, first, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == "run status step loss learning-rate accuracy evaluation began".split()
    assert first.split() == ["a", "finished", "5", "0.1", "0.01", "0.5", "2026-01-01", "10:00"]
    assert main(["runs", runs, "--json", "--sort", "loss"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["run"] for run in found] == ["a", "b", "c"] and found[2]["loss"] is None
    assert found[1]["config"]["optimizer.name"] == "lion" and found[1]["metrics"]["evaluate/accuracy"] == 0.9


def test_the_evaluation_comes_before_a_training_metric_of_its_name(tmp_path, capsys):
    for name, trained, evaluated in (("a", 0.9, 0.5), ("b", 0.8, 0.7)):
        (tmp_path / name).mkdir()
        rows = {"step": 4, "loss": 1.0, "accuracy": trained}, {"step": 5, "evaluate/accuracy": evaluated}
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["runs", str(tmp_path), "--sort", "+accuracy", "--columns", "accuracy"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [(row[0], row[-1]) for row in rows] == [("b", "0.7"), ("a", "0.5")]


def test_a_run_without_a_step_has_no_loss(tmp_path, capsys):
    (tmp_path / "run.json").write_text(json.dumps({"name": "a", "status": "stopped"}))
    assert main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [".", "stopped", "0"]


@pytest.mark.parametrize("words, message", [
    ("--where status", "--where takes NAME=VALUE"), ("--sort size", "no run has 'size'; they have run, status, step"),
    ("--columns width", "no run has 'width'"),
])  # fmt: skip
def test_what_no_run_has(runs, words, message, capsys):
    assert main(["runs", runs, *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_where_no_run_has_a_value_those_that_there_are_are_named(runs, capsys):
    assert main(["runs", runs, "--where", "status=finish", "learning-rate=0.01"]) == 0
    said = capsys.readouterr().out
    assert said == f"no runs like these in {runs}: status is finished, stopped; learning-rate is 0.01, 0.001\n"
    assert main(["runs", runs, "--where", "status=finish", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
