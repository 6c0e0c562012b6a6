"""Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP during a run: the step ends, the state is saved, the run ends.

SIGUSR1 and SIGHUP are what a scheduler may send some time before it takes the machine away. A second Ctrl-C ends at
once.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils

ENDING = [signal.SIGTERM, *(getattr(signal, name) for name in ("SIGUSR1", "SIGHUP") if hasattr(signal, name))]
DEFAULTS = {signal.SIGINT: signal.default_int_handler, **dict.fromkeys(ENDING, signal.SIG_DFL)}


class Interrupted(KeyboardInterrupt):
    """The run was stopped by Ctrl-C, between two steps.

    Attributes:
      state: the one after the last step, or None: in a notebook, `sys.last_value.state`.
    """

    state: Any = None


class Terminated(SystemExit):
    """The run was stopped by another signal, between two steps; its exit status is the shell's: 143 for SIGTERM.

    Attributes:
      state: the one after the last step, or None.
    """

    state: Any = None

    def __init__(self, number: int = signal.SIGTERM):
        super().__init__(128 + number)


class Signals:
    """Receives the signals; a context manager around the loop, which checks for them between two steps.

    One that comes while the loop waits for a batch ends it at once, for the batch may never come. One that comes later,
    while the report is written, is raised at the end.

    Of several processes each gets the signal at another step; JAX's coordination service then names the step at which
    all of them stop. Handlers that the program has set itself are left alone.
    """

    def __init__(self):
        self._received: int | None = None
        self._state: Any = None  # the one after the last step, while a signal is raised at once
        self._waiting = False
        self._many = jax.process_count() > 1
        in_main_thread = threading.current_thread() is threading.main_thread()
        ours = {number: DEFAULTS[number] for number in ENDING if number != signal.SIGTERM} if self._many else DEFAULTS
        wanted = ours if in_main_thread else {}
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

    @contextlib.contextmanager
    def waiting(self, state: Any) -> Iterator[None]:
        """Within, a signal ends the run at once; the exception has the state after the last step."""
        self._waiting, self._state = not self._many, state
        try:
            if self._waiting:
                self._raise()
            yield
        finally:
            self._waiting, self._state = False, None

    def raise_received(self, updates: int, state: Any) -> None:
        """Raise Interrupted or Terminated, with this state, if there was a signal; `updates` were made before it."""
        self._state = state
        self._raise()
        if self._many and multihost_utils.reached_preemption_sync_point(updates):
            self._received = signal.SIGTERM
            self._raise()
        self._state = None

    def _raise(self) -> None:
        if self._received is None:
            return
        error = Interrupted() if self._received == signal.SIGINT else Terminated(self._received)
        error.state = self._state
        raise error

    def _receive(self, number: int, frame: Any) -> None:
        if self._received == number == signal.SIGINT:
            _end_at_once()
        if self._many:  # JAX's coordination service knows SIGTERM, and tells the others
            os.kill(os.getpid(), signal.SIGTERM)
            return
        self._received = number
        when = "" if self._waiting else " after this step"
        again = " Ctrl-C again ends at once." if number == signal.SIGINT else ""
        os.write(2, f"\n{signal.Signals(number).name}: stopping{when}.{again}\n".encode())
        if self._waiting:
            self._waiting = False
            self._raise()


def _end_at_once() -> NoReturn:
    """End without waiting for a checkpoint that is being written: one without a manifest does not count."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(sys, "ps1") or "ipykernel" in sys.modules:
        raise KeyboardInterrupt
    if os.isatty(1):
        os.write(1, b"\x1b[?25h")  # the progress line hides the cursor
    os.kill(os.getpid(), signal.SIGINT)
