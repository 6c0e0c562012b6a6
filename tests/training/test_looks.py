"""What looks at a run before its steps."""

import pytest

from fnbackprop.training.looks import looks_at
from fnbackprop.training.record.run_log import RunLog
from fnbackprop.training.run import Run
from tests.training.test_loop import regression


@pytest.mark.parametrize(
    "options, kinds",
    [
        ({}, []),
        ({"backward": "both"}, ["GradientCheck"]),
        ({"balance_every": 2, "watch": 3}, ["StepBalance", "WatchSteps"]),
    ],
)
def test_a_run_is_looked_at_as_it_asks(options, kinds):
    run = Run(regression(), directory=None, **options)
    log = RunLog(run.name, None, start=0, stop=1, progress=False)
    assert [type(look).__name__ for look in looks_at(run, run.experiment, "", log, None, None)] == kinds
