"""Files that somebody asked for by name: written, or an error that names the file and the reason."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class WriteError(OSError):
    """A file cannot be written; the message says which and why."""


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Around what writes the file: makes its folder before. Raises WriteError for an error of the operating system."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        why = "its folder is a file" if isinstance(error, FileExistsError) else error.strerror or error
        raise WriteError(f"{path} cannot be written: {why}.") from None
