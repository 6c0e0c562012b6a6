"""The errors of a run; each message says what is left and what to do."""

from pathlib import Path


class RunError(OSError):
    """A file of a run could not be written or read; it is an OSError.

    Example:
        >>> import fnbackprop as fb
        >>> issubclass(fb.CheckpointError, fb.RunError) and issubclass(fb.RunError, OSError)
        True
    """


class CheckpointError(RunError):
    """A checkpoint could not be written or read, or does not belong to the run; it is a RunError.

    Example:
        >>> import fnbackprop as fb, jax.numpy as jnp, optax
        >>> experiment = fb.Experiment(
        ...     name="never-trained", init=lambda key: jnp.ones(2), batch=lambda step: jnp.ones(2), steps=1,
        ...     loss=lambda params, batch, key: jnp.sum(params * batch), optimizer=optax.sgd(0.1))
        >>> try:
        ...     fb.load_checkpoint(experiment)
        ... except fb.CheckpointError as error:
        ...     print(error)
        runs/never-trained has no checkpoint. The steps that it has: none.
    """


class NonFiniteLoss(FloatingPointError):
    """The loss became NaN or infinite, or the gradient did at every loss scale.

    Attributes:
      facts: what was found, without the advice that the message ends with.
      step: the first at which one of them did: where the gradient broke first, that step, and the loss the next one.
      kept: the file that holds its batch, for a replay; None if there is none.

    Example:
      >>> import fnbackprop as fb, jax.numpy as jnp, optax
      >>> experiment = fb.Experiment(
      ...     name="log", init=lambda key: jnp.ones(()), batch=lambda step: jnp.float32(1 - step), steps=3,
      ...     loss=lambda w, batch, key: w * jnp.log(batch), optimizer=optax.sgd(0.1))
      >>> try:
      ...     fb.train(experiment, directory=None, progress=False)
      ... except fb.NonFiniteLoss as error:
      ...     print(error.step)
      1
    """

    def __init__(self, facts: str, step: int, advice: str = ""):
        super().__init__(f"{facts} {advice}".rstrip())
        self.facts = facts
        self.step = step
        self.kept: Path | None = None
