"""The loggers of a run are handed all it measures and writes; one that fails is told of and left out."""

import pytest

from fnbackprop.experiment import ExperimentError
from fnbackprop.training.loop import train
from tests.training.test_loop import regression


class Kept:
    """Keeps all that it is handed; fails in the method of this name."""

    def __init__(self, fails=""):
        self.fails, self.started, self.logged, self.files, self.status = fails, None, [], [], None

    def _fail(self, method):
        if method == self.fails:
            raise ConnectionError("no network")

    def start(self, run):
        self._fail("start")
        self.started = run

    def log(self, step, values):
        self._fail("log")
        self.logged.append((step, dict(values)))

    def artifact(self, path):
        self.files.append(path.name)

    def finish(self, status):
        self.status = status


def test_all_is_handed_over(tmp_path, capsys):
    one, other = Kept(), Kept(fails="log")
    made = regression(evaluate=lambda params: {"zero": 0.0}, steps=3)
    train(made, directory=tmp_path, loggers=[other, one, "csv"])
    assert one.started.name == "regression" and one.started.step == 0 and one.started.facts["seed"] == 0
    steps = [step for step, values in one.logged if "seconds" not in values]
    assert steps == [0, 1, 2, 3] and len(one.logged) > len(steps), "the times of some steps"
    assert one.logged[0][1]["loss"] > 0 and one.logged[-1][1] == {"evaluate/zero": 0.0}
    assert one.files == ["curves.svg", "report.html", "model.safetensors"] and one.status == "finished"
    assert capsys.readouterr().out.count("the logger Kept failed in log: no network. The run goes on without it.") == 1
    assert other.status is None and (tmp_path / "regression/metrics.csv").read_text().count("loss") == 3


def test_a_run_that_is_stopped_tells_so_and_needs_no_folder():
    one = Kept()

    def broken(step, state, values):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(regression(), directory=None, progress=False, loggers=[one], callbacks=[broken])
    assert one.status == "stopped" and one.started.folder is None and {step for step, _ in one.logged} <= {0}


def test_one_that_cannot_start_ends_the_run_at_once():
    with pytest.raises(ConnectionError):
        train(regression(), directory=None, progress=False, loggers=[Kept(fails="start")])
    with pytest.raises(ExperimentError, match="give train a directory"):
        train(regression(), directory=None, progress=False, loggers=["csv"])
