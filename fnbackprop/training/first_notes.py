"""What a run says once it has its first batch: which checkpoint is kept as the best, what keeps its dtype, and what
runs as a block."""

from typing import Any

import jax

from fnbackprop.blocks.fusing.fusions import fusions

from .best import in_words
from .run import Run
from .step.loss_gradient import first_microbatch, loss_in_precision
from .step.mixed_precision import precision_of, uncast_note
from .step.state import TrainState, part_of


def first_notes(run: Run, state: TrainState, batch: Any) -> list[str]:
    """Lines to be shown, at the first step of a run."""
    notes = [f"{run.name}: best is the {in_words(run.best_direction)} {run.best}"] if run.best is not None else []
    note = uncast_note(batch, precision_of(run.experiment.precision))
    notes += [] if note is None else [note]
    return [*notes, *_fused(run, state, batch)] if run.fuse else notes


def _fused(run: Run, state: TrainState, batch: Any) -> list[str]:
    """What `fuse=True` finds in the losses; an own step or gradient may have others, which are not looked at."""
    lines = []
    for update, part in run.experiment.parts.items():
        own = part_of(state, update)
        rows = first_microbatch(batch, part.accumulate) if part.accumulate > 1 else batch
        key = jax.random.fold_in(own.key, own.step)
        loss = loss_in_precision(part, precision_of(part.precision))
        found = fusions(loss, own.params, rows, key, own.model_state)
        name = f"{run.name}, update {update}" if update else run.name
        what = list(dict.fromkeys(map(str, found))) or ["its loss holds neither attention nor linear + cross-entropy"]
        lines += [f"{name}: fuse: {line}" for line in what]
    return lines
