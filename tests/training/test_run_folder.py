"""What is read from a run's folder, also after a kill or damage."""

import json
import os
import socket
import sys

import pytest

from fnbackprop.training.loop import train
from fnbackprop.training.run_folder import RunFolder, find_runs, has_step, is_alive, read_metrics, step_of, write_json
from tests.training.record.test_run_description import line


def test_a_killed_run_is_told_from_one_that_lives(tmp_path):
    train(line(), directory=tmp_path, progress=False)
    path = tmp_path / "line" / "run.json"
    facts = json.loads(path.read_text()) | {"status": "running"}
    for process, status in ((os.getpid(), "running"), (2**22 + 1, "killed")):  # above the largest process id
        path.write_text(json.dumps(facts | {"process": facts["process"] | {"id": process}}))
        assert RunFolder(tmp_path / "line").read_description()["status"] == status
    path.write_text("{")
    assert RunFolder(tmp_path / "line").read_description() == {"name": "line", "status": "unknown"}


def test_on_windows_no_signal_is_sent_to_a_run(monkeypatch):
    """There, signal 0 is Ctrl-C."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "kill", None)
    assert is_alive({"id": 2**22 + 1, "host": socket.gethostname()})


def test_missing_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_metrics(tmp_path / "nowhere")


def test_json_is_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": [1, object()]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}


def test_names_of_steps(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (0, 40, 123_456_789):
        assert step_of(folder.checkpoint(step)) == step_of(folder.nonfinite_batch(step)) == step
    for other in ("damaged_step_00000040", "step_", "step_00000040.tmp", "step_x", "run.json"):
        assert not has_step(tmp_path / other)


def test_runs_are_found_by_either_file(tmp_path):
    for name, file in (("b", "run.json"), ("a/c", "metrics.jsonl"), ("d", "curves.svg")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / file).touch()
    assert find_runs(tmp_path) == [RunFolder(tmp_path / "a" / "c"), RunFolder(tmp_path / "b")]
    assert RunFolder(tmp_path / "b").read_metrics() == []


def test_bad_lines_are_left_out_and_counted(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 0, "loss": 1.0}\nnonsense\n[1]\n{"loss": 2}\n{"step": 1, "loss": null}\n{"ste'
    )
    with pytest.warns(UserWarning, match="metrics.jsonl: 3 lines are no records, and are left out"):
        rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [0, 1] and RunFolder(tmp_path).read_records()[1] == 3
    (tmp_path / "run.json").write_text("[]")
    assert RunFolder(tmp_path).read_description()["status"] == "unknown"
