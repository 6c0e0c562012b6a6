"""Whether a run of a sweep will have the metric that the runs are sorted by: `python -m`, FILE, METRIC, options.

It is looked at before the first run, by tracing, in a process of its own: the device's memory is the runs'.
"""

import subprocess
import sys
from collections.abc import Sequence

import jax

from ..config_files import with_config_file
from ..experiment import Experiment
from ..experiment_commands import TrainOptions
from ..experiment_files import config_type, load
from ..option_parsing import parse
from ..training.loop import make_step
from ..training.step.state import initial_state
from ..training.trial import try_evaluation
from .points import SweepError

ABSENT = 3  # the exit status that says so: any other mistake is for the runs to tell


def require_metric(file: str, metric: str, words: Sequence[str]) -> None:
    """Raises SweepError if a run with these options will not have the metric."""
    command = [sys.executable, "-m", __name__, file, metric, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == ABSENT:
        raise SweepError(f"no run has the metric {metric!r}; they have {done.stdout.strip().splitlines()[-1]}.")


def metrics_of(experiment: Experiment) -> list[str]:
    """The names of the metrics of a run: those of its steps, then those of its evaluations."""
    state = initial_state(experiment)
    _, metrics = jax.eval_shape(make_step(experiment, "automatic"), state, experiment.batch(0))
    own = [name for name, value in metrics.items() if not jax.tree.leaves(value)[1:]]
    return [*own, *try_evaluation(experiment, state)]


def main(file: str, metric: str, *words: str) -> int:
    make = load(file)
    argv = with_config_file(["train", *words])[1:]
    known = metrics_of(make(parse(config_type(make), TrainOptions, argv, file).config))
    if metric in known:
        return 0
    print(", ".join(dict.fromkeys(known)))
    return ABSENT


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
