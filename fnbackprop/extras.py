"""Packages that only a part of this one needs: what installs them, said in one sentence where they are missing."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

# By extra, as in `pyproject.toml`: the modules that its packages bring.
EXTRAS = {
    "train": ("optax", "orbax.checkpoint", "jinja2", "PIL", "safetensors", "flatbuffers"),
    "tensorboard": ("tensorboardX",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "aim": ("aim",),
    "examples": ("matplotlib", "sklearn", "flax", "equinox"),
}


class MissingExtra(ImportError):
    """A part of fnbackprop needs a package that is not installed; the message has the line that installs it.

    Raised where that part is first used: `fb.train` without the extra "train", for example. It is an `ImportError`,
    whose `name` is that of the module that is missing.

    Example:
        >>> import fnbackprop as fb
        >>> try:
        ...     from fnbackprop import train
        ... except fb.MissingExtra as error:
        ...     print(error)
    """


@contextmanager
def needed_for(purpose: str) -> Iterator[None]:
    """Around imports: raises MissingExtra for a module of an extra that is not installed. purpose: what needs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        for extra, modules in EXTRAS.items():
            for module in modules:
                if _package(module) == _package(error.name or ""):
                    raise _missing(purpose, module, extra) from None
        raise


def require(extra: str, purpose: str) -> None:
    """Raise MissingExtra if a module of the extra is not installed: before hours of work that end in an import."""
    missing = missing_modules(extra)
    if missing:
        raise _missing(purpose, missing[0], extra)


def missing_modules(extra: str) -> list[str]:
    """The modules of an extra that are not installed."""
    return [module for module in EXTRAS[extra] if not _is_installed(module)]


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its package is not
        return False


def _package(module: str) -> str:
    return module.partition(".")[0]


def _missing(purpose: str, module: str, extra: str) -> MissingExtra:
    sentence = f"{purpose} needs {module}, which is not installed: pip install 'fnbackprop[{extra}]'"
    return MissingExtra(sentence, name=module)
