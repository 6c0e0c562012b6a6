"""Text as bytes: no vocabulary to build, no tokenizer to install, 256 tokens in all.

Files are memory-mapped when a window falls into them, so a corpus may be larger than the memory.
"""

import bisect
import functools
import zlib
from collections.abc import Callable, Iterable
from itertools import accumulate
from pathlib import Path

import numpy as np

from fnbackprop.experiment import ExperimentError

from .permutations import epochs

END = 0  # the byte that stands after each file
VOCABULARY = 256


class ByteText:
    """Files one after another, each followed by a zero byte, as one long sequence of bytes.

    Args:
      files: the files, or one; in this order. Empty files are left out.

    Raises:
      ExperimentError: a file is not there, or there is no text at all.
    """

    def __init__(self, files: str | Path | Iterable[str | Path]):
        paths = [Path(file) for file in ([files] if isinstance(files, str | Path) else files)]
        for path in paths:
            if not path.is_file():
                raise ExperimentError(f"there is no text file {path}.")
        sizes = [(path, path.stat().st_size) for path in paths]
        self.files = [(path, size) for path, size in sizes if size]
        self._ends = list(accumulate(size + 1 for _, size in self.files))
        if not self.files:
            raise ExperimentError("there is no text: every file is empty, or none was given.")

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, start: int, count: int) -> np.ndarray:
        """The bytes from `start` on, uint8 of (count,)."""
        if not 0 <= start <= len(self) - count:
            raise IndexError(f"bytes {start} to {start + count} of a text of {len(self)}")
        parts, number = [], bisect.bisect_right(self._ends, start)
        while count:
            path, size = self.files[number]
            before = self._ends[number] - size - 1
            parts.append(_read(path, size, start - before, count))
            start, count, number = start + len(parts[-1]), count - len(parts[-1]), number + 1
        return np.concatenate(parts) if parts else np.zeros((0,), np.uint8)


def windows(text: ByteText, *, length: int, batch_size: int, seed: int = 0) -> Callable[[int], dict[str, np.ndarray]]:
    """The function `batch(step) -> {"inputs", "targets"}`, each int32 of (batch_size, length), targets one byte on.

    The windows start anywhere, in a random order that is a function of the seed, and none twice until all have been
    seen.

    Raises:
      ExperimentError: the text is shorter than a window, or has fewer of them than a batch.
    """
    chosen = epochs(_starts(text, length), batch_size, seed)
    return lambda step: _inputs_and_targets(text, chosen(step), length)


def evenly_spaced(text: ByteText, *, length: int, count: int) -> dict[str, np.ndarray]:
    """`count` windows spread over the text from its beginning to its end, as "inputs" and "targets": for evaluation."""
    starts = np.linspace(0, _starts(text, length) - 1, count).astype(np.int64)
    return _inputs_and_targets(text, starts, length)


def find_files(folder: str | Path, pattern: str = "*.txt", leave_out: Iterable[str] = ()) -> list[Path]:
    """The files below a folder that match the pattern, sorted, without those below a folder named in `leave_out`.

    Raises:
      ExperimentError: there is none.
    """
    folder, left_out = Path(folder), set(leave_out)
    found = [path for path in folder.rglob(pattern) if path.is_file()]
    found = [path for path in found if left_out.isdisjoint(path.relative_to(folder).parts)]
    if not found:
        raise ExperimentError(f"there is no file {pattern} below {folder}.")
    return sorted(found)


def split_files(files: Iterable[Path], held_out: float = 0.05, seed: int = 0) -> tuple[list[Path], list[Path]]:
    """(files to train with, files held out). A file's name alone decides, so a new file never moves the others.

    Raises:
      ExperimentError: one of the two would be empty.
    """
    files = list(files)
    chosen = [zlib.crc32(f"{seed}/{path.name}".encode()) < held_out * 2**32 for path in files]
    train, held = ([path for path, is_held in zip(files, chosen, strict=True) if is_held == side] for side in (0, 1))
    if not train or not held:
        raise ExperimentError(f"of {len(files)} files, {len(held)} would be held out: change held_out or the seed.")
    return train, held


def _starts(text: ByteText, length: int) -> int:
    """How many windows of `length` inputs, with a target for each, there are."""
    if len(text) <= length:
        raise ExperimentError(f"the text has {len(text)} bytes, but a window takes {length + 1}.")
    return len(text) - length


def _inputs_and_targets(text: ByteText, starts: np.ndarray, length: int) -> dict[str, np.ndarray]:
    rows = np.stack([text.read(int(start), length + 1) for start in starts]).astype(np.int32)  # (batch, length + 1)
    return {"inputs": rows[:, :-1], "targets": rows[:, 1:]}


def _read(path: Path, size: int, start: int, count: int) -> np.ndarray:
    """Up to `count` bytes of a file with its zero byte at the end."""
    found = _mapped(path, size)[start : start + count]
    return found if len(found) == count else np.append(found, np.uint8(END))


@functools.lru_cache(maxsize=64)  # each takes a file descriptor
def _mapped(path: Path, size: int) -> np.ndarray:
    found = path.stat().st_size
    if found != size:  # to read behind the end of a mapped file would kill the process
        raise ExperimentError(f"{path} had {size} bytes when the run began and now has {found}.")
    return np.memmap(path, np.uint8, mode="r")
