"""The versions of JAX that this package was tested with, and the warning on another one."""

import warnings

import jax

TESTED_JAX = ("0.10.2", "0.12")  # the first version and the last series: what `.ci/run first` and `later` install


class UntestedVersionWarning(UserWarning):
    """The JAX that is installed is newer than any that this version of fnbackprop was tested with.

    It is given once, when fnbackprop is imported. `fnbackprop doctor` shows whether gradients are right here.

    Example:
        >>> import warnings, fnbackprop as fb
        >>> warnings.filterwarnings("ignore", category=fb.UntestedVersionWarning)
    """


def is_tested(version: tuple[int, ...]) -> bool:
    """Whether a version of JAX belongs to no later series than the last that was tested."""
    last = tuple(map(int, TESTED_JAX[-1].split(".")))
    return version[: len(last)] <= last


def warn_of_untested_jax() -> None:
    """Warn if the JAX that is installed was not tested."""
    if not is_tested(jax.__version_info__):
        warnings.warn(
            f"JAX {jax.__version__} is newer than what this fnbackprop was tested with ({TESTED_JAX[0]} to "
            f"{TESTED_JAX[-1]}). To see whether gradients are right here: fnbackprop doctor",
            UntestedVersionWarning,
            stacklevel=2,
        )
