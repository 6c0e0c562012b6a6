"""One run of a script: hand-written gradients in every thread from now on, and the table of the places at the end."""

import contextlib
import os
import sys
import time
import warnings
from typing import Any

import jax

from ..jaxprs.substitution import jax_gradients, substitute_everywhere
from .measuring import Measured, not_compared
from .places import Place, Places
from .table import text

COMPARING = 60.0  # seconds that comparing all places may take


class Session:
    """From when the script has imported JAX to when it has ended.

    Args:
      compare: whether the first call of each place is compared with `jax.grad`.
      options: keywords of `fb.vjp`.
    """

    def __init__(self, compare: bool, options: dict[str, Any]):
        self.compare, self.options = compare, options
        self.places = Places(options, compare, self._say)
        substitute_everywhere(f"fnbackprop run {sorted(options.items())}", self.places.vjp)

    def end(self, interrupted: bool) -> None:
        """Compare, unless the user does not want to wait, and write the table to standard error."""
        _flush(sys.stdout)
        places = list(self.places.found.values())
        started = time.perf_counter()
        measured = self._measure(places) if self.compare and not interrupted else {}
        seconds = time.perf_counter() - started
        self._say(text(places, measured, seconds, fuse=bool(self.options.get("fuse"))))

    def _measure(self, places: list[Place]) -> dict[str, Measured]:
        """What was measured, by the place's line. The user's function prints nothing meanwhile."""
        from .measuring import measure

        jax.effects_barrier()
        found: dict[str, Measured] = {}
        deadline = time.perf_counter() + COMPARING
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for number, place in enumerate(places):
                left = deadline - time.perf_counter()
                try:
                    with jax_gradients():
                        found[place.line] = measure(place, left / (len(places) - number), self.places.options_of(place))
                except KeyboardInterrupt:
                    return found | {p.line: not_compared("interrupted") for p in places[number:]}
        return found

    def _say(self, message: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # standard error may be closed
            print(f"fnbackprop run: {message}", file=sys.stderr, flush=True)


def _flush(stream: Any) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        stream.flush()
