"""One line on the terminal that says what a long measurement is doing."""

import sys
import time
from typing import Any

from rich.console import Console

EVERY = 30.0  # seconds between lines where there is no terminal


class StatusLine:
    """A context manager that gives a function `say(text)`; if it is not wanted, that says nothing.

    Args:
      wanted: None: on a terminal all the time, else a line on standard error every half minute.
      doing: the first word of the line.
    """

    def __init__(self, wanted: bool | None, doing: str = "comparing"):
        self.doing = doing
        self.wanted = sys.stderr.isatty() if wanted is None else wanted
        self.in_lines = wanted is None and not self.wanted
        self.started = self.said_at = time.perf_counter()
        self.status: Any = None

    def __enter__(self):
        if self.wanted:
            self.status = Console(stderr=True).status(self.doing)
            self.status.__enter__()
        return self.say

    def say(self, text: str) -> None:
        now = time.perf_counter()
        line = f"{self.doing}, {now - self.started:.0f} s: {text}"
        if self.status is not None:
            self.status.update(line)
        elif self.in_lines and now - self.said_at >= EVERY:
            self.said_at = now
            print(line, file=sys.stderr, flush=True)

    def __exit__(self, *error: Any) -> None:
        if self.status is not None:
            self.status.__exit__(*error)
