"""The commands on an experiment: `train`, `balance`, `replay`, `trace`, `compare` and `memory`, with their options."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fnbackprop.balancing.command import BalanceOptions
from fnbackprop.commands import CommandError, arguments_of
from fnbackprop.comparing.command import ReportOptions
from fnbackprop.experiment import Experiment, ExperimentError
from fnbackprop.memory_command import MemoryOptions
from fnbackprop.tracing.command import TraceOptions

_ALSO_LOG = tyro.conf.arg(aliases=["--log"])


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Options of `train` besides those of the experiment: keywords of `training.loop.train`."""

    backward: Literal["manual", "automatic", "both"] = "manual"
    """Who does the backward pass: this package, or jax.grad; both: this package, and jax.grad compares now and then."""
    fuse: bool = False
    """Run blocks where the loss writes out attention or cross-entropy in plain JAX; it is told where."""
    compare_every: int = 100
    """Steps between two comparisons of --backward both."""
    balance_every: int | None = None
    """Steps between two measurements of overshoot and batch sharpness; the run then tells of spikes, too."""
    watch: int = 0
    """Steps between two looks at the sizes of named values, of scanned layers' carries, and of their cotangents."""
    mesh: str | None = None
    """The devices to train on, data=4,model=2 for instance; what lies where is the experiment's sharding."""
    distributed: bool = False
    """This is one of several processes; so it is without this option where JAX_COORDINATOR_ADDRESS is set."""
    name: str | None = None
    """Names the run, in the place of the experiment's own name."""
    directory: Path = Path("runs")
    """Where the run's folder is made."""
    prefetch: int = 2
    """How many batches are made ahead; 0 makes each when its step begins."""
    profile: bool = False
    """Time some steps and trace a few of them, for https://ui.perfetto.dev."""
    loggers: Annotated[tuple[Literal["tensorboard", "wandb", "mlflow", "aim", "csv"], ...], _ALSO_LOG] = ()
    """Hand the metrics to these too; all but csv need the extra of their name."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints; None: ten minutes. The last step has one too; 0: none at all."""
    keep: int | None = 3
    """How many of the last checkpoints are kept."""
    keep_every: int | None = None
    """Also write one at every so-many-th step, and keep it for good."""
    best: str | None = None
    """Keep the best checkpoint too, by this metric of the evaluation."""
    best_mode: Literal["max", "min"] | None = None
    """Whether the highest or the lowest is best; None: what the metric's name says, min of a loss or an error."""
    resume: bool = False
    """Go on with the newest run of this name, from its last checkpoint that is whole, if there is one."""
    overwrite: bool = False
    """Begin anew in the folder of the newest run of this name, and throw away what it holds."""
    new_config: bool = False
    """Resume with other options or data than the run began with."""
    patience: int | None = None
    """End after so many evaluations on end in which the metric of --best was not better."""
    trial: bool = True
    """Try an evaluation and a small checkpoint before the first step."""
    batch_timeout: float = 1800.0
    """Of several processes: the seconds that one may take for a batch, before all are ended."""


@dataclasses.dataclass(frozen=True)
class ReplayOptions:
    """Options of `replay` besides those of the experiment: keywords of `training.replaying.replay`."""

    step: int | None = None
    """Which step; by default the last whose loss was not finite."""
    name: str | None = None
    """Of the run, if it was trained with --name."""
    directory: Path = Path("runs")
    """The run's own folder; or where the runs are, for the newest of this name."""
    backward: Literal["manual", "fused", "automatic"] = "manual"
    """Who did the backward pass: this package, the same with --fuse, or jax.grad."""


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Options of `export` besides those of the experiment."""

    name: str | None = None
    """Of the run, if it was trained with --name."""
    directory: Path = Path("runs")
    """The run's own folder; or where the runs are, for the newest of this name that has a checkpoint."""
    step: int | None = None
    """Of which checkpoint; by default the newest."""
    best: str | None = None
    """Instead, of the one that is best by this metric of the evaluation."""
    best_mode: Literal["max", "min"] | None = None
    """Whether the highest or the lowest is best; None: what the metric's name says, min of a loss or an error."""
    output: Path | None = None
    """The folder to write; by default exported/<the run's folder>, exported/waves-2 for instance."""
    overwrite: bool = False
    """Write where there is an export already."""
    platforms: tuple[Literal["cpu", "cuda", "rocm", "tpu"], ...] = ()
    """For which the program is made; by default this machine's."""


@dataclasses.dataclass(frozen=True)
class CompareOptions(ReportOptions):
    """Options of `compare` besides those of the experiment."""

    update: str | None = None
    """Of an experiment with several updates, the one of this name; by default, all of them."""

    after: int = 0
    """Train so many steps first: initial biases of zero may sit on a kink."""


@dataclasses.dataclass(frozen=True)
class ExperimentTraceOptions(TraceOptions):
    """Options of `trace` besides those of the experiment."""

    update: str | None = None
    """Of an experiment with several updates, the one of this name; by default, all of them."""

    after: int = 0
    """Train so many steps first."""
    step: int | None = None
    """A step of the newest run: from its last checkpoint before it, with the run's own batches."""
    replay: bool = False
    """The step whose batch was kept because a number was not finite; with --step, that one."""
    name: str | None = None
    """Of the run, if it was trained with --name."""
    directory: Path = Path("runs")
    """The run's own folder; or where the runs are, for the newest of this name."""


@dataclasses.dataclass(frozen=True)
class Command:
    """One command on an experiment.

    Attributes:
      run: `run(experiment, options) -> exit status`.
      options: the dataclass of its own options.
      help: one line.
    """

    run: Callable[[Experiment, Any], int]
    options: type
    help: str


