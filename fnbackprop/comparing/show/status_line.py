"""One line on the terminal that says what a long measurement is doing."""

import sys
import time
from typing import Any

from rich.console import Console


class StatusLine:
    """A context manager that gives a function `say(text)`; without a terminal, or if not wanted, it says nothing.

    Args:
      wanted: None: if standard error is a terminal.
      doing: the first word of the line.
    """

    def __init__(self, wanted: bool | None, doing: str = "comparing"):
        self.doing = doing
        self.wanted = sys.stderr.isatty() if wanted is None else wanted
        self.started = time.perf_counter()
        self.status: Any = None

    def __enter__(self):
        if self.wanted:
            self.status = Console(stderr=True).status(self.doing)
            self.status.__enter__()
        return self.say

    def say(self, text: str) -> None:
        if self.status is not None:
            self.status.update(f"{self.doing}, {time.perf_counter() - self.started:.0f} s: {text}")

    def __exit__(self, *error: Any) -> None:
        if self.status is not None:
            self.status.__exit__(*error)
