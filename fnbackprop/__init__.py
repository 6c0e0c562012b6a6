"""Backprop written out by hand for every JAX primitive: a drop-in for `jax.grad`, and a training framework.

The words of this reference:

- *forward pass*: computing the output from the input; *loss*: one number that says how far off the output is;
- *derivative*: how much an output moves when an input moves by a little; *gradient*: the derivatives of the loss with
  respect to all parameters; *chain rule*: the derivative of one function after another is the product of theirs;
- *cotangent*: of a value in the program, the derivative of the loss with respect to it, of the same shape and dtype;
  *backward pass*: computing cotangents from the loss back to the parameters; *pullback*: a function that does so;
- *residual*: a value that the forward pass keeps because the backward pass reads it; *budget*: how many bytes of them;
- *rule*: the backward of one primitive, the operations that JAX's programs (jaxprs) are made of, as *equations*;
- *learning rate*: the factor of a step against the gradient; *convergence*, *divergence*: the loss settles, or grows;
- *pytree*: arrays in nested dicts, lists and tuples; *leaf*: one of these arrays; *kink*: a point without a derivative.
"""

import importlib
from typing import TYPE_CHECKING

from . import rules as rules  # registers every rule
from .backprop.coverage import coverage
from .backprop.drop_in import drop_in
from .backprop.implicit import implicit
from .backprop.memory.budget_search import fit_budget
from .backprop.memory.residual_report import residuals
from .backprop.memory.save_policy import BudgetError
from .backprop.missing_rule import MissingRule
from .backprop.pullback import vjp
from .backprop.registry import derivative, nondifferentiable, vjp_rule
from .backprop.tape import ConstantWarning
from .backprop.transforms import grad, hessian, jacrev, value_and_grad
from .blocks.attention import attention
from .blocks.block import block
from .blocks.fusing.fusions import fusions
from .blocks.gated import geglu, swiglu
from .blocks.linear_cross_entropy import linear_cross_entropy
from .blocks.norms import layer_norm, rms_norm
from .deprecation import RENAMED, current_name
from .extras import MissingExtra, missing_modules
from .jaxprs.tested_versions import UntestedVersionWarning
from .rules.calls.foreign import ForeignDerivativeWarning
from .rules.loops.decisions import DecidedLoopWarning
from .version import __version__ as __version__

if TYPE_CHECKING:
    from . import lora, testing
    from .balancing.layers import scale_by_layer
    from .balancing.result import Balance
    from .cli import run
    from .comparing.comparison import Comparison, GradientMismatch
    from .comparing.pipeline import compare
    from .comparing.results import Verdict
    from .experiment import Experiment, ExperimentError
    from .media import Histogram, Image, Text
    from .tracing.named_grad import named_grad
    from .tracing.names import name
    from .tracing.pipeline import trace
    from .tracing.products import chain_rule
    from .tracing.result import Trace
    from .tracing.watching import watch
    from .training import loggers
    from .training.balancing import balance
    from .training.checkpoints.resuming import load_checkpoint
    from .training.errors import CheckpointError, NonFiniteLoss, RunError
    from .training.evaluating import EvaluationContext
    from .training.exporting import export_model
    from .training.loop import train
    from .training.parameters import load_parameters, save_parameters
    from .training.replaying import Replay, replay
    from .training.run_folder import read_metrics
    from .training.step.mixed_precision import Precision
    from .training.step.optimizers import Optimizer
    from .training.step.state import TrainState
    from .updates import Update

__all__ = [
    "Balance",
    "BudgetError",
    "CheckpointError",
    "Comparison",
    "ConstantWarning",
    "DecidedLoopWarning",
    "EvaluationContext",
    "Experiment",
    "ExperimentError",
    "ForeignDerivativeWarning",
    "GradientMismatch",
    "Histogram",
    "Image",
    "MissingExtra",
    "MissingRule",
    "NonFiniteLoss",
    "Optimizer",
    "Precision",
    "Replay",
    "RunError",
    "Text",
    "Trace",
    "TrainState",
    "UntestedVersionWarning",
    "Update",
    "Verdict",
    "attention",
    "balance",
    "block",
    "chain_rule",
    "compare",
    "coverage",
    "derivative",
    "drop_in",
    "export_model",
    "fit_budget",
    "fusions",
    "geglu",
    "grad",
    "hessian",
    "implicit",
    "jacrev",
    "layer_norm",
    "linear_cross_entropy",
    "load_checkpoint",
    "load_parameters",
    "loggers",
    "lora",
    "name",
    "named_grad",
    "nondifferentiable",
    "read_metrics",
    "replay",
    "residuals",
    "rms_norm",
    "run",
    "save_parameters",
    "scale_by_layer",
    "swiglu",
    "testing",
    "trace",
    "train",
    "value_and_grad",
    "vjp",
    "vjp_rule",
    "watch",
]

# Imported when first used: what training, comparing and plotting need is slow to import.
_LATER = {
    "compare": "comparing.pipeline",
    "Comparison": "comparing.comparison",
    "GradientMismatch": "comparing.comparison",
    "Verdict": "comparing.results",
    "balance": "training.balancing",
    "Balance": "balancing.result",
    "scale_by_layer": "balancing.layers",
    "name": "tracing.names",
    "named_grad": "tracing.named_grad",
    "trace": "tracing.pipeline",
    "watch": "tracing.watching",
    "Trace": "tracing.result",
    "chain_rule": "tracing.products",
    "EvaluationContext": "training.evaluating",
    "Experiment": "experiment",
    "ExperimentError": "experiment",
    "train": "training.loop",
    "TrainState": "training.step.state",
    "Histogram": "media",
    "Image": "media",
    "Text": "media",
    "Update": "updates",
    "Optimizer": "training.step.optimizers",
    "Precision": "training.step.mixed_precision",
    "NonFiniteLoss": "training.errors",
    "RunError": "training.errors",
    "CheckpointError": "training.errors",
    "load_checkpoint": "training.checkpoints.resuming",
    "export_model": "training.exporting",
    "load_parameters": "training.parameters",
    "loggers": "training",
    "save_parameters": "training.parameters",
    "replay": "training.replaying",
    "Replay": "training.replaying",
    "read_metrics": "training.run_folder",
    "run": "cli",
    "lora": "lora",
    "testing": "testing",
}

if not TYPE_CHECKING:  # a type checker that saw it would accept every name

    def __getattr__(name: str):
        if name in RENAMED:
            return getattr(importlib.import_module(__name__), current_name(name))
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            module = importlib.import_module(f".{_LATER[name]}", __name__)
        except MissingExtra as error:
            raise error.with_traceback(None) from None  # without the way through our files
        value = module if name == _LATER[name] else getattr(module, name)
        globals()[name] = value
        return value


def __dir__():
    """The public names but those that could not be loaded: `help(fnbackprop)` loads each."""
    hidden = ("training", "balancing.layers") if missing_modules("train") else ()
    special = [name for name in globals() if name.startswith("__")]
    return sorted([*special, *(name for name in __all__ if not _LATER.get(name, "").startswith(hidden))])
