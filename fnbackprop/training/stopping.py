"""Ctrl-C and SIGTERM during a run: the step ends, the state is saved, the run ends. A second Ctrl-C ends at once."""

import os
import signal
import sys
import threading
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils

DEFAULTS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Interrupted(KeyboardInterrupt):
    """The run was stopped by Ctrl-C, between two steps."""


class Terminated(SystemExit):
    """The run was stopped by SIGTERM, between two steps; the exit status is 143, as the shell has it."""

    def __init__(self):
        super().__init__(128 + signal.SIGTERM)


class Signals:
    """Receives the signals; a context manager around the loop, which checks for them between two steps.

    A signal that comes later, while the report is written, is raised at the end.

    Of several processes each gets the signal at another step; JAX's coordination service then names the step at which
    all of them stop. Handlers that the program has set itself are left alone.
    """

    def __init__(self):
        self._received: int | None = None
        self._many = jax.process_count() > 1
        in_main_thread = threading.current_thread() is threading.main_thread()
        wanted = DEFAULTS if in_main_thread and not self._many else {}
        self._ours = [number for number, default in wanted.items() if signal.getsignal(number) == default]
        for number in self._ours:
            signal.signal(number, self._receive)

    def __enter__(self) -> "Signals":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        for number in self._ours:
            signal.signal(number, DEFAULTS[number])
        if kind is None:
            self._raise()

    def raise_received(self, updates: int) -> None:
        """Raise Interrupted or Terminated if there was a signal; `updates` is the number of updates made."""
        self._raise()
        if self._many and multihost_utils.reached_preemption_sync_point(updates):
            raise Terminated

    def _raise(self) -> None:
        if self._received == signal.SIGINT:
            raise Interrupted
        if self._received == signal.SIGTERM:
            raise Terminated

    def _receive(self, number: int, frame: Any) -> None:
        if self._received == number == signal.SIGINT:
            _end_at_once()
        self._received = number
        again = " Ctrl-C again ends at once." if number == signal.SIGINT else ""
        os.write(2, f"\n{signal.Signals(number).name}: stopping after this step.{again}\n".encode())


def _end_at_once() -> NoReturn:
    """End without waiting for a checkpoint that is being written: one without a manifest does not count."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(sys, "ps1") or "ipykernel" in sys.modules:
        raise KeyboardInterrupt
    if os.isatty(1):
        os.write(1, b"\x1b[?25h")  # the progress line hides the cursor
    os.kill(os.getpid(), signal.SIGINT)
