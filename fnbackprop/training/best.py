"""Which value of a metric is the best one: one rule for `best`, `patience`, `export --best` and `sweep --metric`."""

import re
from typing import Literal

from fnbackprop.experiment import ExperimentError

BestMode = Literal["max", "min"]
LOWEST = (
    *("loss", "losses", "error", "errors", "err", "perplexity", "ppl", "nll", "mse", "rmse", "mae", "wer", "cer"),
    *("entropy", "divergence", "kl", "distance", "regret", "fid", "bpb", "bpc"),
)
HIGHEST = (
    *("accuracy", "acc", "precision", "recall", "f1", "auc", "auroc", "score", "reward", "return", "iou", "dice"),
    *("bleu", "rouge", "psnr", "ssim"),
)


def best_mode_of(metric: str, mode: BestMode | None = None) -> BestMode:
    """Whether the highest ("max") or the lowest ("min") value is best: the given mode, or what the name says.

    Raises:
      ExperimentError: the mode is another word, or there is none and the name does not tell.

    >>> best_mode_of("test_loss"), best_mode_of("top5/accuracy"), best_mode_of("size", "max")
    ('min', 'max', 'max')
    """
    if mode is not None:
        if mode not in ("max", "min"):
            raise ExperimentError(f'best_mode must be "max" or "min", not {mode!r}.')
        return mode
    words = set(re.split("[^a-z0-9]+", metric.lower()))
    lowest, highest = bool(words & set(LOWEST)), bool(words & set(HIGHEST))
    if lowest == highest:
        raise ExperimentError(
            f"the name {metric!r} does not tell whether the highest or the lowest is best: say so, "
            'best_mode="min" or best_mode="max" (--best-mode; of a sweep, --mode).'
        )
    return "min" if lowest else "max"


def in_words(mode: BestMode) -> str:
    return "lowest" if mode == "min" else "highest"