def train_command(experiment: Experiment, options: TrainOptions) -> int:
    from fnbackprop.training.loop import train

    train(experiment, **_keywords(options))
    return 0


def balance_command(experiment: Experiment, options: BalanceOptions) -> int:
    from fnbackprop.balancing.command import show
    from fnbackprop.training.balancing import balance
    from fnbackprop.training.checkpoints.resuming import load_checkpoint

    fine = True
    parts = _chosen_parts(experiment, options)
    for step, update in ((step, update) for step in options.at or (None,) for update in parts):
        state = None if step is None else load_checkpoint(experiment, directory=options.directory, step=step)
        settings = {"check": options.check, "range_test": options.range_test, "mesh": options.mesh}
        found = balance(experiment, state=state, update=update or None, **settings)
        show(found, options, experiment.config, arguments_of)
        fine = fine and found.ok
    return 0 if fine else 1


def replay_command(experiment: Experiment, options: ReplayOptions) -> int:
    from fnbackprop.training.replaying import replay

    print(replay(experiment, **_keywords(options)))
    return 0


def export_command(experiment: Experiment, options: ExportOptions) -> int:
    from fnbackprop.training.best import best_mode_of, in_words
    from fnbackprop.training.checkpoints.resuming import choose_checkpoint, state_of
    from fnbackprop.training.exporting import PROGRAM, export_model

    which = {name: getattr(options, name) for name in ("directory", "step", "best", "best_mode")}
    chosen = choose_checkpoint(experiment.name, **which)
    run = chosen.folder.parents[1]
    folder = options.output or Path("exported") / run.resolve().name
    if (folder / PROGRAM).exists() and not options.overwrite:
        raise CommandError(f"{folder} holds an export already: give another folder, --output, or --overwrite.")
    export_model(experiment, state_of(experiment, chosen), folder, platforms=options.platforms)
    best = f", of the {in_words(best_mode_of(options.best, options.best_mode))} {options.best}," if options.best else ""
    print(f"the model of {run} after {chosen.step} steps{best} is in {folder}: from use import predict")
    return 0


def compare_command(experiment: Experiment, options: CompareOptions) -> int:
    from fnbackprop.comparing.command import report
    from fnbackprop.comparing.pipeline import compare
    from fnbackprop.tracing.command import tell_origin

    arguments, status = _arguments_after(experiment, options.after), 0
    for name, part in _chosen_parts(experiment, options).items():
        if name:
            print(f"update {name}:")
        found = compare(part.loss, *arguments, **options.settings())
        status = max(status, report(found, options))
        tell_origin(found, part.loss, *arguments)
    return status


def memory_command(experiment: Experiment, options: MemoryOptions) -> int:
    from fnbackprop.comparing.command import weighted_loss
    from fnbackprop.memory_command import report

    return report(weighted_loss(experiment.loss), experiment.arguments(0), (0,), options.fit)


def trace_command(experiment: Experiment, options: ExperimentTraceOptions) -> int:
    from fnbackprop.tracing.command import show
    from fnbackprop.tracing.pipeline import trace

    if options.step is None and not options.replay:
        arguments, status = _arguments_after(experiment, options.after), 0
        for name, part in _chosen_parts(experiment, options).items():
            if name:
                print(f"update {name}:")
            found = trace(part.loss, *arguments, **options.settings())
            status = max(status, show(found, options))
        return status
    if options.after:
        raise ExperimentError("--after trains a new run; --step and --replay take a step of one that was trained.")
    from fnbackprop.training.replaying import step_again

    again = step_again(experiment, step=options.step, directory=options.directory, kept=options.replay)
    print(f"step {again.step}, run again from step {again.start}")
    return show(trace(again.loss, *again.arguments, **options.settings()), options)


def _keywords(options: Any) -> dict[str, Any]:
    """The options that are keywords of the function which a command runs: without those that the command line heeds."""
    return {field: value for field, value in vars(options).items() if field not in ("distributed", "name")}


def _chosen_parts(experiment: Experiment, options: Any) -> dict[str, Experiment]:
    """The updates that a command looks at; a file that it writes is of one."""
    parts = experiment.parts
    if options.update is not None:
        if options.update not in experiment.parts:
            listed = ", ".join(parts) if experiment.updates else "none"
            raise ExperimentError(f"{experiment.name} has no update {options.update!r}; its updates are: {listed}.")
        parts = {options.update: parts[options.update]}
    if len(parts) > 1 and (options.json or options.html):
        raise ExperimentError(f"a file is written for one update: add --update {next(iter(parts))}, for instance.")
    return parts


def _arguments_after(experiment: Experiment, steps: int) -> tuple[Any, ...]:
    """The arguments of the loss after this number of training steps."""
    arguments = experiment.arguments(steps)
    if not steps:
        return arguments
    from fnbackprop.training.loop import train

    state = train(experiment, steps=steps, directory=None, progress=False)
    return experiment.loss_arguments(state.params, *arguments[-2:], state.model_state)


COMMANDS = {
    "train": Command(train_command, TrainOptions, "train, and write metrics, curves and a report to runs/<name>/"),
    "balance": Command(balance_command, BalanceOptions, "is the learning rate too high, too low or balanced, and why"),
    "export": Command(export_command, ExportOptions, "write the trained model as a program that needs only JAX"),
    "replay": Command(replay_command, ReplayOptions, "run the step again whose loss was NaN or infinite"),
    "trace": Command(trace_command, ExperimentTraceOptions, "find the line where a number became NaN or infinite"),
    "memory": Command(memory_command, MemoryOptions, "what the backward saves by line; what a budget costs and brings"),
    "compare": Command(compare_command, CompareOptions, "compare manual, automatic and numeric gradients"),
}
