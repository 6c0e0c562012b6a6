"""The other processes of a run: if one fails, is killed or stands still, all of them end, and say why.

Otherwise the rest would wait for it in a collective operation, where Python is not asked any more. So a thread in each
process tells the others each second that it lives, through JAX's coordination service, and looks at them.
"""

import atexit
import contextlib
import json
import os
import sys
import threading
import time
from typing import Any, NoReturn

import jax

from fnbackprop.jaxprs.compat import coordination_client

SECONDS_BETWEEN = 1.0  # two looks
SECONDS_WITHOUT_LIFE = 10.0
SECONDS_TO_FAIL_TOO = 4.0  # a process that has the same error is left to tell it itself
ENDED = 1  # the exit status
_GONE = "it was killed, or its machine was lost"
GO_ON = "The run goes on from its last checkpoint with resume=True, or --resume."


class Alone:
    """The one process of a run; a context manager that does nothing."""

    def __enter__(self) -> "Alone":
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def waits_for_batch(self, step: int) -> None:
        """This process waits for its part of the batch of this step."""

    def has_batch(self, step: int) -> None:
        """It has it."""


class Peers(Alone):
    """One of several processes, which looks at the others."""

    _runs = 0  # every process counts alike

    def __init__(self, client: Any, patience: float):
        Peers._runs += 1
        self._client, self._patience = client, patience
        self._prefix, self._own = f"fnbackprop/peers/{Peers._runs}/", str(jax.process_index())
        self._waits: int | None = None  # for the batch of this step
        self._beats, self._ended = 0, threading.Event()
        self._seen: dict[str, tuple[Any, float]] = {}  # of each process, what has last changed, and when
        self._thread = threading.Thread(target=self._work, name="peers", daemon=True)

    def __enter__(self) -> "Peers":
        atexit.unregister(_exit)
        self._tell_of_life()  # before the first step: a process that is killed in its first second must be missed too
        self._thread.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._ended.set()
        self._thread.join()
        said = "" if error is None else f"{type(error).__name__}: {error}"
        with contextlib.suppress(Exception):
            self._tell({"ended": said})
        if error is not None:
            self._say(f": {said}")
            self._wait_for_the_end()
            atexit.register(_exit)  # before JAX's own, which would wait for a process that is gone

    def waits_for_batch(self, step: int) -> None:
        self._waits = step

    def has_batch(self, step: int) -> None:
        self._waits = None

    def _tell_of_life(self) -> None:
        self._tell({"beat": self._beats, "waits": self._waits})

    def _tell(self, facts: dict[str, Any]) -> None:
        self._client.key_value_set(self._prefix + self._own, json.dumps(facts), allow_overwrite=True)

    def _told(self) -> dict[str, dict[str, Any]]:
        """What each process has last told."""
        found = self._client.key_value_dir_get(self._prefix)
        return {key.rpartition("/")[2]: json.loads(value) for key, value in sorted(found)}

    def _work(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN):
            self._beats += 1
            try:
                self._tell_of_life()
                found = self._told()
            except Exception as error:  # whatever the service raises when its process is gone
                self._end(_unreachable(error))
                continue
            problem = self._first_problem(found)
            if problem is not None:
                self._end(problem)

    def _wait_for_the_end(self) -> None:
        """After an error of this process: until the others have ended too, or one of them is found to be gone."""
        deadline = time.monotonic() + SECONDS_WITHOUT_LIFE + SECONDS_TO_FAIL_TOO
        living: dict[str, dict[str, Any]] = {}
        while time.monotonic() < deadline:
            try:
                told = self._told()
            except Exception as error:  # whatever the service raises when it has given a process up
                gone = next((process for process in living if process != self._own), None)
                problem = f"process {gone} is gone: {_GONE}" if gone else _unreachable(error)
            else:
                living = {process: facts for process, facts in told.items() if "ended" not in facts}
                found_by_others = (facts["found"] for facts in told.values() if facts.get("found"))
                problem = next(found_by_others, None) or self._first_problem(living)
            if problem is not None:
                self._say(f": {problem}. {GO_ON}")
            if problem is not None or not living:
                return
            time.sleep(SECONDS_BETWEEN)

    def _first_problem(self, told: dict[str, dict[str, Any]]) -> str | None:
        """What is wrong with the first of these processes that has a problem, or None."""
        return next(filter(None, (self._problem(*one) for one in told.items())), None)

    def _problem(self, process: str, facts: dict[str, Any]) -> str | None:
        """What is wrong with a process, or None."""
        if "ended" in facts:
            return f"process {process} failed: {facts['ended']}" if facts["ended"] and process != self._own else None
        if process != self._own and self._unchanged(f"{process} lives", facts["beat"]) > SECONDS_WITHOUT_LIFE:
            return f"process {process} is gone: {_GONE}"
        waits = self._unchanged(f"{process} waits", facts["waits"])
        if facts["waits"] is not None and waits > self._patience:
            return f"process {process} has been waiting for batch({facts['waits']}) for {waits:.0f} s: its data hang"
        return None

    def _unchanged(self, name: str, value: Any) -> float:
        """For how many seconds something has had this value."""
        now = time.monotonic()
        before = self._seen.get(name)
        if before is None or before[0] != value:
            self._seen[name] = before = (value, now)
        return now - before[1]

    def _end(self, problem: str) -> None:
        """End this process, whatever it waits for; unless it is about to fail by itself."""
        if self._ended.wait(SECONDS_TO_FAIL_TOO):
            return
        self._say(f" ends: {problem}. {GO_ON}")
        with contextlib.suppress(Exception):
            self._tell({"ended": "", "found": problem})  # another, whose collective operation breaks now, tells it too
        _exit()

    def _say(self, what: str) -> None:
        print(f"process {self._own} of {jax.process_count()}{what}", file=sys.stderr, flush=True)


def _unreachable(error: Exception) -> str:
    return f"process 0 can no longer be reached ({str(error).splitlines()[0]})"


def _exit() -> NoReturn:
    sys.stdout.flush()
    os._exit(ENDED)


def watched_peers(patience: float) -> Alone:
    """What looks at the other processes, if there are any; see this module's head."""
    client = coordination_client() if jax.process_count() > 1 else None
    return Alone() if client is None else Peers(client, patience)
