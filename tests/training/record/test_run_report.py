"""The page of a run: all that it needs is in it, and two runs stand side by side."""

import html.parser
import json
import os
import re

import pytest

from fnbackprop.training.record.run_report import write_run_report
from fnbackprop.training.run_folder import RunFolder


class Page(html.parser.HTMLParser):
    """Checks that tags are closed, and collects what a browser would load and the rows of tables."""

    def __init__(self, text):
        super().__init__()
        self.open, self.loaded, self.marked = [], [], 0
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.loaded += [found[name] for name in ("src", "href", "xlink:href") if name in found]
        self.marked += found.get("class") == "differs"
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def run(tmp_path):
    """Makes a run's folder."""

    def make(name, scale=1.0, **facts):
        folder = tmp_path / name
        folder.mkdir()
        records = [{"step": i, "loss": scale / (i + 1), "gradient_norm/a & b": scale} for i in range(5)]
        records.append({"step": 5, "evaluate/accuracy": 0.75})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        (folder / "run.json").write_text(json.dumps({"name": name, "status": "finished", "seconds": 61.0} | facts))
        return folder

    return make


def test_one_run(run, tmp_path):
    folder = run("one", config={"text": "<script>"}, command="python my.py", environment={"jax": "0.0"})
    leaf = {"path": "w", "verdict": "PASS", "norm": 1.25, "error": 1e-7, "allowed": None}
    (folder / "comparison.json").write_text(json.dumps({"verdict": "PASS", "ok": True, "leaves": [leaf]}))
    text = write_run_report([RunFolder(folder)], tmp_path / "page.html").read_text()
    page = Page(text)
    assert all(link.startswith(("#", "data:")) for link in page.loaded)
    assert "&lt;script&gt;" in text and "<script>" not in text
    for shown in ("1:01", ">0.75<", "python my.py", "a &amp; b", "PASS, the manual gradient", ">1.25<", ">1e-07<"):
        assert shown in text, shown
    assert text.count("<svg") == 2 and page.marked == 0  # the loss, and the layers; a single evaluation is no curve


def test_a_metric_of_the_loss_and_one_of_evaluate_have_two_labels(run, tmp_path):
    folder = run("one")
    rows = [{"step": step, "loss": 1.0, "accuracy": 0.5} for step in range(2)]
    rows += [{"step": step, "evaluate/accuracy": 0.75} for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = write_run_report([RunFolder(folder)], tmp_path / "page.html").read_text()
    assert "<td>accuracy (evaluate)</td><td>0.75</td>" in text
    assert text.count("<svg") == 3, "the loss, and two curves"
    for label in ("accuracy", "accuracy (evaluate)"):
        assert text.count(f">{label}</text>") == 1, label


def test_a_comparison_says_what_it_is_of(run, tmp_path):
    """A rule that is wrong is named, and what was compared before the run is not taken for the run's own."""
    folder = run("one", began="2026-01-02T03:04:05+00:00", status="stopped", error="GradientMismatch: FAIL\na table")
    leaf = {"path": "w", "verdict": "FAIL", "norm": 1.25, "error": 0.5, "allowed": 1e-6, "largest": 2e-7}
    wrong = {"primitive": "tanh", "where": "my.py:3:8 (loss)", "reason": "a factor <2> is missing"}
    found = {"verdict": "FAIL", "ok": False, "leaves": [leaf], "equations": [wrong], "steps": [3, 6, 9]}
    (folder / "comparison.json").write_text(json.dumps(found))
    text = write_run_report([RunFolder(folder)], tmp_path / "page.html").read_text()
    Page(text)
    assert ">stopped: GradientMismatch: FAIL<" in text
    assert "automatic one at step 3, and held to that at 2 later steps, the last 9:" in text and ">2e-07<" in text
    assert "first wrong equation: tanh my.py:3:8 (loss): a factor &lt;2&gt; is missing" in text
    os.utime(folder / "comparison.json", (0, 0))
    assert (
        "at step 3 before this run began, and"
        in write_run_report([RunFolder(folder)], tmp_path / "page.html").read_text()
    )


def test_two_runs_side_by_side(run, tmp_path):
    folders = [run("one", config={"rate": 1, "width": 3}), run("two", 2.0, config={"rate": 2, "width": 3})]
    text = write_run_report([RunFolder(folder) for folder in folders], tmp_path / "page.html").read_text()
    page = Page(text)
    assert "<h1>one and two</h1>" in text and text.count("<svg") == 3
    assert page.marked == 2  # the last loss and the rate
    assert text.count("fnbackprop compare FILE --json") == 2


def test_the_command_that_compares_names_the_file_and_the_speed_is_told_in_both_ways(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = run("one", file=str(tmp_path / "my exp.py"), seconds=100.0, batch={"count": 8, "unit": "examples"})
    times = [{"step": 0, "seconds": 90.0}, {"step": 50, "seconds": 95.0}]
    (folder / "times.jsonl").write_text("".join(json.dumps(row) + "\n" for row in times))
    text = write_run_report([RunFolder(folder)], tmp_path / "page.html").read_text()
    assert "fnbackprop compare &#x27;my exp.py&#x27; --json" in text
    assert re.search(r">80 examples/s after the first step; [^<]* examples/s over the whole time<", text)


def test_a_run_without_metrics(run, tmp_path):
    folder = run("one")
    (folder / "metrics.jsonl").unlink()
    Page(write_run_report([RunFolder(folder)], tmp_path / "page.html").read_text())
